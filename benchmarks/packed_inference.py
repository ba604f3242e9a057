"""How fast binarized networks run in the packed engine, beside other runtimes: single layers and a whole ResNet-18.

Everything is timed in one process on one thread (but for the comparison of threads), in turns: each round takes every
candidate once, and a ratio is taken within each round. Printed are the median over the rounds, the lowest time, and the
quartiles' distance over the median. ONNX Runtime and Larq Compute Engine (see `lce.py` here for what it needs) are left
out, and said to be, where they aren't installed.

    python benchmarks/packed_inference.py [--rounds 25] [--algorithms bireal reactnet] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lce
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from bibench import binarize, registry
from bibench.deploy.export import pack
from bibench.deploy.format import SLOTS, Code, Constant, Operation, PackedError, Place, Program, Type, Value
from bibench.deploy.latency import Latency, eager, measure, onnx_runtime, ratio
from bibench.deploy.lce import to_tflite
from bibench.deploy.packed import PackedModel
from bibench.native import instruction_sets, peak

LAYERS = ((56, 64), (28, 128), (14, 256), (7, 512))
"""Side and channels of ResNet-18's 3x3 layers with stride 1."""
CHAIN = 8
"""Layers in a row, for what one takes inside a network."""
SIZE = 224
CHECKED = 5
LEAST_SECONDS = 0.004
"""What a candidate's calls in a round last at least: the first of them finds the caches filled by another candidate."""
ALONE, INSIDE = "alone", "inside"
_ROUNDING = 1e-4
_SCALE = 0.05  # of the products: outputs in the range of the clamp
Call = Callable[[], object]
Calls = dict[str, Call]
Rows = list[dict[str, Any]]


# --------------------------------------------------------------------------------------------------------------- layers


