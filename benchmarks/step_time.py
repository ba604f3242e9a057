"""The time of a training step of each algorithm over the same step in full precision (the paper's "time cost").

All networks are measured in one run, in turns: each repeat times a few steps of every network and takes the ratio to
full precision within that repeat, so that a busy machine slows both.

    python benchmarks/step_time.py [--architecture resnet20] [--compiled] [--device cuda]
"""

import argparse

import torch
from machine import machine

from bibench import binarize, registry
from bibench.recipes import SGD, Recipe
from bibench.training.step_time import TrainingStep, measure_steps, ratio

RECIPE = Recipe(optimizer=SGD(lr=1e-3), epochs=1, batch_size=1)
"""The batch size isn't used: the batch is given."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--architecture", default="resnet20")
    parser.add_argument("--size", type=int, default=32, help="side of the images")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="steps a measurement")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true", help="torch.compile every network, full precision too")
    parser.add_argument("--algorithms", nargs="*", default=registry.names("algorithms"))
    options = parser.parse_args()

    # The networks share their code, so to the compiler each is another specialisation of it.
    torch._dynamo.config.recompile_limit = 64
    device = torch.device(options.device)
    torch.manual_seed(0)
    shape = (3, options.size, options.size)
    example = torch.randn(options.batch_size, *shape, device=device)
    labels = torch.randint(10, (options.batch_size,), device=device)
    build = registry.get("architectures", options.architecture).build
    models = {"fp32": build(shape, 10)}
    for name in options.algorithms:
        models[name] = binarize(build(shape, 10), name, example=example[:2].cpu(), inplace=True)
    steps = {
        name: TrainingStep(
            model,
            task=registry.get("tasks", "cifar10"),  # for its loss, the cross-entropy
            batch=(example, labels),
            recipe=RECIPE,
            device=device,
            compiled=options.compiled,
        )
        for name, model in models.items()
    }
    how = "compiled (inductor)" if options.compiled else "eager"
    print(f"{options.architecture}, {shape}, batch {options.batch_size}, {how}; {machine(device.type)}", flush=True)
    times = measure_steps(steps, repeats=options.repeats, steps=options.steps, device=device)
    print(f"{'':10} {'ms a step':>10} {'over fp32':>10}   min..max over {options.repeats} repeats")
    for name, own in times.items():
        over = ratio(own, times["fp32"])  # the paper's ratio is the other way round
        print(
            f"{name:10} {1e3 * own.median:10.1f} {over.median / 100:10.2f}   "
            f"{over.lowest / 100:.2f}..{over.highest / 100:.2f}"
        )


if __name__ == "__main__":
    main()
