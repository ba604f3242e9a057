"""How far a packed program and its model agree: bit by bit in front of every binary layer, and at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bibench.deploy.capture import inside
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError, Program, Type, words
from bibench.native import Engine
from bibench.nn.layers import BinaryLayer, BinaryMatmul
from bibench.nn.operations import _countable
from bibench.nn.trace import _call, _quiet_evaluation

__all__ = ["Comparison", "LayerComparison", "compare", "compare_layer", "in_torch"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LayerComparison:
    """One packed operand, over all samples.

    Args:
        name: the layer; of a product of two activations with ``".left"`` or ``".right"``.
        bits: how many were compared.
        differing: of them, how many differ from the model's.
        margin: among those, the largest distance of the model's value from the threshold.
    """

    name: str
    bits: int
    differing: int
    margin: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; readable when printed.

    Args:
        samples: how many were run.
        layers: each binary layer's operands, in the order in which they run.
        difference: largest absolute difference of an output.
        largest: largest absolute output of the model.
        same_top1: on how many samples the largest number of the first output is at the same place.
    """

    samples: int
    layers: tuple[LayerComparison, ...]
    difference: float
    largest: float
    same_top1: int

    @property
    def differing(self) -> int:
        """Differing bits of all layers."""
        return sum(layer.differing for layer in self.layers)

    def __str__(self) -> str:
        rows = [f"{'layer':40} {'bits':>12} {'differing':>10} {'margin':>10}"]
        rows += [f"{at.name:40} {at.bits:>12,} {at.differing:>10,} {at.margin:>10.3g}" for at in self.layers]
        rows.append(f"outputs differ by at most {self.difference:.3g} of {self.largest:.3g}")
        rows.append(f"the same top-1 on {self.same_top1} of {self.samples} samples")
        return "\n".join(rows)


def compare(
    model: nn.Module,
    program: Program | str | Path,
    x: Any,
    *,
    engine: Callable[[bytes], Any] = Engine,
) -> Comparison:
    """Run a model and a packed program on the same samples, and compare.

    Each layer's packed bits are compared with what the layer's own rule makes of the tensor that the layer gets in
    PyTorch. So a difference in one layer shows again, as changed inputs, in those behind it.

    Args:
        model: the model that was exported.
        program: its program, or the file.
        x: a batch, as the example of `export`.
        engine: what runs the file's bytes; it has the methods ``observe`` and ``value`` of `Engine`.

    Raises:
        PackedError: the program isn't this model's.
        NativeError: the engine isn't there.
    """
    loaded = program if isinstance(program, Program) else Program.read(Path(program))
    runner = engine(loaded.to_bytes())
    x = dict(x) if isinstance(x, Mapping) else x
    samples = max((leaf.shape[0] for leaf in tree_leaves(x) if isinstance(leaf, Tensor)), default=0)
    if not samples:
        raise PackedError("the batch to compare on holds no samples; give what the model takes")
    layers: dict[tuple[str, int, str], list[float]] = {}
    difference, largest, same = 0.0, 0.0, 0
    for i in range(samples):
        sample = tree_map(lambda leaf, i=i: leaf[i : i + 1].detach() if isinstance(leaf, Tensor) else leaf, x)
        expected, operands = in_torch(model, sample)
        outputs, packed = _in_engine(runner, loaded, sample)
        if operands.keys() != packed.keys():
            raise PackedError(
                f"the program has the binary operands {sorted(packed)[:4]}..., the model {sorted(operands)[:4]}...: it "
                "was exported from another model; export this one"
            )
        for key, bits in packed.items():
            _count(layers.setdefault(key, [0, 0, 0.0]), bits, *operands[key])
        if [y.size for y in expected] != [y.size for y in outputs]:
            raise PackedError(
                f"the program's outputs have {[y.size for y in outputs]} numbers, the model's "
                f"{[y.size for y in expected]}: it was exported from another model; export this one"
            )
        for want, got in zip(expected, outputs, strict=True):
            difference = max(difference, float(np.abs(want - got).max()))
            largest = max(largest, float(np.abs(want).max()))
        same += int(expected[0].argmax() == outputs[0].argmax())
    return Comparison(
        samples=samples,
        layers=tuple(
            LayerComparison(name if operand == "input" else f"{name}.{operand}", int(bits), int(differing), margin)
            for (name, _, operand), (bits, differing, margin) in layers.items()
        ),
        difference=difference,
        largest=largest,
        same_top1=same,
    )


def compare_layer(
    layer: BinaryLayer | BinaryMatmul, *inputs: Tensor, engine: Callable[[bytes], Any] = Engine
) -> Comparison:
    """Export one layer alone and compare it on its own inputs, so that nothing before it can make them differ.

    Args:
        layer: a binarized layer, or a product of two activations.
        inputs: what it is called with, batch first.
        engine: as in `compare`.
    """
    return compare(layer, pack(layer, inputs), inputs, engine=engine)