def layer_program(negative: np.ndarray, size: int, repeats: int = 1, *, plain: bool = False, pad: int = 1) -> Program:
    """Binary 3x3 convolutions with their float input packed first.

    Args:
        negative: [O, 3, 3, C] with O = C, true where the weight is -1.
        size: side of the map.
        repeats: 1: scale and bias, float output. More: a chain of layers as in a network, each with bits from the layer
            before, scale, bias, residual and clamp, and with floats and bits out.
        plain: without scale and bias.
        pad: what lies outside of the input counts as.
    """
    channels = len(negative)
    words, count = -(-channels // 32), size * size * channels
    bits = (size + 2) ** 2 * words
    at = 0
    values = [Value(Place.INPUT, Type.FLOAT32, 0, count), Value(Place.OUTPUT, Type.FLOAT32, 0, count)]
    for kind, number in ((Type.BITS, bits), (Type.BITS, bits), (Type.FLOAT32, count), (Type.FLOAT32, count)):
        values.append(Value(Place.ARENA, kind, at, number))
        at += (values[-1].bytes + 63) // 64 * 64
    frame = [1, 1, size + 2, size + 2]
    scale = np.full(channels, _SCALE, np.float32)
    constants = [Constant.bits(negative)]
    if not plain:
        constants += [Constant.floats(scale), Constant.floats(0.1 * scale)]
    own = [0] if plain else [0, 1, 2]
    operations = [_operation(Code.PACK, [0, 2], [], [size, size, channels, 1, *frame])]
    geometry = [size, size, channels, 1, channels, 3, 3, 1, 1, 1, 1, 1, 1, size, size, *frame, pad, 0]
    if repeats == 1:
        operations.append(_operation(Code.BCONV, [2, -1, -1, 1], own, geometry))
    else:
        given, residual = 2, 0
        for number in range(repeats):
            floats = 1 if number == repeats - 1 else 4 + number % 2
            operations.append(
                _operation(
                    Code.BCONV, [given, residual, -1, floats, 5 - given], own, [*geometry, 1, *frame], [-1.0, 1.0]
                )
            )
            given, residual = 5 - given, floats
    return Program(tuple(values), tuple(constants), tuple(operations), at)


def _operation(
    code: Code, values: Sequence[int], constants: Sequence[int], params: Sequence[int], floats: Sequence[float] = ()
) -> Operation:
    def filled(given: Sequence[Any], slot: str, empty: Any) -> tuple[Any, ...]:
        return (*given, *([empty] * (SLOTS[slot] - len(given))))

    return Operation(
        code,
        filled(values, "values", -1),
        filled(constants, "constants", -1),
        filled(params, "params", 0),
        filled(floats, "floats", 0.0),
    )


def _one_pixel(program: Program, channels: int) -> Program:
    """A layer's program that puts out one pixel: LCE copies what it puts out, and a whole map's copy would count."""
    values = [replace(value, place=Place.ARENA) if value.place is Place.OUTPUT else value for value in program.values]
    sizes, strides = [1, 1, 1, 1, channels], [0, 0, 0, 0, 1]
    whole = next(index for index, value in enumerate(program.values) if value.place is Place.OUTPUT)
    copy = _operation(Code.COPY, [whole, len(values)], [], [*sizes, *strides, *[0] * 5, *sizes, *strides, 0, 0, 4])
    values.append(Value(Place.OUTPUT, Type.FLOAT32, 0, channels))
    return replace(program, values=tuple(values), operations=(*program.operations, copy))


def _in_lce(prepared: lce.Prepared) -> Callable[[Tensor], Tensor]:
    """LCE on images with their channels first."""
    return lambda x: torch.from_numpy(prepared.on(x.movedim(1, -1).numpy())()[0])


class Residuals(nn.Module):
    """Full-precision layers in a row as in a network, batch normalisation folded: ``x = relu(conv(x) + x)``."""

    def __init__(self, channels: int, repeats: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(repeats))

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        for layer in self.layers:
            x = F.relu(layer(x) + x)
        return x


def signs(negative: np.ndarray) -> Tensor:
    """-1 where true, else +1; from [..., H, W, C] to channels first."""
    return torch.from_numpy(np.where(negative, -1.0, 1.0).astype(np.float32)).movedim(-1, -3)


def check_layer(negative: np.ndarray, x: np.ndarray, size: int, isas: Iterable[str], with_lce: bool) -> None:
    """The sums of every engine and mode are PyTorch's, exactly; else an error."""
    padded = F.pad(signs(x < 0), (1, 1, 1, 1), value=1.0)
    expected = F.conv2d(padded, signs(negative)).movedim(1, -1).numpy()
    found = {isa: _engine(layer_program(negative, size, plain=True), isa)(x.reshape(1, -1)) for isa in isas}
    if with_lce:
        content = to_tflite(layer_program(negative, size, plain=True))
        found |= {f"LCE {mode}": lce.Prepared(content, mode).on(x.reshape(1, -1))()[0] for mode in lce.MODES}
    for name, sums in found.items():
        if not np.array_equal(sums.reshape(expected.shape), expected):
            raise SystemExit(f"{name}: a layer of {size}x{size}x{len(negative)} has other sums than PyTorch's")


def _engine(program: Program, isa: str) -> PackedModel:
    return PackedModel(program.to_bytes(), isa=isa)


def layer_candidates(size: int, channels: int, isas: Sequence[str], with_lce: bool) -> tuple[Calls, Calls]:
    """Calls that compute one layer, and a chain of them."""
    random = np.random.default_rng(channels)
    negative = random.random((channels, 3, 3, channels)) < 0.5
    x = random.standard_normal((1, size, size, channels)).astype(np.float32)
    check_layer(negative, x, size, isas, with_lce)
    calls: tuple[Calls, Calls] = ({}, {})
    for group, repeats in zip(calls, (1, CHAIN), strict=True):
        content = layer_program(negative, size, repeats)
        for isa in isas:
            group[f"packed, {isa}"] = _engine(content, isa).prepared(x.reshape(1, -1))
        torch.manual_seed(channels)
        model = (nn.Conv2d(channels, channels, 3, padding=1) if repeats == 1 else Residuals(channels, repeats)).eval()
        nchw = torch.from_numpy(x).movedim(-1, 1).contiguous()
        session = onnx_runtime(model, nchw)
        if session is not None:
            group["ONNX Runtime FP32"] = session
        group["PyTorch FP32"] = eager(model, nchw)
        last = _channels_last(model)
        group["PyTorch FP32, channels_last"] = eager(last, nchw.to(memory_format=torch.channels_last))
        if with_lce:
            file = to_tflite(_one_pixel(layer_program(negative, size, repeats), channels))
            group |= {f"LCE, {mode}": lce.Prepared(file, mode).on(x.reshape(1, -1)) for mode in lce.MODES}
    return calls


def _channels_last(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to(memory_format=torch.channels_last)


def layers(rounds: int, isas: Sequence[str], with_lce: bool, peaks: Mapping[str, Mapping[str, float]]) -> Rows:
    """Measure and print the layers."""
    print("\n## 3x3 layers of ResNet-18")
    print(
        "alone: float input packed, convolution, scale and bias, float output. In a network: bits in, scale, bias, "
        f"residual, clamp, floats and bits out; a chain of {CHAIN}, its time over {CHAIN} (full precision: residual "
        "and ReLU). Padding counts as +1 (LCE takes no 0 there). Sums checked against PyTorch's: equal. LCE's calls "
        "copy their input; its fastest mode is shown."
    )
    rows: Rows = []
    for size, channels in LAYERS:
        operations = 2 * size * size * channels * channels * 9
        groups = dict(zip((ALONE, INSIDE), layer_candidates(size, channels, isas, with_lce), strict=True))
        times = measure(
            {f"{where}: {name}": call for where, calls in groups.items() for name, call in calls.items()},
            rounds=rounds,
            least_seconds=LEAST_SECONDS,
        )
        print(f"\n{size}x{size}x{channels}: {operations / 1e9:.3f} G op\n{_HEADER} {'T op/s':>7} {'of limit':>8}")
        for where, number in ((ALONE, 1), (INSIDE, CHAIN)):
            own = {name: _over(times[f"{where}: {name}"], number) for name in groups[where]}
            reference = own.get("ONNX Runtime FP32")
            for name, time in _fastest_lce(own).items():
                row = _row(name, time, reference) | {
                    "layer": [size, size, channels],
                    "where": where,
                    "operations_a_second": operations / time.lowest,
                }
                isa = name.removeprefix("packed, ")
                if isa in peaks:
                    row["of_limit"] = row["operations_a_second"] / peaks[isa]["binary"]
                rows.append(row)
                share = f"{100 * row['of_limit']:6.0f} %" if "of_limit" in row else ""
                label = name if where == ALONE else f"  in a network: {name}"
                print(f"{_line(label, row)} {row['operations_a_second'] / 1e12:7.3f} {share:>8}".rstrip(), flush=True)
    print("\nT op/s and its share of the limit (operations on registers alone) are those of the lowest time.")
    return rows


def _over(time: Latency, number: int) -> Latency:
    return Latency(tuple(seconds / number for seconds in time.seconds), time.calls)


def _fastest_lce(times: Mapping[str, Latency]) -> dict[str, Latency]:
    """Without the slower modes of LCE."""
    modes = [name for name in times if name.startswith("LCE")]
    slower = set(modes) - {min(modes, key=lambda name: times[name].median, default="")}
    return {name: time for name, time in times.items() if name not in slower}


# ------------------------------------------------------------------------------------------------------------- networks


class SkipBlock(BasicBlock):  # type: ignore[misc]  # torchvision has no types
    """A block with a skip past each of its two convolutions, as in Bi-Real Net."""

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)) + skip)
        y: Tensor = self.relu(self.bn2(self.conv2(x)) + x)
        return y


