"""The time of a training step of each algorithm over the same step in full precision (the paper's "time cost").

All networks are measured in one run, in turns: each repeat times a few steps of every network and takes the ratio to
full precision within that repeat, so that a busy machine slows both.

    python benchmarks/step_time.py [--architecture resnet20] [--compiled] [--device cuda]
"""

import argparse
import statistics
import time

import torch
from machine import machine
from torch import nn

from bibench import binarize, registry
from bibench.nn import penalty


class Steps:
    """A network with its optimizer, ready to be timed."""

    def __init__(self, model: nn.Module, example: torch.Tensor, labels: torch.Tensor, compiled: bool) -> None:
        self.model = model.to(example.device)
        self.network = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.example, self.labels = example, labels

    def seconds(self, steps: int) -> float:
        """Mean time of a step."""
        start = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.network(self.example), self.labels)
            extra = penalty(self.model)
            (loss if extra is None else loss + extra).backward()
            self.optimizer.step()
        if self.example.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / steps


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
    networks = {"fp32": Steps(build(shape, 10), example, labels, options.compiled)}
    for name in options.algorithms:
        model = binarize(build(shape, 10), name, example=example[:2].cpu(), inplace=True)
        networks[name] = Steps(model.train(), example, labels, options.compiled)
    how = "compiled (inductor)" if options.compiled else "eager"
    print(f"{options.architecture}, {shape}, batch {options.batch_size}, {how}; {machine(device.type)}", flush=True)
    for network in networks.values():
        network.seconds(2)  # warm up, compile
    times = {name: [] for name in networks}
    for _ in range(options.repeats):
        for name, network in networks.items():
            times[name].append(network.seconds(options.steps))
    print(f"{'':10} {'ms a step':>10} {'over fp32':>10}   min..max over {options.repeats} repeats")
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times["fp32"], strict=True)]
        middle = statistics.median(ratios)
        print(f"{name:10} {1e3 * statistics.median(own):10.1f} {middle:10.2f}   {min(ratios):.2f}..{max(ratios):.2f}")


if __name__ == "__main__":
    main()