@dataclass(frozen=True)
class _Packed:
    bits: Array
    layer: dict[str, Any]

    def arranged(self, x: Array) -> Array:
        """What the layer gets in PyTorch, one number a bit."""
        shape, axes = self.layer["shape"], self.layer["axes"]
        channels = self.bits.shape[1]
        if self.layer["operand"] != "input":  # of a product of activations, repeated over what it is broadcast to
            x = np.broadcast_to(x, shape)
        moved: Array = x.reshape(shape).transpose(axes).repeat(self.layer["repeat"], -1)
        return moved.reshape(-1, channels)


def _count(found: list[float], packed: _Packed, x: Array, lower: Array, threshold: Array) -> None:
    differing = packed.bits != packed.arranged(lower)
    found[0] += packed.bits.size
    found[1] += int(differing.sum())
    if differing.any():
        distance = np.abs(packed.arranged(x) - packed.arranged(threshold))
        found[2] = max(found[2], float(distance[differing].max()))


_Operand = tuple[Array, Array, Array]


def in_torch(model: nn.Module, sample: Any) -> tuple[list[Array], dict[tuple[str, int, str], _Operand]]:
    """Outputs, and of each binary operand the values, whether they are the lower ones, and the thresholds."""
    found: dict[tuple[str, int, str], _Operand] = {}
    calls: dict[str, int] = {}
    model = inside(model)
    hooks = []
    for name, module in model.named_modules():
        if not isinstance(module, (BinaryLayer, BinaryMatmul)):
            continue

        def look(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
            call = calls.get(name, 0)
            calls[name] = call + 1
            given = [*args, *kwargs.values()]
            sides = (
                [("input", module.activation_rule, given[0])]
                if isinstance(module, BinaryLayer)
                else [("left", module.left_rule, given[0]), ("right", module.right_rule, given[1])]
            )
            for side, rule, x in sides:
                declared = rule.deployed_threshold()
                limit = torch.zeros(()) if declared is None else declared.value.detach()
                per_channel = module.spec.per_channel if isinstance(module, BinaryLayer) else (-1,)
                limit = limit.reshape(per_channel if limit.numel() > 1 else ()).expand_as(x)
                found[name, call, side] = tuple(
                    part.detach().cpu().numpy().copy() for part in (x, rule(x) == rule.values[0], limit)
                )

        hooks.append(module.register_forward_pre_hook(look, with_kwargs=True))
    try:
        with _quiet_evaluation(model), _countable():
            output = _call(model, tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, sample))
    finally:
        for hook in hooks:
            hook.remove()
    outputs = [leaf.detach().cpu().numpy().reshape(-1) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return outputs, found


def _in_engine(runner: Any, program: Program, sample: Any) -> tuple[list[Array], dict[tuple[str, int, str], _Packed]]:
    """Outputs, and the packed bits of each binary operand with what says how they are laid out."""
    found: dict[tuple[str, int, str], _Packed] = {}
    read: dict[int, list[dict[str, Any]]] = {}
    for layer in program.metadata["layers"]:
        read.setdefault(layer["operation"], []).append(layer)

    def after(operation: int) -> None:
        for layer in read.get(operation, []):
            content = runner.value(layer["value"], program.values[layer["value"]].count, int(Type.BITS))
            found[layer["name"], layer["call"], layer["operand"]] = _Packed(unpacked(content, *layer["map"]), layer)

    arrays = [leaf.detach().cpu().contiguous().numpy() for leaf in tree_leaves(sample) if isinstance(leaf, Tensor)]
    outputs = runner.observe(arrays, after)
    return [np.asarray(output).reshape(-1) for output in outputs], found


def unpacked(
    content: Array, height: int, width: int, channels: int, groups: int, top: int, left: int, high: int, wide: int
) -> Array:
    """The set bits ``[height · width][channels]`` of a packed, padded map.

    >>> unpacked(np.array([0, 5], np.uint32), 1, 1, 3, 1, 0, 1, 1, 2)
    array([[ True, False,  True]])
    """
    number = words(channels, groups)
    bits = np.unpackbits(np.ascontiguousarray(content[: high * wide * number], "<u4").view(np.uint8), bitorder="little")
    pixels = bits.reshape(high, wide, number * 32)[top : top + height, left : left + width]
    each = channels // groups
    if each % 32 == 0 or each == 1:
        kept = pixels[:, :, :channels]
    else:
        kept = pixels.reshape(height, width, groups, -1)[:, :, :, :each]
    return kept.reshape(height * width, channels).astype(bool)
