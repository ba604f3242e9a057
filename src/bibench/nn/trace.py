"""One forward pass on an example input, watched: which layer runs after which, and what is added to what.

The roles that decide a layer's precision (first, last, projection shortcut) are properties of the data flow. They
are read off the operations that run, so functional code, reused modules and any container are seen as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bibench.nn.layers import BinarizeError, BinaryLayer

__all__ = ["Trace", "is_pointwise", "observe_inputs", "trace"]


def is_pointwise(module: nn.Module) -> bool:
    """Whether a module is a convolution with a kernel of size 1 in every dimension."""
    return isinstance(module, nn.modules.conv._ConvNd) and all(size == 1 for size in module.kernel_size)


@dataclass(frozen=True)
class Trace:
    """What the pass showed, by layer name.

    Args:
        order: layers in the order of their first call.
        first: the first layer on the path of some input.
        last: the last layer on the path to some output.
        shortcuts: pointwise convolutions whose output is added to the output of a path that starts where theirs does.
        output_size: largest spatial size of a convolution's output.
    """

    order: tuple[str, ...]
    first: frozenset[str]
    last: frozenset[str]
    shortcuts: frozenset[str]
    output_size: Mapping[str, tuple[int, ...]]


@dataclass
class _Origin:
    """Where a tensor's storage comes from: the nearest layers and inputs, and all of them."""

    nearest: frozenset[str] = frozenset()
    all: frozenset[str] = frozenset()

    def __or__(self, other: _Origin) -> _Origin:
        return _Origin(self.nearest | other.nearest, self.all | other.all)


@dataclass
class _Recorder(TorchDispatchMode):
    names: dict[int, str]
    pointwise: set[str]
    origins: dict[int, _Origin] = field(default_factory=dict)
    keep: list[Tensor] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    starts: list[str] = field(default_factory=list)
    before: dict[str, _Origin] = field(default_factory=dict)
    shortcuts: set[str] = field(default_factory=set)
    output_size: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def origin(self, values: Any) -> _Origin:
        found = _Origin()
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                found = found | self.origins.get(leaf.untyped_storage()._cdata, _Origin())
        return found

    def mark(self, values: Any, origin: _Origin) -> None:
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                self.origins[leaf.untyped_storage()._cdata] = origin
                self.keep.append(leaf)  # a freed storage's address would be given to another tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        origin = self.origin((args, kwargs))
        if func.overloadpacket in (torch.ops.aten.add, torch.ops.aten.add_) and len(args) > 1:
            self._added(self.origin(args[0]), self.origin(args[1]))
        result = func(*args, **(kwargs or {}))
        self.mark(result, origin)
        return result

    def _added(self, one: _Origin, other: _Origin) -> None:
        for side, main in ((one, other), (other, one)):
            if len(side.nearest) != 1:
                continue
            (name,) = side.nearest
            if name not in self.pointwise:
                continue
            start = self.before[name]
            # The main path begins where the shortcut does, and passes through layers of its own, not through it.
            if name not in main.all and start.nearest <= main.all and main.all - start.all:
                self.shortcuts.add(name)

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        name, origin = self.names[id(module)], self.origin((args, kwargs))
        if name not in self.before:
            self.order.append(name)
            if not origin.all & self.before.keys():
                self.starts.append(name)
        self.before[name] = self.before.get(name, _Origin()) | origin

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        name = self.names[id(module)]
        self.mark(output, _Origin(frozenset({name}), self.before[name].all | {name}))
        if isinstance(module, nn.modules.conv._ConvNd):
            dims = len(module.kernel_size)
            size = tuple(output.shape[-dims:])
            known = self.output_size.get(name, size)
            self.output_size[name] = tuple(max(pair) for pair in zip(size, known, strict=True))


def _call(model: nn.Module, example: Any) -> Any:
    expected = (
        "give example= what the model takes: a tensor, a sequence of positional arguments or a mapping of keyword "
        "arguments"
    )
    if isinstance(example, str):
        raise BinarizeError(f"the example is a str; {expected}")
    try:
        if isinstance(example, Mapping):
            return model(**example)
        if isinstance(example, Sequence):
            return model(*example)
        return model(example)
    except Exception as error:
        raise BinarizeError(f"the model doesn't run on the example: {error}; {expected}") from error


@contextmanager
def _quiet_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes and the random state are as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            yield
    finally:
        for module, training in modes:
            module.training = training


def trace(model: nn.Module, example: Any, layers: Mapping[str, nn.Module]) -> Trace:
    """Run the model once on an example and see how its layers follow each other.

    Args:
        model: runs in evaluation mode, without gradients, and is left as it was.
        example: a tensor, a sequence of positional arguments, or a mapping of keyword arguments.
        layers: the convolutions and linear layers to watch, by name.
    """
    recorder = _Recorder(
        names={id(module): name for name, module in layers.items()},
        pointwise={name for name, module in layers.items() if is_pointwise(module)},
    )
    values = dict(example) if isinstance(example, Mapping) else example  # pytree knows no other mappings
    inputs = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    marks = [f"input {i}" for i in range(len(inputs))]
    hooks = []
    for module in layers.values():
        hooks.append(module.register_forward_pre_hook(recorder.enter, with_kwargs=True))
        hooks.append(module.register_forward_hook(recorder.leave, with_kwargs=True))
    try:
        with _quiet_evaluation(model), recorder:
            for tensor, mark in zip(inputs, marks, strict=True):
                recorder.mark(tensor, _Origin(frozenset({mark}), frozenset({mark})))
            output = _call(model, example)
            heads = [recorder.origin(leaf) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    finally:
        for hook in hooks:
            hook.remove()

    watched = set(recorder.order)
    followed = {before for name, origin in recorder.before.items() for before in origin.nearest if before != name}
    # An input's first layer starts its branch: no other layer comes before its first call. A head's last ends one.
    first = {next((name for name in recorder.starts if mark in recorder.before[name].all), None) for mark in marks}
    last = {
        max((name for name in head.nearest & watched if name not in followed), key=recorder.order.index, default=None)
        for head in heads
    }
    return Trace(
        order=tuple(recorder.order),
        first=frozenset(name for name in first if name is not None),
        last=frozenset(name for name in last if name is not None),
        shortcuts=frozenset(recorder.shortcuts),
        output_size=recorder.output_size,
    )


def observe_inputs(model: nn.Module, example: Any, layers: Mapping[str, BinaryLayer]) -> tuple[set[str], set[str]]:
    """Names of the layers whose input is never negative on the example, and of those whose operand is constant."""
    negative: set[str] = set()
    values: dict[str, set[float]] = {}
    hooks = []
    for name, module in layers.items():

        def look(module: BinaryLayer, args: Any, kwargs: Any, name: str = name) -> None:
            x = args[0] if args else kwargs["input"]
            seen = values.setdefault(name, set())
            if x.numel():
                operand = module.activation_rule(x)
                seen |= {operand.min().item(), operand.max().item()}
                if bool((x < 0).any()):
                    negative.add(name)

        hooks.append(module.register_forward_pre_hook(look, with_kwargs=True))
    try:
        with _quiet_evaluation(model):
            _call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return values.keys() - negative, {name for name, seen in values.items() if len(seen) == 1}
