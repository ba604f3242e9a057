"""What an architecture is: a name, a family, and a function that builds it in full precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

__all__ = ["Architecture", "DistillationPoints", "Family"]

Family = Literal["cnns", "transformers", "mlps"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A full-precision architecture that tasks of its modality can use.

    Args:
        name: the name in suites and records, such as ``"resnet20"``.
        title: the name in prose, such as ``"ResNet-20"``.
        family: the row of equation 3 (BiBench) that it counts in.
        modality: the input that it takes, such as ``"image"``; a task of the same modality can use it.
        build: ``build(input_shape, outputs)`` returns a freshly initialised model for one sample's shape
            (without batch, such as ``(3, 32, 32)``) and the data's outputs: a number of classes, or for ratings
            ``(users, items)``. Parameters come from torch's global generator, so a seed decides them.
        source: where the topology comes from.
    """

    name: str
    title: str
    family: Family
    modality: str
    build: Callable[[tuple[int, ...], Any], nn.Module]
    source: str


@dataclass(frozen=True, kw_only=True)
class DistillationPoints:
    """Where a network computes what a binarized one can learn from it beside its outputs.

    A network that has some returns them by a method ``distillation_points()``, also once it is binarized.

    Args:
        hidden: modules that return hidden states ``(batch, length, width)``, in the order in which they are called.
        attention: modules that are called with query, key and value ``(batch, heads, length, features)``.
        present: ``present(input)`` returns bool ``(batch, length)``: where there is a token, and not padding.
    """

    hidden: tuple[nn.Module, ...]
    attention: tuple[nn.Module, ...]
    present: Callable[[Tensor], Tensor]
