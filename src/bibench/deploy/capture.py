"""One forward pass on one sample, recorded as a straight line of operations.

Recorded are the operations that torch itself runs (aten), in their order, whatever code called them; a binarized layer
is one node. What is computed from parameters and buffers alone is a constant. An operation that changes a tensor in
place makes a new value of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from bibench.deploy.format import PackedError
from bibench.nn import BinarizeError
from bibench.nn.layers import BinaryLayer, BinaryMatmul
from bibench.nn.operations import _countable
from bibench.nn.trace import _call, _quiet_evaluation

__all__ = ["Graph", "Node", "Port", "Ref", "Shape", "capture", "inside"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """A value of the graph, in place of a tensor."""

    value: int


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of the pass.

    Args:
        op: its name without overload and without the underscore of the in-place form, such as ``"add"``; for a
            binarized layer or product ``"binary"``.
        function: what ran: torch's operator, or the layer.
        args, kwargs: as it was called; `Ref` where a value was.
        arguments: all arguments by name, with defaults.
        outputs: the values that it made; None for what isn't a tensor.
        shape: of the first of them.
        module: name of the module that it ran in.
        leaf: whether that module holds no others.
    """

    op: str
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: dict[str, Any]
    outputs: tuple[int | None, ...]
    shape: Shape
    module: str
    leaf: bool

    @property
    def title(self) -> str:
        """The module's name, and the operation's where the module doesn't say it."""
        if self.op == "binary" or (self.leaf and self.module):
            return self.module or type(self.function).__name__
        return f"{self.module}.{self.op}" if self.module else self.op

    def run(self, values: Mapping[int, Tensor]) -> Any:
        """The operation on other values."""
        args, kwargs = tree_map(lambda x: values[x.value] if isinstance(x, Ref) else x, (self.args, self.kwargs))
        return self.function(*args, **kwargs)


@dataclass(frozen=True)
class Port:
    """An input or an output: its name, value, shape of one sample with the batch dimension of 1, and dtype."""

    name: str
    value: int
    shape: Shape
    dtype: torch.dtype


@dataclass
class Graph:
    """A recorded pass.

    Attributes:
        nodes: in the order in which they ran.
        shapes, dtypes: of the values.
        inputs, outputs: of the model.
    """

    nodes: list[Node] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)


def capture(model: nn.Module, example: Any) -> Graph:
    """Run the model on the example's first sample, in evaluation mode and without gradients, and record it.

    Args:
        model: it is left as it was. Of a wrapper of ``torch.compile`` the module inside is taken.
        example: a tensor, a sequence of positional arguments or a mapping of keyword arguments; the first dimension of
            every tensor is the batch.

    Raises:
        PackedError: the model doesn't run on the example, or does what a straight line of operations can't say.

    >>> graph = capture(nn.Sequential(nn.Linear(3, 2), nn.ReLU(inplace=True)), torch.randn(5, 3))
    >>> [node.op for node in graph.nodes], graph.outputs[0].shape
    (['addmm', 'relu'], (1, 2))
    """
    if not isinstance(model, nn.Module):
        raise PackedError(f"the model is of type {type(model).__name__}, expected torch.nn.Module")
    model = inside(model)
    sample, inputs = _first_sample(model, example)
    recorder = _Recorder(model)
    for name, tensor in inputs:
        recorder.input(name, tensor)
    try:
        with _quiet_evaluation(model), _countable(), recorder.watching(), _Outside(recorder), recorder:
            output = _call(model, sample)
    except BinarizeError as error:
        if isinstance(error.__cause__, PackedError):
            raise error.__cause__ from None
        raise PackedError(str(error)) from error
    recorder.output(output)
    return recorder.graph


