"""Recorded operations become steps, one by one; what can be joined is joined afterwards (`fuse`)."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils._pytree import tree_leaves

from bibench.deploy.arrangements import ARRANGEMENTS
from bibench.deploy.build import ELSEWHERE, Builder
from bibench.deploy.capture import Graph, Node, Ref
from bibench.deploy.elementwise import ELEMENTWISE
from bibench.deploy.products import PRODUCTS
from bibench.deploy.reductions import FIRST_ALONE, REDUCTIONS

__all__ = ["LOWERINGS", "lower"]

LOWERINGS: dict[str, Callable[[Builder, Node], None]] = {**PRODUCTS, **ARRANGEMENTS, **ELEMENTWISE, **REDUCTIONS}
"""What becomes of each of torch's operations, by its name."""


def lower(graph: Graph) -> Builder:
    """Steps that compute a recorded pass, and where its outputs are.

    Raises:
        PackedError: an operation that the format has nothing for; the message names its module.
    """
    build = Builder(graph)
    for node in _needed(graph):
        build.node = node
        how = LOWERINGS.get(node.op)
        if how is None:
            build.refuse(f"operation '{node.op}' can't be exported", ELSEWHERE)
        how(build, node)
        for output in set(node.outputs) & build.values.keys():
            assert output is not None
            found, expected = build.values[output].shape, graph.shapes[output]
            if found != expected:
                build.refuse(
                    f"operation '{node.op}' became shape {found}, the model has {expected}",
                    "this is a defect of bibench: please report it",
                )
    build.finish()
    return build


def _needed(graph: Graph) -> list[Node]:
    """The nodes that the outputs depend on, in their order.

    Raises:
        PackedError: one of them uses a result that the operation's lowering doesn't give, such as a pool's indices.
    """
    wanted = {port.value for port in graph.outputs}
    found: list[Node] = []
    for node in reversed(graph.nodes):
        used = wanted & set(node.outputs)
        if used:
            if node.op in FIRST_ALONE and used != {node.outputs[0]}:
                Builder(graph, node).refuse(f"a second result of operation '{node.op}' is used", ELSEWHERE)
            wanted |= {leaf.value for leaf in _refs(node)}
            found.append(node)
    return found[::-1]


def _refs(node: Node) -> list[Ref]:
    leaves = tree_leaves(list(node.arguments.values()))
    return [leaf for leaf in leaves if isinstance(leaf, Ref)]
