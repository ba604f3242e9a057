"""Thresholds on a binary layer's integer sum that give the very bits that the model's own float32 computation gives.

Between a binary product and the next layer's sign lies, in many networks, a function of each channel's sum alone:
scale, bias, batch normalisation, activation. It is evaluated with the model's own operations at every sum that can
occur. Where the sign changes once, its place is the threshold.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bibench.deploy.arrangements import SAME
from bibench.deploy.build import ARITHMETIC
from bibench.deploy.capture import Graph, Node, Ref
from bibench.deploy.format import Code, Place
from bibench.deploy.steps import Array, Step, readers
from bibench.deploy.views import Buffer
from bibench.nn.layers import BinaryLayer

__all__ = ["exact_thresholds", "sums"]

_BLOCK = 1 << 23
"""How many values are evaluated at once."""
_BETWEEN = SAME | {"max_pool2d_with_indices", "squeeze", "unsqueeze"}
"""Operations that may lie between two elementwise ones: of a pool the steps' order says that it commutes."""


def exact_thresholds(steps: list[Step], graph: Graph) -> None:
    """Give every binary convolution whose result is packed, and is a function of its sums alone, thresholds on these.

    The steps are changed in place. A convolution of which that isn't so is left as it is.
    """
    makers = {value: node for node in graph.nodes for value in node.outputs if value is not None}
    for step in list(steps):
        if step.code is not Code.BCONV or step.values[1] is not None or step.params[26]:
            continue
        floats = step.values[3]
        assert floats is not None
        found = readers(steps).get(floats, [])
        packs = [reader for reader in found if reader.code is Code.PACK and reader.params[2] == step.params[4]]
        if not packs or not _chained(step.nodes, makers):
            continue
        boundaries = [_boundary(step.nodes, pack.constants[0]) for pack in packs]
        directions = np.zeros(step.params[4], np.int8)
        for boundary in boundaries:
            if boundary is None or (directions * boundary[0] < 0).any():
                break
            directions = np.where(directions == 0, boundary[0], directions)
        else:
            sign = np.where(directions < 0, -1.0, 1.0)
            _on_sums(steps, step, sign)
            raw = step.values[3]
            for pack, boundary in zip(packs, boundaries, strict=True):
                assert boundary is not None
                pack.values[0] = raw
                # A channel whose bits never change has an infinite threshold, whatever the sign.
                pack.constants[0] = np.where(boundary[0] == 0, boundary[1], sign * boundary[1])


def sums(layer: BinaryLayer) -> Tensor:
    """Every value that an element of the layer's product can take, ascending.

    Of {-1, +1} operands all have the parity of the number of products; zero padding, and operands in {0, 1}, leave some
    products out.

    >>> from bibench.nn import BinaryLinear
    >>> sums(BinaryLinear(3, 1, algorithm="bnn"))
    tensor([-3., -1.,  1.,  3.])
    """
    most = layer.weight[0].numel()
    spec = layer.spec
    whole = tuple(layer.activation_rule.values) == (-1, 1) and not (spec.padding_value == 0 and any(spec.pads))
    return torch.arange(-most, most + 1, 2 if whole else 1, dtype=torch.float32)


def _chained(nodes: list[Node], makers: Mapping[int, Node]) -> bool:
    """Whether each node reads the one before it and constants that are the same at all positions."""
    channel = nodes[0].function.spec.per_channel
    for before, node in pairwise(nodes):
        given = [leaf for leaf in tree_leaves((node.args, node.kwargs)) if isinstance(leaf, (Ref, Tensor))]
        values = {leaf.value for leaf in given if isinstance(leaf, Ref)}
        if len(values) != 1:
            return False
        (value,) = values
        while value not in before.outputs and makers.get(value) is not None and makers[value].op in _BETWEEN:
            value = next(leaf.value for leaf in tree_leaves(makers[value].args) if isinstance(leaf, Ref))
        if value not in before.outputs:
            return False
        if node.op in ARITHMETIC or node.op == "rsub":
            for constant in given:
                if not isinstance(constant, Tensor) or constant.numel() == 1:
                    continue
                shape = (1,) * (len(channel) - constant.dim()) + tuple(constant.shape)
                if len(channel) < constant.dim() or any(n > 1 for n in shape[1:]):
                    return False
    return True