def resnet18(block: type[BasicBlock]) -> nn.Module:
    """A ResNet-18 for ImageNet with random batch normalisations, in evaluation mode."""
    torch.manual_seed(0)
    model: nn.Module = ResNet(block, [2, 2, 2, 2])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                assert values is not None
                values.uniform_(low, high)
    model.eval()
    return model


def network(
    rounds: int, isas: Sequence[str], with_lce: bool, algorithms: Sequence[str], block: type[BasicBlock], int8: bool
) -> dict[str, Any]:
    """Measure and print ResNet-18."""
    x = image(1)
    full, plain = resnet18(block), resnet18(BasicBlock)
    binary = {name: binarize(full, name, example=x).eval() for name in algorithms}
    first = algorithms[0]
    files = {name: pack(model, x).to_bytes() for name, model in binary.items()}
    everything = binarize(full, first, example=x, shortcuts=True).eval()
    files["shortcuts"] = pack(everything, x).to_bytes()
    files["twin"] = pack(plain, x).to_bytes()
    best = isas[0]
    notes: dict[str, Any] = {}
    # First, since threads of other libraries in this process may be awake later on, and there are few cores.
    on_threads = threads(rounds, files, first, plain, x)

    calls: Calls = {}

    def packed(label: str, content: bytes, isa: str, model: nn.Module, *, exact: bool = True) -> None:
        loaded = PackedModel(content, isa=isa)
        notes[label] = differences(loaded, model, exact=exact)
        calls[label] = loaded.prepared(x)

    for isa in isas:
        packed(f"packed {first}, {isa}", files[first], isa, binary[first])
    packed(f"packed {first}, 1x1 shortcuts binary too, {best}", files["shortcuts"], best, everything)
    if int8:
        files["int8"] = pack(binary[first], x, int8_stem=True).to_bytes()
        # It isn't the same network: with random weights the small differences of its stem flip many signs behind it.
        packed(f"packed {first}, int8 stem, {best}", files["int8"], best, binary[first], exact=False)
    for name in algorithms[1:]:
        packed(f"packed {name}, {best}", files[name], best, binary[name])
    packed(f"packed full precision, {best}", files["twin"], best, plain)
    session = onnx_runtime(plain, x)
    if session is not None:
        calls["ONNX Runtime FP32"] = session
    calls["PyTorch FP32"] = eager(plain, x)
    calls["PyTorch FP32, channels_last"] = eager(_channels_last(plain), x.to(memory_format=torch.channels_last))
    for name in algorithms:
        calls[f"PyTorch {name}"] = eager(binary[name], x)
    if with_lce:
        padded = binarize(full, "bireal", example=x, padding_value=1).eval()
        file = to_tflite(pack(padded, x))
        for mode in lce.MODES:
            own = lce.Prepared(file, mode)
            notes[f"LCE bireal, {mode}"] = differences(_in_lce(own), padded)
            calls[f"LCE bireal, {mode}"] = own.on(x.movedim(1, -1).numpy())

    print(f"\n## ResNet-18, {SIZE}x{SIZE}, batch 1, random weights and batch normalisations")
    shape = "a skip past each binary convolution (Bi-Real Net)" if block is SkipBlock else "torchvision's blocks"
    print(
        f"binarized: {shape}, 1x1 shortcuts in full precision unless named; full precision: torchvision's resnet18. "
        "LCE pads with +1, the others with 0: the same work, checked against PyTorch's model that pads with +1."
    )
    times = measure(calls, rounds=rounds, least_seconds=LEAST_SECONDS)
    reference = times.get("ONNX Runtime FP32")
    print(f"{_HEADER}  differs")
    rows: Rows = []
    for name, time in times.items():
        row = _row(name, time, reference)
        difference = notes.get(name)
        if difference is not None:
            row["difference"] = difference
        rows.append(row)
        print(_line(name, row) + ("" if difference is None else "  {:.0e}..{:.0e}".format(*difference)))
    print(
        "\ndiffers: largest difference of an output from PyTorch's own model, over the largest output, lowest and "
        f"highest of {CHECKED} inputs. Where a value before a sign is 0 within rounding the sign may flip, and a "
        "random network's outputs move by percents; rounding alone is about 1e-6."
    )
    main = times[f"packed {first}, {best}"]
    others = {f"packed {name}, {best}" for name in algorithms} | {f"PyTorch {name}" for name in algorithms[1:]}
    print(
        f"\npacked {first}, {best}, is so many times as fast (median and quartiles of rounds; lowest time over lowest):"
    )
    against = {}
    for name, time in times.items():
        if name not in others:
            found = ratio(time, main)
            against[name] = [found.median, *found.quartiles, time.lowest / main.lowest]
            print("  {:50} {:7.2f} ({:.2f}..{:.2f}) {:7.2f}".format(name, *against[name]))

    sizes = {
        "safetensors FP32": len(safetensors.torch.save({k: v.contiguous() for k, v in plain.state_dict().items()})),
        "packed full precision": len(files["twin"]),
        **{f"packed {name}": len(files[name]) for name in algorithms},
        f"packed {first}, 1x1 shortcuts binary too": len(files["shortcuts"]),
        **({f"packed {first}, int8 stem": len(files["int8"])} if "int8" in files else {}),
        **({"LCE bireal (.tflite)": len(file)} if with_lce else {}),
    }
    memory = {label: PackedModel(files[key]).memory for label, key in ((f"packed {first}", first), ("twin", "twin"))}
    print("\nfile" + " " * 44 + "bytes  FP32 over it")
    for name, size in sizes.items():
        print(f"  {name:40} {size:12,} {sizes['safetensors FP32'] / size:8.2f}")
    print(
        f"memory that the engine holds at most: {memory[f'packed {first}']:,} bytes, its full-precision twin "
        f"{memory['twin']:,}"
    )
    return {
        "block": block.__name__,
        "times": rows,
        "against": against,
        "sizes": sizes,
        "memory": memory,
        "threads": on_threads,
        "operations": operations(files[first], best, x),
    }


