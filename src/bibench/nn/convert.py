"""``binarize()``: put binarized layers into any model; ``summary()``: say what was replaced, what was left, and why."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from torch import nn

from bibench.algorithms import Algorithm
from bibench.nn.layers import (
    BinarizeError,
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryLayer,
    BinaryLinear,
    BinaryMatmul,
    PaddingValue,
    resolve,
)
from bibench.nn.trace import Trace, is_pointwise, observe_inputs, trace

__all__ = [
    "BinarizeError",
    "Filter",
    "LayerSummary",
    "Summary",
    "binarize",
    "default_filter",
    "resolve",
    "summary",
]

Filter = Callable[[str, nn.Module], bool]
_M = TypeVar("_M", bound=nn.Module)

_BINARY: dict[type[nn.Module], Any] = {
    nn.Conv1d: BinaryConv1d,
    nn.Conv2d: BinaryConv2d,
    nn.Conv3d: BinaryConv3d,
    nn.Linear: BinaryLinear,
}
_RELUS = (nn.ReLU, nn.ReLU6)
_DECISIONS = "_bibench_decisions"
_NO_COUNTERPART = "no binarized counterpart"


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """What became of one layer.

    Args:
        name: the layer's name in the model.
        kind: its class.
        decision: ``"binarized"``, ``"full precision"``, or ``"replaced"`` (an activation function).
        reason: why.
        weights: number of weights, bias not counted.
        never_negative: on the example, no input value was below 0 although it is binarized by its sign.
        constant: on the example, the binarized input took a single value.
    """

    name: str
    kind: str
    decision: Literal["binarized", "full precision", "replaced"]
    reason: str
    weights: int = 0
    never_negative: bool = False
    constant: bool = False


@dataclass(frozen=True)
class Summary:
    """What `binarize` did with a model, layer by layer; readable when printed."""

    layers: tuple[LayerSummary, ...]

    def __iter__(self) -> Any:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def binarized(self) -> tuple[str, ...]:
        """Names of the binarized layers."""
        return tuple(layer.name for layer in self.layers if layer.decision == "binarized")

    @property
    def full_precision(self) -> tuple[str, ...]:
        """Names of the convolutions and linear layers left in full precision."""
        return tuple(
            layer.name
            for layer in self.layers
            if layer.decision == "full precision" and layer.reason != _NO_COUNTERPART
        )

    @property
    def never_negative(self) -> tuple[str, ...]:
        """Names of the binarized layers whose input was never negative on the example: every sign is +1 there."""
        return tuple(layer.name for layer in self.layers if layer.never_negative)

    @property
    def constant(self) -> tuple[str, ...]:
        """Names of the binarized layers whose binarized input took a single value on the example."""
        return tuple(layer.name for layer in self.layers if layer.constant)

    def __str__(self) -> str:
        rows = [("layer", "kind", "weights", "precision", "reason")]
        rows += [
            (
                layer.name or "(model)",
                layer.kind,
                f"{layer.weights:,}" if layer.weights else "",
                {"binarized": "1 bit", "full precision": "full", "replaced": ""}[layer.decision],
                layer.reason + _warning(layer),
            )
            for layer in self.layers
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    row[1].ljust(widths[1]),
                    row[2].rjust(widths[2]),
                    row[3].ljust(widths[3]),
                    row[4],
                ]
            )
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in (*widths, 40)))
        binary = sum(layer.weights for layer in self.layers if layer.decision == "binarized")
        total = sum(layer.weights for layer in self.layers)
        share = f" ({100 * binary / total:.1f} %)" if total else ""
        lines.append("")
        lines.append(
            f"{len(self.binarized)} of {len(self.binarized) + len(self.full_precision)} convolutions and linear layers "
            f"binarized: {binary:,} of {total:,} weights{share} are 1 bit."
        )
        if self.never_negative:
            lines.append(
                f"The input of {', '.join(self.never_negative)} was never negative on the example, for instance "
                "behind a functional ReLU, a sigmoid or a max-pool, or by chance on this example. A functional ReLU "
                "can't be swapped: replace it by torch.nn.Hardtanh in the model's code."
            )
        constant = [name or "(model)" for name in self.constant if name not in self.never_negative]
        if constant:
            lines.append(
                f"The binarized input of {', '.join(constant)} was constant on the example: the layer's output doesn't "
                "depend on its input there. Check that the input reaches both sides of the algorithm's threshold."
            )
        return "\n".join(lines)


def _warning(layer: LayerSummary) -> str:
    if layer.never_negative:
        return " [! input never negative: every sign is +1]"
    return " [! binarized input constant]" if layer.constant else ""


def binarize(
    model: _M,
    algorithm: str | Algorithm | Callable[..., Algorithm],
    *,
    filter: Filter | None = None,
    example: Any = None,
    inplace: bool = False,
    shortcuts: bool = False,
    heads: bool = False,
    padding_value: PaddingValue = 0,
) -> _M:
    """Binarize a model: its convolutions and linear layers compute with two-valued weights and activations.

    Without a ``filter``, the first and last convolution or linear layer and 1x1 projection shortcuts stay in full
    precision. "First" and "last" are in execution order on ``example``, for each input and each output; without an
    example, in registration order, and shortcuts are known by the names ``downsample`` and ``shortcut``. ReLU and ReLU6
    modules become Hardtanh (except for PACT) in the smallest part of the model that holds all binarized layers.
    A model may name parts that are no backbone, such as a detector's predictors, in an attribute ``head_names`` (of
    submodules); they stay as they are.
    A module with a method ``binarized_counterpart(algorithm)`` is replaced by the module that it returns.
    Latent weights are the model's own; every new parameter exists when this returns, so build the optimizer after it.

    Args:
        model: any module.
        algorithm: a name (see ``bibench list algorithms``), an `Algorithm`, or a function that returns one.
        filter: ``filter(name, layer)`` returns whether to binarize it; replaces the default choice. A layer that
            doesn't run on the example stays in full precision all the same.
        example: an input: a tensor, a sequence of positional arguments or a mapping of keyword arguments. The model
            runs on it in evaluation mode, without gradients. XNOR++ takes its sizes from it.
        inplace: change ``model`` itself and share its parameters, instead of a deep copy. A model that is itself one
            layer is returned as a new module that shares its parameters.
        shortcuts: binarize 1x1 projection shortcuts too, as the paper's complexity figures do.
        heads: binarize the parts that the model names as its heads too, by the same rules as the rest.
        padding_value: what binarized convolutions with zero padding pad their operand with, see `BinaryConv1d`.

    Returns:
        The binarized model. `summary` tells each layer's decision.

    Raises:
        BinarizeError: nothing to binarize, a layer that the algorithm can't take, or an unusable argument.
        AlgorithmError: ``algorithm`` isn't one.
        UnknownName: no algorithm of that name.

    >>> import torch, torchvision, bibench
    >>> model = torchvision.models.resnet18()
    >>> binary = bibench.binarize(model, "recu", example=torch.randn(1, 3, 64, 64))
    >>> len(bibench.summary(binary).binarized)
    16
    """
    if not isinstance(model, nn.Module):
        raise BinarizeError(f"the model is of type {type(model).__name__}, expected torch.nn.Module")
    if filter is not None and not callable(filter):
        raise BinarizeError(f"filter={filter!r}: expected a function of a layer's name and the layer")
    if padding_value not in (-1, 0, 1):
        raise BinarizeError(f"padding_value={padding_value!r}: expected -1, 0 or 1")
    chosen = resolve(algorithm)
    if not inplace:
        model = copy.deepcopy(model)
    candidates = _candidates(model)
    seen = trace(model, example, candidates) if example is not None else None
    decide = _decisions(model, candidates, seen, shortcuts=shortcuts, heads=heads)
    decisions: dict[str, LayerSummary] = {}
    for name, module in candidates.items():
        obstacle = _obstacle(model, name, module)
        if filter is not None and seen is not None and name not in seen.order:
            obstacle = obstacle or "not run on the example"
        if filter is None:
            reason = obstacle or decide.get(name)
        else:
            reason = obstacle or (None if filter(name, module) else "left out by the filter")
        decisions[name] = LayerSummary(
            name=name,
            kind=type(module).__name__,
            decision="full precision" if reason and not isinstance(module, BinaryLayer) else "binarized",
            reason=reason or (f"{chosen.title or chosen.name}" + ("" if filter is None else ", chosen by the filter")),
            weights=_weights(module),
        )
    names = [
        name
        for name, decision in decisions.items()
        if decision.decision == "binarized" and not isinstance(candidates[name], BinaryLayer)
    ]
    if not names:
        raise BinarizeError(_nothing(model, decisions.values()))

    # All layers are built before the first is put in, so that a refusal leaves the model as it was.
    sizes = seen.output_size if seen else {}
    new: dict[int, nn.Module] = {}
    for name in names:
        old = candidates[name]
        try:
            new[id(old)] = _convert(old, chosen, padding_value, sizes.get(name))
        except ValueError as error:
            raise BinarizeError(f"layer '{name}' ({type(old).__name__}): {error}") from error
    if chosen.relu == "hardtanh":
        prefix = _common_parent(names)
        for name, module in _modules(model).items():
            if type(module) not in _RELUS or (prefix and not name.startswith(prefix + ".")):
                continue
            if heads or not _head_of(model, name):
                new[id(module)] = nn.Hardtanh().train(module.training)
                decisions[name] = LayerSummary(
                    name=name,
                    kind=type(module).__name__,
                    decision="replaced",
                    reason="became Hardtanh, so that signs differ",
                )
    counterparts = _counterparts(model, chosen)
    for name, (module, counterpart) in counterparts.items():
        decisions[name] = LayerSummary(
            name=name,
            kind=type(module).__name__,
            decision="replaced",
            reason=f"became {type(counterpart).__name__}, its counterpart in a binarized network",
        )
    decisions |= {name: layer for name, layer in _others(model).items() if name not in decisions}
    before = dict(model.named_modules())
    model = _replace(model, new)
    for _, counterpart in counterparts.values():  # one may hold layers of the module that it replaces
        _replace(counterpart, new)
    new |= {id(module): counterpart for module, counterpart in counterparts.values()}
    model = _replace(model, new)
    if counterparts:
        decisions = _renamed(decisions, before, new, model)
    _disable_fast_paths(model)

    if example is not None:
        layers = {name: module for name, module in _modules(model).items() if isinstance(module, BinaryLayer)}
        never_negative, constant = observe_inputs(model, example, layers)
        for name, module in layers.items():
            signed = module.activation_rule.values == (-1, 1)
            decisions[name] = replace(
                decisions[name], never_negative=signed and name in never_negative, constant=name in constant
            )
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    # Not setattr, which torch.compile's wrapper hands on to the module inside, where the names are others.
    vars(model)[_DECISIONS] = tuple(sorted(decisions.values(), key=lambda layer: order[layer.name]))
    return model


def summary(model: nn.Module) -> Summary:
    """What was replaced in a model and what was left, with the reason of each; print it.

    A model that was never binarized has every layer in full precision. A model may also hold binarized ones or wrap
    one, as ``torch.compile`` does.

    >>> import torch.nn as nn, bibench
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> bibench.summary(bibench.binarize(net, "bnn")).binarized
    ('2',)
    """
    inside = {
        id(part)
        for module in model.modules()
        if _DECISIONS in vars(module)
        for part in module.modules()
        if part is not module
    }
    undecided = _others(model) | {
        name: LayerSummary(
            name=name,
            kind=type(module).__name__,
            decision="binarized" if isinstance(module, BinaryLayer) else "full precision",
            reason=module.algorithm if isinstance(module, BinaryLayer) else "not binarized",
            weights=_weights(module),
        )
        for name, module in _candidates(model).items()
    }
    layers: list[LayerSummary] = []
    for name, module in model.named_modules():
        if id(module) in inside:
            continue
        if _DECISIONS in vars(module):
            decided: tuple[LayerSummary, ...] = vars(module)[_DECISIONS]
            layers += [replace(layer, name=".".join(part for part in (name, layer.name) if part)) for layer in decided]
        elif name in undecided:
            layers.append(undecided[name])
    return Summary(tuple(layers))


def default_filter(model: nn.Module, example: Any = None, *, shortcuts: bool = False, heads: bool = False) -> Filter:
    """The choice that `binarize` makes by default, as a filter to build one's own on.

    >>> import torch.nn as nn, bibench
    >>> net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    >>> usual = bibench.default_filter(net)
    >>> binary = bibench.binarize(net, "bnn", filter=lambda name, layer: usual(name, layer) and name != "2")
    >>> bibench.summary(binary).binarized
    ('1',)
    """
    candidates = _candidates(model)
    seen = trace(model, example, candidates) if example is not None else None
    kept = _decisions(model, candidates, seen, shortcuts=shortcuts, heads=heads)
    return lambda name, layer: name in candidates and name not in kept


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """The model's modules by name, without those that are parts of a binarized layer, such as FDA's small networks."""
    inside = {
        id(part)
        for module in model.modules()
        if isinstance(module, (BinaryLayer, BinaryMatmul))
        for part in module.modules()
        if part is not module
    }
    return {name: module for name, module in model.named_modules() if id(module) not in inside}


def _candidates(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in _modules(model).items() if _kind(module)}


def _kind(module: nn.Module) -> type[nn.Module] | None:
    return next((kind for kind in _BINARY if isinstance(module, kind)), None)


def _weights(layer: nn.Module) -> int:
    weight: Any = layer.weight
    return 0 if isinstance(weight, nn.UninitializedParameter) else int(weight.numel())


def _others(model: nn.Module) -> dict[str, LayerSummary]:
    """Modules of other kinds that hold weights of two or more dimensions, such as embeddings and recurrent layers."""
    candidates = _candidates(model).values()
    inside = {id(part) for layer in candidates for part in layer.modules()}
    counted = {id(parameter) for layer in candidates for parameter in layer.parameters()}
    found: dict[str, LayerSummary] = {}
    for name, module in _modules(model).items():
        weights = [
            parameter
            for parameter in module.parameters(recurse=False)
            if not isinstance(parameter, nn.UninitializedParameter) and parameter.dim() >= 2
        ]
        if id(module) not in inside and weights:
            found[name] = LayerSummary(
                name=name,
                kind=type(module).__name__,
                decision="full precision",
                reason=_NO_COUNTERPART,
                weights=sum(weight.numel() for weight in weights if id(weight) not in counted),  # tied ones count once
            )
            counted.update(map(id, weights))
    return found


def _head_of(model: nn.Module, name: str) -> str:
    """The part among those that the model names as its heads which a module lies in; empty: none."""
    heads: Iterable[str] = getattr(model, "head_names", ())
    return next((head for head in heads if name == head or name.startswith(head + ".")), "")


def _decisions(
    model: nn.Module, candidates: dict[str, nn.Module], seen: Trace | None, *, shortcuts: bool, heads: bool
) -> dict[str, str]:
    """Why a layer stays in full precision by default; layers that are not in the result are binarized."""
    if seen is None:
        names = list(candidates)
        first, last = set(names[:1]), set(names[-1:])
        projections = {
            name
            for name, module in candidates.items()
            if is_pointwise(module) and {"downsample", "shortcut"} & set(name.split("."))
        }
        how = "in registration order"
    else:
        first, last, projections = set(seen.first), set(seen.last), set(seen.shortcuts)
        how = "on the example"
    reasons: dict[str, str] = {}
    for name in candidates:
        head = "" if heads else _head_of(model, name)
        if head:
            reasons[name] = f"in '{head}', one of the model's heads"
        elif name in first and name in last:
            reasons[name] = f"first and last layer {how}"
        elif name in first:
            reasons[name] = f"first layer {how}"
        elif name in last:
            reasons[name] = f"last layer {how}"
        elif name in projections and not shortcuts:
            reasons[name] = "1x1 projection shortcut"
        elif seen is not None and name not in seen.order:
            reasons[name] = "not run on the example"
    return reasons


def _obstacle(model: nn.Module, name: str, module: nn.Module) -> str | None:
    """Why a layer can't be replaced at all, or None."""
    if isinstance(module, BinaryLayer):
        return f"already binarized by {module.algorithm}"
    base: Any = _kind(module)
    if type(module) is not base and any(
        getattr(type(module), method, None) is not getattr(base, method, None)
        for method in ("forward", "_conv_forward")
    ):
        return f"a {base.__name__} with a forward of its own"
    if isinstance(module.weight, nn.UninitializedParameter):
        return "lazy: run the model once first"
    if hasattr(module, "parametrizations") or "weight" not in module._parameters:
        return "its weight is computed from other parameters (parametrized)"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return "has hooks, which a replacement would lose"
    parent = model.get_submodule(name.rpartition(".")[0]) if name else None
    if isinstance(parent, nn.MultiheadAttention):
        return "torch.nn.MultiheadAttention uses its weight without calling it"
    return None


