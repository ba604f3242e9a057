"""Theoretical complexity: parameters and operations of a binarized model against its full-precision original.

Track "Theoretical Complexity" of BiBench (section 3.2, equation 7). Operations are multiply-accumulates of
convolutions, linear maps, matrix products and attention. Other operations of the full-precision part (normalisation,
activation functions, pooling, softmax) are not counted, as in the paper; nor are the signs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from torch import nn
from torch.nn.parameter import UninitializedParameter

from bibench.algorithms import Cost, LayerSpec, Rule
from bibench.algorithms.rules import choose
from bibench.nn.convert import summary
from bibench.nn.layers import BinarizeError, BinaryLayer, BinaryMatmul
from bibench.nn.operations import FLOAT_BYTES, Shape, Usage, count_operations

__all__ = ["Complexity", "LayerComplexity", "complexity"]

_FLOAT_BITS = 32
_INSTRUCTION_BITS = 64
_SHORTCUT = "1x1 projection shortcut"  # the reason that ``binarize`` gives


@dataclass(frozen=True, kw_only=True)
class LayerComplexity:
    """One layer; what "kept" means is told by `complexity`.

    Args:
        name: the layer's name in the model.
        kind: its class.
        binary: whether its product is counted as binary.
        parameters: of the full-precision original. Shared ones count in the first layer that has them.
        binary_weights: those that are stored as one bit.
        kept_parameters: stored in full precision, scaling factors and thresholds included.
        operations: multiply-accumulates of its products, over all its calls.
        binary_operations: those of two-valued operands.
        kept_operations: those of full-precision operands, and the operations of scales and thresholds.
        bit_operations: multiply-accumulates times bits of the weight times bits of the activation: 32·32 in full
            precision, 1·1 binary.
        memory_traffic: bytes, over all calls. Each product reads its operands once and writes its result once; a full-
            precision number has 4 bytes and a binary one 1/8. A binary layer writes full precision, and reads its
            bias, scaling factors and thresholds too.
    """

    name: str
    kind: str
    binary: bool
    parameters: int
    binary_weights: int
    kept_parameters: int
    operations: int
    binary_operations: int
    kept_operations: int
    bit_operations: int
    memory_traffic: int


@dataclass(frozen=True)
class Complexity:
    """Parameters and operations of a model, layer by layer and together; readable when printed.

    Args:
        layers: modules with parameters or products of their own, in registration order.
        counting: ``"model"`` or ``"paper"``, see `complexity`.
    """

    layers: tuple[LayerComplexity, ...]
    counting: Literal["model", "paper"] = "model"

    @property
    def parameters(self) -> int:
        """``|M|``: parameters of the full-precision original."""
        return self._total("parameters")

    @property
    def binary_weights(self) -> int:
        """Weights that are stored as one bit."""
        return self._total("binary_weights")

    @property
    def kept_parameters(self) -> int:
        """``|M̂|``: parameters that are stored in full precision, scaling factors and thresholds included."""
        return self._total("kept_parameters")

    @property
    def operations(self) -> int:
        """``FLOPs_M``: multiply-accumulates of the full-precision original on the example."""
        return self._total("operations")

    @property
    def binary_operations(self) -> int:
        """Multiply-accumulates of two-valued operands."""
        return self._total("binary_operations")

    @property
    def kept_operations(self) -> int:
        """``FLOPs_M̂``: operations that stay in full precision, those of scales and thresholds included."""
        return self._total("kept_operations")

    @property
    def bit_operations(self) -> int:
        """Multiply-accumulates times the bits of both operands."""
        return self._total("bit_operations")

    @property
    def memory_traffic(self) -> int:
        """Bytes read and written, see `LayerComplexity`."""
        return self._total("memory_traffic")

    @property
    def compression(self) -> float:
        """``r_c = |M| / ((|M| - |M̂|) / 32 + |M̂|)`` (BiBench, eq. 7); 1 for a model without parameters."""
        return _saving(self.parameters, self.kept_parameters, _FLOAT_BITS)

    @property
    def speedup(self) -> float:
        """``r_s = FLOPs_M / ((FLOPs_M - FLOPs_M̂) / 64 + FLOPs_M̂)`` (BiBench, eq. 7); 1 for a model without products."""
        return _saving(self.operations, self.kept_operations, _INSTRUCTION_BITS)

    def as_dict(self) -> dict[str, Any]:
        """Totals, ratios and layers as plain values, for JSON."""
        ratios: dict[str, Any] = {
            "counting": self.counting,
            "compression": self.compression,
            "speedup": self.speedup,
        }
        return ratios | {name: self._total(name) for name in _COUNTS} | {"layers": [asdict(row) for row in self.layers]}

    def _total(self, name: str) -> int:
        return sum(getattr(layer, name) for layer in self.layers)

    def __str__(self) -> str:
        columns = ("parameters", "kept_parameters", "operations", "kept_operations", "bit_operations", "memory_traffic")
        rows = [["layer", "kind", "bits", "parameters", "kept", "operations", "kept", "bit-operations", "bytes moved"]]
        rows += [
            [layer.name or "(model)", layer.kind, "1" if layer.binary else "32"]
            + [f"{getattr(layer, column):,}" for column in columns]
            for layer in self.layers
        ]
        rows.append(["total", "", "", *(f"{self._total(column):,}" for column in columns)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        rule = "  ".join("-" * width for width in widths)
        lines = [lines[0], rule, *lines[1:-1], rule, lines[-1], ""]
        how = {"model": "as the model is", "paper": "counted as in the paper"}[self.counting]
        lines.append(f"compression {self.compression:.2f}x, theoretical speedup {self.speedup:.2f}x ({how})")
        return "\n".join(lines)


_COUNTS = tuple(f.name for f in fields(LayerComplexity) if f.name not in ("name", "kind", "binary"))


def _saving(total: int, kept: int, unit: int) -> float:
    return total / ((total - kept) / unit + kept) if total else 1.0


def complexity(model: nn.Module, example: Any, *, counting: Literal["model", "paper"] = "model") -> Complexity:
    """Count the parameters and operations of a model on an example (BiBench, section 3.2, eq. 7).

    The model runs once, in evaluation mode and without gradients, and is left as it was. Give an example of one sample:
    operations are those of the whole example. Model and example may be on the ``meta`` device, which computes nothing.

    Two ways to count what is kept in full precision beside the layers that aren't binarized:

    - ``"model"``: what the model has. Scaling factors, thresholds and activation re-scaling count wherever the
      algorithm has them, as their parameters and as operations on every element (`bibench.algorithms.Rule.cost`); what
      acts in training only doesn't.
    - ``"paper"``: what gives the published figures. 1x1 projection shortcuts count as binarized, even where `binarize`
      left them in full precision by default; an algorithm with a scale keeps one parameter per output channel and one
      operation per element of the output; thresholds and activation re-scaling aren't counted.

    In both, biases of binarized layers are kept. Products inside a module, as of attention, count in that module.

    Args:
        model: as `binarize` returns it; one in full precision has both ratios 1.
        example: a tensor, a sequence of positional arguments or a mapping of keyword arguments.
        counting: ``"model"`` or ``"paper"``.

    Raises:
        BinarizeError: not a module, a parameter that isn't initialised, or an example that doesn't fit.
        ValueError: another ``counting``.

    >>> import torch, bibench
    >>> net = nn.Sequential(nn.Linear(64, 64), nn.Hardtanh(), nn.Linear(64, 64), nn.Linear(64, 10))
    >>> found = complexity(bibench.binarize(net, "bnn"), torch.randn(1, 64))
    >>> found.parameters, found.kept_parameters, found.operations, found.kept_operations
    (8970, 4874, 8832, 4736)
    >>> round(found.compression, 2), round(found.speedup, 2)
    (1.79, 1.84)
    """
    choose("counting", counting, ("model", "paper"))
    if not isinstance(model, nn.Module):
        raise BinarizeError(f"the model is of type {type(model).__name__}, expected torch.nn.Module")
    model = getattr(model, "_orig_mod", model)  # inside the wrapper of torch.compile
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise BinarizeError(f"parameter '{name}' is not initialised (lazy): run the model once first")
    return _Count(model, count_operations(model, example), counting).result()


class _Count:
    """What the pass showed, and what has been counted so far."""

    def __init__(self, model: nn.Module, usage: dict[nn.Module, Usage], counting: Literal["model", "paper"]) -> None:
        self.counting = counting
        self.usage = usage
        self.modules = dict(model.named_modules())
        layers = [module for module in self.modules.values() if isinstance(module, (BinaryLayer, BinaryMatmul))]
        parts = [part for layer in layers for child in layer.children() for part in child.modules()]
        self.inside = {id(part) for part in parts}
        self.shortcuts: set[str] = set()
        if counting == "paper":
            self.shortcuts = {layer.name for layer in summary(model) if layer.reason == _SHORTCUT}
        self.scaled = any(isinstance(layer, BinaryLayer) and layer.scale is not None for layer in layers)
        self.seen: set[int] = set()
        self.seen_parts: set[int] = set()
        # A binarized weight that another module uses in full precision, such as a tied embedding's, is stored so.
        self.floats = {
            id(parameter)
            for name, module in self.modules.items()
            if not self._is_binary(name)
            for parameter in module.parameters(recurse=False)
        }

    def _is_binary(self, name: str) -> bool:
        return isinstance(self.modules[name], (BinaryLayer, BinaryMatmul)) or name in self.shortcuts

    def result(self) -> Complexity:
        rows = [self._row(name, module) for name, module in self.modules.items() if id(module) not in self.inside]
        return Complexity(
            tuple(row for row in rows if row.parameters or row.kept_parameters or row.operations), self.counting
        )

    def _row(self, name: str, module: nn.Module) -> LayerComplexity:
        own = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in self.seen]
        self.seen.update(map(id, own))
        usage, binary = self.usage.get(module, Usage()), self._is_binary(name)
        weight: Any = getattr(module, "weight", None)
        stored_as_bits = binary and id(weight) not in self.floats and any(parameter is weight for parameter in own)
        weights = int(weight.numel()) if stored_as_bits else 0
        extra = self._extra(module, usage) if binary else Cost()
        parameters = sum(parameter.numel() for parameter in own)
        bits = 1 if binary else _FLOAT_BITS
        return LayerComplexity(
            name=name,
            kind=type(module).__name__,
            binary=binary,
            parameters=parameters,
            binary_weights=weights,
            kept_parameters=parameters - weights + extra.parameters,
            operations=usage.operations,
            binary_operations=usage.operations if binary else 0,
            kept_operations=extra.operations + (0 if binary else usage.operations),
            bit_operations=usage.operations * bits * bits,
            memory_traffic=_binary_traffic(module, usage, extra) if binary else usage.traffic,
        )

    def _extra(self, module: nn.Module, usage: Usage) -> Cost:
        """What a binary layer keeps beside its bits and its bias: parameters once, operations of all calls."""
        if self.counting == "paper":
            scaled = module.scale is not None if isinstance(module, BinaryLayer) else self.scaled
            if isinstance(module, BinaryMatmul) or not scaled:
                return Cost()
            weight: Any = module.weight
            return Cost(weight.shape[0], sum(math.prod(output) for _, output in usage.calls))
        if isinstance(module, BinaryMatmul):
            left = self._part(module.left_rule, None, usage, 0)
            right = self._part(module.right_rule, None, usage, 1)
            return left + right
        assert isinstance(module, BinaryLayer)
        activation = self._part(module.activation_rule, module.spec, usage, 0)
        return activation if module.scale is None else activation + self._part(module.scale, module.spec, usage, 0)

    def _part(self, part: nn.Module, layer: LayerSpec | None, usage: Usage, operand: int) -> Cost:
        """The cost of a rule or scale that gets a layer's input number ``operand``."""
        total = Cost()
        for inputs, output in usage.calls or [_NO_CALL]:  # what doesn't run on the example is stored all the same
            shape = inputs[operand]
            spec = layer or LayerSpec(dims=0, in_features=shape[-1], out_features=shape[-1])
            cost = _cost(part, spec, shape, output)
            first = id(part) not in self.seen_parts
            self.seen_parts.add(id(part))
            total += Cost(cost.parameters if first else 0, cost.operations)
        if getattr(type(part), "cost", Rule.cost) is Rule.cost:
            # It doesn't say what it costs: the products that it runs at inference are counted as they are.
            total += Cost(0, sum(self.usage.get(inner, Usage()).operations for inner in part.modules()))
        return total


_NO_CALL: tuple[tuple[Shape, ...], Shape] = (((0,), (0,)), (0,))


def _cost(part: nn.Module, layer: LayerSpec, input_shape: Shape, output_shape: Shape) -> Cost:
    declared = getattr(part, "cost", None)
    if declared is None:
        return Cost(sum(parameter.numel() for parameter in part.parameters()), math.prod(output_shape))
    cost: Cost = declared(layer, input_shape, output_shape)
    return cost


def _binary_traffic(module: nn.Module, usage: Usage, extra: Cost) -> int:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    stored = _bytes_of_bits(weight.numel()) if weight is not None else 0
    stored += FLOAT_BYTES * (extra.parameters + (bias.numel() if bias is not None else 0))
    return sum(
        stored + sum(_bytes_of_bits(math.prod(shape)) for shape in inputs) + FLOAT_BYTES * math.prod(output)
        for inputs, output in usage.calls
    )


def _bytes_of_bits(count: int) -> int:
    return (count + 7) // 8