def threads(rounds: int, files: Mapping[str, bytes], first: str, plain: nn.Module, x: Tensor) -> Rows:
    """Two threads over one, measured in turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ours: Calls = {f"packed {first}, threads: {n}": PackedModel(files[first], threads=n).prepared(x) for n in (1, 2)}
    # One library after the other: the threads of both go on spinning for a while, and would take each other's cores.
    times = measure(ours, rounds=rounds, least_seconds=LEAST_SECONDS)
    del ours
    sessions = {f"ONNX Runtime FP32, threads: {n}": onnx_runtime(plain, x, threads=n) for n in (1, 2)}
    theirs: Calls = {name: session for name, session in sessions.items() if session is not None}
    if theirs:
        times |= measure(theirs, rounds=rounds, least_seconds=LEAST_SECONDS)
    print(f"\n## Threads ({cores} cores)")
    print(f"{'':52} {'median ms':>10} {'lowest':>8} {'spread':>7}")
    rows: Rows = []
    for name, time in times.items():
        rows.append(_row(name, time, None))
        print(_line(name, rows[-1]))
    for name in times:
        if name.endswith("2"):
            found = ratio(times[name[:-1] + "1"], times[name])
            over = times[name[:-1] + "1"].lowest / times[name].lowest
            rows.append({"name": name, "speedup": [found.median, *found.quartiles, over]})
            print("  {}: {:.2f} times as fast as 1 ({:.2f}..{:.2f}); lowest {:.2f}".format(name, *rows[-1]["speedup"]))
    return rows


def operations(content: bytes, isa: str, x: Tensor) -> dict[str, float]:
    """Where the time goes, in seconds by kind of operation; prints it."""
    loaded = PackedModel(content, isa=isa)
    taken = np.median(loaded.profile(x, repeats=60), axis=0)
    program = Program.from_bytes(content)
    found: dict[str, float] = {}
    for number, (operation, seconds) in enumerate(zip(program.operations, taken, strict=True)):
        name = operation.code.name
        if name == "FCONV":
            first = all(other.code is not Code.FCONV for other in program.operations[:number])
            last = all(other.code is not Code.FCONV for other in program.operations[number + 1 :])
            name = "FCONV, stem" if first else "FCONV, head" if last else "FCONV, shortcuts"
        found[name] = found.get(name, 0.0) + float(seconds)
    whole = sum(found.values())
    print(f"\n## Where it goes ({isa}, medians of 60 profiled runs)")
    for name, seconds in sorted(found.items(), key=lambda entry: -entry[1]):
        print(f"  {name:24} {1e3 * seconds:8.3f} ms {100 * seconds / whole:5.1f} %")
    return found


def differences(call: Callable[[Tensor], Tensor], model: nn.Module, *, exact: bool = True) -> list[float]:
    """Largest difference from a model's outputs over the largest output, lowest and highest over `CHECKED` inputs."""
    found = []
    for seed in range(1, CHECKED + 1):
        x = image(seed)
        with torch.inference_mode():
            expected = model(x)
        found.append(float((call(x) - expected).abs().max() / expected.abs().max()))
    if exact and min(found) > _ROUNDING:
        raise SystemExit(f"the outputs differ from PyTorch's on every input, by {min(found):.1e} or more")
    return [min(found), max(found)]