def _convert(
    module: nn.Module, algorithm: Algorithm, padding_value: PaddingValue, output_size: tuple[int, ...] | None
) -> nn.Module:
    if isinstance(module, nn.Linear):
        return BinaryLinear.from_float(module, algorithm)
    cls: Any = _BINARY[_kind(module)]  # type: ignore[index]
    layer: nn.Module = cls.from_float(module, algorithm, padding_value=padding_value, output_size=output_size)
    return layer


def _counterparts(model: nn.Module, algorithm: Algorithm) -> dict[str, tuple[nn.Module, nn.Module]]:
    """The modules that say themselves what stands in their place in a binarized network, with their counterparts."""
    found: dict[str, tuple[nn.Module, nn.Module]] = {}
    for name, module in _modules(model).items():
        make = getattr(module, "binarized_counterpart", None)
        if not callable(make):
            continue
        try:
            found[name] = (module, make(algorithm).train(module.training))
        except ValueError as error:
            raise BinarizeError(f"module '{name}' ({type(module).__name__}): {error}") from error
    return found


def _renamed(
    decisions: dict[str, LayerSummary], before: dict[str, nn.Module], new: dict[int, nn.Module], model: nn.Module
) -> dict[str, LayerSummary]:
    """The decisions by the names that modules have now: a counterpart may hold layers under names of its own."""
    names = {id(module): name for name, module in model.named_modules()}
    found = {}
    for name, decision in decisions.items():
        now = names.get(id(new.get(id(before[name]), before[name])))
        if now is not None:  # else the counterpart has no use for it
            found[now] = replace(decision, name=now)
    return found


