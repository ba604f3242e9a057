"""One forward pass on an example input, counted: the products of each module, and the bytes that they move.

Counted are convolutions, linear maps, matrix products and attention, by the formulas of torch's own counter
(``torch.utils.flop_counter``), where one multiply-accumulate is two FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bibench.nn.trace import _call, _quiet_evaluation

__all__ = ["FLOAT_BYTES", "Shape", "Usage", "count_operations"]

FLOAT_BYTES = 4
"""Bytes of a full-precision number, whatever the model's own dtype."""

Shape = tuple[int, ...]


@dataclass
class Usage:
    """What one module did in the pass.

    Args:
        operations: multiply-accumulates of the products in the module itself, without those of its submodules.
        traffic: bytes of those products' operands and results, in full precision.
        calls: shapes of the input tensors and of the first output tensor, for every call that returned one.
    """

    operations: int = 0
    traffic: int = 0
    calls: list[tuple[tuple[Shape, ...], Shape]] = field(default_factory=list)


def count_operations(model: nn.Module, example: Any) -> dict[nn.Module, Usage]:
    """Run the model once in evaluation mode, without gradients, and count each module's products.

    Args:
        model: any module; it is left as it was.
        example: a tensor, a sequence of positional arguments, or a mapping of keyword arguments.

    Returns:
        The modules that ran.

    Raises:
        BinarizeError: the model doesn't run on the example.

    >>> layer = nn.Linear(3, 5)
    >>> count_operations(layer, torch.randn(2, 3))[layer].operations
    30
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    recorder = _Recorder(counter)
    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(recorder.enter))
        # Called after an error too, which the module around may catch.
        hooks.append(module.register_forward_hook(recorder.leave, with_kwargs=True, always_call=True))
    try:
        # The counter is inside: it takes composite operations apart, and the recorder sees the parts.
        with _quiet_evaluation(model), _countable(), recorder, counter:
            _call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.usage


class _Recorder(TorchDispatchMode):
    supports_higher_order_operators = True  # such as flex attention

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = counter
        self.usage: dict[nn.Module, Usage] = {}
        self.running: list[tuple[nn.Module, int, int]] = []  # module, counted before it, counted in its submodules

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "overloadpacket", func) in self.counter.flop_registry and self.running:
            moved = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.usage[self.running[-1][0]].traffic += FLOAT_BYTES * sum(leaf.numel() for leaf in moved)
        return result

    def enter(self, module: nn.Module, args: Any) -> None:
        self.usage.setdefault(module, Usage())
        self.running.append((module, self.counter.get_total_flops(), 0))

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        _, before, inside = self.running.pop()
        total = self.counter.get_total_flops() - before
        usage = self.usage[module]
        usage.operations += (total - inside) // 2
        inputs = tuple(tuple(leaf.shape) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        outputs = [tuple(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        if outputs:
            usage.calls.append((inputs, outputs[0]))
        if self.running:
            parent, start, others = self.running[-1]
            self.running[-1] = (parent, start, others + total)


@contextmanager
def _countable() -> Iterator[None]:
    """Keep to operations that the counter has formulas for: nothing compiled, no fused attention or encoder layer.

    So the count is the same on every device, whatever kernels it has.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        torch.backends.mha.set_fastpath_enabled(False)
        yield


def _recurrent(x: Shape, weights: list[Shape]) -> int:
    """FLOPs of a fused recurrent layer: every step multiplies by each of its matrices once."""
    return 2 * math.prod(x[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) > 1)


# Products for which torch's counter has no formula of its own.
_FORMULAS: dict[Any, Any] = {
    torch.ops.aten.mv: lambda a, b, **_: 2 * math.prod(a),
    torch.ops.aten.addmv: lambda bias, a, b, **_: 2 * math.prod(a),
    torch.ops.aten.dot: lambda a, b, **_: 2 * math.prod(a),
    torch.ops.aten.addbmm: lambda bias, a, b, **_: 2 * math.prod(a) * b[-1],
    torch.ops.aten.mkldnn_rnn_layer: lambda x, w0, w1, *_, **__: _recurrent(x, [w0, w1]),
    torch.ops.aten._cudnn_rnn: lambda x, weights, *_, **__: _recurrent(x, weights),
}