def image(seed: int) -> Tensor:
    """A random input of the network."""
    return torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------------------------------- output

_HEADER = f"{'':52} {'median ms':>10} {'lowest':>8} {'spread':>7} {'x ORT':>7} {'quartiles':>13}"


def _row(name: str, time: Latency, reference: Latency | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "median": time.median, "lowest": time.lowest, "calls": time.calls}
    found["quartiles"] = list(time.quartiles)
    if reference is not None:
        over = ratio(reference, time)
        found["over_onnx_runtime"] = [over.median, *over.quartiles]
    return found


def _line(label: str, row: Mapping[str, Any]) -> str:
    low, high = row["quartiles"]
    spread = 100 * (high - low) / row["median"]
    line = f"{label:52} {1e3 * row['median']:10.4f} {1e3 * row['lowest']:8.4f} {spread:5.0f} %"
    if "over_onnx_runtime" in row:
        median, low, high = row["over_onnx_runtime"]
        line += f" {median:7.2f} {f'{low:.2f}..{high:.2f}':>13}"
    return line


def limits(isas: Sequence[str]) -> dict[str, dict[str, float]]:
    """What one core does at most; prints it."""
    found = {
        isa: {unit: max(peak(isa, unit, 0.1) for _ in range(3)) for unit in ("binary", "float", "int8", "copy")}
        for isa in isas
    }
    print("one core at most, measured (multiplication and addition are two operations):")
    for isa, units in found.items():
        print(
            f"  {isa:8} binary {units['binary'] / 1e12:6.3f} T op/s, float {units['float'] / 1e9:6.1f} G op/s, int8 "
            f"{units['int8'] / 1e9:7.1f} G op/s, copy of 64 MiB {units['copy'] / 1e9:5.1f} GB/s"
        )
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--parts", nargs="+", choices=("layers", "network"), default=("layers", "network"))
    parser.add_argument("--algorithms", nargs="+", choices=registry.names("algorithms"), default=["bireal"])
    parser.add_argument(
        "--blocks", choices=("skip", "plain"), default="skip", help="one skip past each convolution, or torchvision's"
    )
    parser.add_argument("--isas", nargs="+", choices=instruction_sets(), default=instruction_sets())
    parser.add_argument("--int8-stem", action="store_true", help="the network with an int8 stem too")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()

    warnings.filterwarnings("ignore", module="torch.onnx")
    torch.set_num_threads(1)
    lack = lce.lacks()
    packages = ("bibench", "torch", "numpy", "onnxruntime", "larq-compute-engine")
    versions = {name: found for name in packages if (found := _version(name)) is not None}
    print(f"machine: {machine()}; instruction sets of the engine: {', '.join(instruction_sets())}")
    print(", ".join(f"{name} {number}" for name, number in versions.items()) + f"; {options.rounds} rounds")
    if "onnxruntime" not in versions:
        print("ONNX Runtime isn't installed: its rows and the ratios to it are left out")
    if lack is not None:
        print(f"Larq Compute Engine is left out ({lack})")
    content: dict[str, Any] = {"machine": machine(), "versions": versions, "rounds": options.rounds, "lce": lack}
    content["limits"] = peaks = limits(options.isas)
    if "layers" in options.parts:
        content["layers"] = layers(options.rounds, options.isas, lack is None, peaks)
    if "network" in options.parts:
        block = SkipBlock if options.blocks == "skip" else BasicBlock
        try:
            content["network"] = network(
                options.rounds, options.isas, lack is None, options.algorithms, block, options.int8_stem
            )
        except PackedError as error:
            parser.exit(1, f"a network can't be packed: {error}\n")
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