def inside(model: nn.Module) -> nn.Module:
    """The module in a wrapper of ``torch.compile``; any other as it is."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def _first_sample(model: nn.Module, example: Any) -> tuple[Any, list[tuple[str, Tensor]]]:
    """The example with the first sample of each tensor in its place; and these tensors with names."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    found: list[tuple[str, Tensor]] = []

    def first(name: str, entry: Any) -> Any:
        leaves, tree = tree_flatten(entry)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for number, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor):
                continue
            title = name if len(tensors) == 1 else f"{name}.{number}"
            if leaf.dtype not in (torch.float32, torch.int64):
                raise PackedError(
                    f"input '{title}' has dtype {leaf.dtype}, expected torch.float32 (images and features) or "
                    "torch.int64 (indices): give the example, and the model, as .float()"
                )
            if leaf.dim() < 1 or not leaf.numel():
                raise PackedError(
                    f"input '{title}' has shape {tuple(leaf.shape)}: expected a batch of at least one sample"
                )
            leaves[number] = leaf.detach()[:1].clone(memory_format=torch.contiguous_format)
            found.append((title, leaves[number]))
        return tree_unflatten(leaves, tree)

    if isinstance(example, Mapping):
        sample: Any = {key: first(str(key), entry) for key, entry in example.items()}
    elif isinstance(example, Sequence) and not isinstance(example, str):
        names += [f"input{i}" for i in range(len(names), len(example))]
        sample = [first(name, entry) for name, entry in zip(names, example, strict=False)]
    else:
        sample = first(names[0] if names else "input", example)
    if not found and not isinstance(example, str):
        raise PackedError(f"the example ({type(example).__name__}) holds no tensor; give what the model takes")
    return sample, found


_OUTSIDE = frozenset({"__array__", "__dlpack__", "data_ptr", "numpy", "tolist"})


@dataclass
class _Known:
    tensor: Tensor  # kept, since a freed tensor's address would be given to another
    value: int
    version: int