def _common_parent(names: list[str]) -> str:
    """Name of the smallest module that holds all of these layers; empty for the whole model."""
    parents = [name.split(".")[:-1] for name in names]
    common = parents[0]
    for parent in parents[1:]:
        same = 0
        while same < min(len(common), len(parent)) and common[same] == parent[same]:
            same += 1
        common = common[:same]
    return ".".join(common)


def _replace(model: _M, new: dict[int, nn.Module]) -> _M:
    """Put the new modules in, wherever the old ones are registered (one may be under several names)."""
    if id(model) in new:
        return new[id(model)]  # type: ignore[return-value]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in new:
                parent._modules[name] = new[id(child)]
    return model


def _disable_fast_paths(model: nn.Module) -> None:
    """Make torch's transformer encoder call its linear layers.

    At evaluation its fused path reads their weights directly, which would silently compute with the latent weights.
    """
    for module in model.modules():
        inside = any(isinstance(child, BinaryLayer) for child in module.modules())
        if isinstance(module, nn.TransformerEncoderLayer) and inside:
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder) and inside:
            module.use_nested_tensor = False


def _nothing(model: nn.Module, decisions: Iterable[LayerSummary]) -> str:
    layers = list(decisions)
    left = [f"  {layer.name or '(model)'} ({layer.kind}): {layer.reason}" for layer in layers]
    name = type(model).__name__
    if not left:
        return f"nothing to binarize in {name}: it has no torch.nn.Conv1d, Conv2d, Conv3d or Linear"
    shown = left[:10] + ([f"  and {len(left) - 10} more"] if len(left) > 10 else [])
    binarized = [layer.decision == "binarized" for layer in layers]
    if all(binarized):
        heading = f"nothing more to binarize in {name}: every layer is binarized already"
    elif any(binarized):
        heading = (
            f"nothing more to binarize in {name}: the other layers stay in full precision; choose some with filter="
        )
    else:
        heading = f"nothing to binarize in {name}: every layer stays in full precision; choose some with filter="
    return "\n".join([heading, *shown])