def _boundary(nodes: list[Node], threshold: Array | None) -> tuple[Array, Array] | None:
    """Of each channel the direction of its only change, 0 for none, and the first sum on its upper side.

    None where a channel changes more than once, or can't be evaluated.
    """
    layer: BinaryLayer = nodes[0].function
    channels = layer.spec.out_features
    limit = torch.zeros(channels) if threshold is None else torch.from_numpy(threshold.astype(np.float32))
    all_sums = sums(layer)
    block = max(_BLOCK // channels, 1)
    upper: list[Array] = []
    for start in range(0, len(all_sums), block):
        values = _evaluated(nodes, all_sums[start : start + block])
        if values is None:
            return None
        upper.append((values >= limit).numpy())
    bits = np.concatenate(upper)
    changes = np.count_nonzero(bits[1:] != bits[:-1], axis=0)
    if (changes > 1).any():
        return None
    changed, rising = changes > 0, bits[-1]
    count, known = np.count_nonzero(bits, axis=0), all_sums.numpy().astype(np.float64)
    boundary = known[np.clip(np.where(rising, len(known) - count, count - 1), 0, len(known) - 1)]
    boundary = np.where(changed, boundary, np.where(bits[0], -np.inf, np.inf))
    return np.where(changed, np.where(rising, 1, -1), 0).astype(np.int8), boundary


def _evaluated(nodes: list[Node], values: Tensor) -> Tensor | None:
    """What the nodes make of these sums in each channel: (sums, channels); None if they don't take this shape.

    The sums are laid out over the positions of one map, since that is how the model's own kernels run over them.
    """
    layer: BinaryLayer = nodes[0].function
    spec, channels, count = layer.spec, layer.spec.out_features, len(values)
    device = layer.weight.device
    rank = len(nodes[0].shape)
    if spec.dims == 0:
        shape = (*(1,) * (rank - 2), count, channels)
        product = values.unsqueeze(1).expand(count, channels)
    else:
        shape = (1, channels, count, *(1,) * (spec.dims - 1))
        product = values.expand(channels, count)
    product = product.reshape(shape).contiguous().to(device)
    tensor = _after_product(layer, product)
    for node in nodes[1:]:
        value = next(leaf.value for leaf in tree_leaves((node.args, node.kwargs)) if isinstance(leaf, Ref))
        result = node.run({value: tensor.clone()})  # it may change its operand in place
        tensor = result[0] if isinstance(result, (tuple, list)) else result
        if tensor.shape != product.shape:  # recorded on a view of other dimensions
            return None
    tensor = tensor.cpu()
    return tensor.reshape(count, channels) if spec.dims == 0 else tensor.reshape(channels, count).t()


def _after_product(layer: BinaryLayer, product: Tensor) -> Tensor:
    """The layer's own forward with another product."""
    twin: Any = copy.copy(layer)  # shares the parameters; only the product is another, and needs no binary weight
    vars(twin)["_modules"] = {**layer._modules, "weight_rule": nn.Identity()}
    twin._product = lambda activation, weight: product
    dummy = layer.weight.new_zeros((1, layer.spec.in_features, *(1,) * layer.spec.dims))
    result: Tensor = twin.forward(dummy)
    return result


def _on_sums(steps: list[Step], step: Step, sign: Array) -> None:
    """Make a convolution return its sums, times a sign of each channel; the floats follow behind, if they are read."""
    floats = step.values[3]
    assert floats is not None
    factor, shift = step.constants[1:3]
    slope, act, outputs = step.constants[3], step.params[21], step.params[4]
    raw = Buffer(floats.type, floats.count)
    needed = floats.place is not Place.ARENA or any(
        reader.code is not Code.PACK for reader in readers(steps).get(floats, [])
    )
    others = [pack for pack in readers(steps).get(floats, []) if pack.params[2] != outputs]
    step.values[3] = raw
    step.constants[1:4] = [sign if (sign < 0).any() else None, None, None]
    step.params[21], limits = 0, step.floats[:2]
    step.floats[:2] = [0.0, 0.0]
    if not needed and not others:
        return
    one, zero = np.ones(outputs), np.zeros(outputs)
    constants: list[Array | None] = [(one if factor is None else factor) * sign, zero if shift is None else shift]
    middle = Buffer(floats.type, floats.count) if act else floats
    added = [Step.make(Code.UNARY, [raw, middle], [13, raw.count, outputs], constants=constants, nodes=step.nodes)]
    if act == 1:
        added.append(Step.make(Code.UNARY, [middle, floats], [0, raw.count], floats=limits, nodes=step.nodes))
    elif act == 2:
        added.append(
            Step.make(Code.UNARY, [middle, floats], [12, raw.count, outputs], constants=[slope], nodes=step.nodes)
        )
    at = steps.index(step) + 1
    steps[at:at] = added