class _Outside(TorchFunctionMode):
    """Refuses what takes computed numbers out of torch's sight, where what becomes of them isn't seen."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _OUTSIDE and args and id(args[0]) in self.recorder.known and self.recorder.inside is None:
            self.recorder.refuse(f"takes a computed tensor out of torch by {name}()", "compute with tensors alone")
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.graph = Graph()
        self.names = {id(module): name for name, module in model.named_modules()}
        self.running: list[nn.Module] = []
        self.inside: nn.Module | None = None  # the binarized layer that is running
        self.known: dict[int, _Known] = {}
        self.storages: dict[int, list[_Known]] = {}
        self.versions: dict[int, int] = {}  # of the storages that were changed in place
        self.written: list[Tensor] = []

    # ----------------------------------------------------------------------------------------------------- values

    def input(self, name: str, tensor: Tensor) -> None:
        value = self.new(tensor)
        self.graph.inputs.append(Port(name, value, tuple(tensor.shape), tensor.dtype))

    def output(self, result: Any) -> None:
        entries = dict(result) if isinstance(result, Mapping) else {"output": result}
        for name, entry in entries.items():
            leaves = [leaf for leaf in tree_leaves(entry) if leaf is not None]
            for number, leaf in enumerate(leaves):
                title = str(name) if len(leaves) == 1 else f"{name}.{number}"
                value = self.lookup(leaf) if isinstance(leaf, Tensor) else None
                if value is None:
                    raise PackedError(
                        f"the model's output '{title}' ({type(leaf).__name__}) doesn't depend on its inputs: return "
                        "tensors that do"
                    )
                if leaf.dim() < 1 or leaf.shape[0] != 1:
                    raise PackedError(
                        f"the model's output '{title}' has shape {tuple(leaf.shape)} for one sample, expected the "
                        "batch's dimension of 1 first: return one result a sample"
                    )
                self.graph.outputs.append(Port(title, value, tuple(leaf.shape), leaf.dtype))
        if not self.graph.outputs:
            raise PackedError("the model returns no tensor")

    def new(self, tensor: Tensor) -> int:
        if tensor.layout != torch.strided:
            self.refuse(f"makes a tensor of layout {tensor.layout}", "use dense tensors")
        value = len(self.graph.shapes)
        self.graph.shapes.append(tuple(tensor.shape))
        self.graph.dtypes.append(tensor.dtype)
        storage = tensor.untyped_storage()._cdata
        known = _Known(tensor, value, self.versions.get(storage, 0))
        self.known[id(tensor)] = known
        self.storages.setdefault(storage, []).append(known)
        return value

    def lookup(self, tensor: Tensor) -> int | None:
        """The tensor's value, or None for a constant."""
        known = self.known.get(id(tensor))
        if tensor.layout != torch.strided:
            return None
        storage = tensor.untyped_storage()._cdata
        if known is None and storage in self.storages:  # reached around torch's operations, as by .data
            same = (tensor.shape, tensor.stride(), tensor.storage_offset())
            known = next(
                (
                    other
                    for other in reversed(self.storages[storage])
                    if (other.tensor.shape, other.tensor.stride(), other.tensor.storage_offset()) == same
                ),
                None,
            )
            if known is None and not self.versions.get(storage):
                self.refuse("reads a computed tensor's memory by another way", "use no .data or .numpy() in forward")
        version = self.versions.get(storage, 0)
        if (known.version if known else 0) != version:
            self.refuse(
                "reads a tensor whose memory another operation has changed in place through a view",
                "use the operation that returns a new tensor (such as torch.relu instead of relu_)",
            )
        return known.value if known else None

    def refuse(self, what: str, advice: str) -> NoReturn:
        names = [self.names[id(module)] for module in self.running]
        where = f"module '{names[-1]}' ({type(self.running[-1]).__name__})" if names and names[-1] else "the model"
        raise PackedError(f"{where} {what}, which can't be exported: {advice}")

    # ------------------------------------------------------------------------------------------------- operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside is not None:
            return func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if all(self.lookup(tensor) is None for tensor in given):
            if torch.Tag.nondeterministic_seeded in func.tags:
                self.refuse(f"draws random numbers ({func.overloadpacket.__name__})", "draw none in evaluation mode")
            return func(*args, **kwargs)
        recorded = tree_map(self._recorded, (args, kwargs))
        result = func(*args, **kwargs)
        made = list(result) if isinstance(result, (tuple, list)) else [result]
        if not any(isinstance(tensor, Tensor) for tensor in made) and func.overloadpacket is not torch.ops.aten.copy_:
            self.refuse(
                f"reads a number out of a tensor ({func.overloadpacket.__name__}, as .item() and an if on a tensor do)",
                "compute with tensors alone, so that the same operations run for every input",
            )
        arguments = func._schema.arguments
        for argument, value in [*zip(arguments, args, strict=False), *self._named(arguments, kwargs)]:
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                storage = value.untyped_storage()._cdata
                self.versions[storage] = self.versions.get(storage, 0) + 1
                self.written.append(value)
        called = {argument.name: value for argument, value in zip(arguments, recorded[0], strict=False)} | recorded[1]
        bound = {argument.name: called.get(argument.name, argument.default_value) for argument in arguments}
        op = func.overloadpacket.__name__
        self._add(op[:-1] if op.endswith("_") else op, func, recorded[0], recorded[1], bound, made)
        return result

    @staticmethod
    def _named(arguments: Any, kwargs: dict[str, Any]) -> list[tuple[Any, Any]]:
        return [(argument, kwargs[argument.name]) for argument in arguments if argument.name in kwargs]

    def _recorded(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        value = self.lookup(leaf)
        return leaf.detach() if value is None else Ref(value)

    def _add(self, op: str, function: Any, args: Any, kwargs: Any, arguments: dict[str, Any], made: list[Any]) -> None:
        outputs = tuple(self.new(tensor) if isinstance(tensor, Tensor) else None for tensor in made)
        module = self.running[-1] if self.running else self.model
        leaf = not any(True for _ in module.children())
        shape = tuple(made[0].shape) if made and isinstance(made[0], Tensor) else ()
        self.graph.nodes.append(
            Node(op, function, tuple(args), dict(kwargs), arguments, outputs, shape, self.names[id(module)], leaf)
        )

    # ---------------------------------------------------------------------------------------------------- modules

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = []
        for module in self.model.modules():
            # Last before the module and first behind it, so that what others' hooks do is recorded too.
            hooks.append(module.register_forward_pre_hook(self.enter, with_kwargs=True))
            hooks.append(module.register_forward_hook(self.leave, with_kwargs=True, prepend=True, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.running.append(module)
        if self.inside is None and _is_one_node(module):
            self.inside = module

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.inside is module:
            self.inside = None
            if isinstance(output, Tensor):
                names = ("input",) if isinstance(module, BinaryLayer) else ("a", "b")
                given = dict(zip(names, args, strict=False)) | kwargs
                recorded = {name: self._recorded(given[name]) for name in names}
                if any(isinstance(value, Ref) for value in recorded.values()):
                    self._add("binary", module, (), recorded, recorded, [output])
        self.running.pop()


def _is_one_node(module: nn.Module) -> bool:
    """Whether it is a binarized layer or product that computes what its class says."""
    return any(
        isinstance(module, kind) and type(module).forward is kind.forward for kind in (BinaryLayer, BinaryMatmul)
    )
