"""Distillation: a binarized network learns from the full-precision one that it starts from, beside the labels.

The teacher sees the same batch, in evaluation mode and without gradients. With the weights of
`bibench.recipes.Distillation` the loss is

    labels · L + logits · L_logits + hidden · L_hidden + similarity · L_similarity

- ``L``: the task's.
- ``L_logits``: ``-Σ_c p_T(c)·log p_S(c)``, the cross-entropy to the teacher's softmax; the squared difference where the
  output is a number and not a class.
- ``L_hidden``: ``Σ d(H_S, H_T)`` over the embeddings and the layers.
- ``L_similarity``: ``Σ d(X_S·X_Sᵀ, X_T·X_Tᵀ)`` over the layers and X = Q, K, V before the sign: direction matching.

``d(A, B) = ‖A/‖A‖ - B/‖B‖‖`` with Frobenius norms over all of a sample but its padding, and a loss is the mean over the
samples. BiBERT's code takes the norms over the whole batch with its padding, so that a sample's part would depend on
the others in its batch, and several devices would compute another loss than one.

Source: Qin et al., BiBERT: Accurate Fully Binarized BERT, ICLR 2022 (direction-matching distillation), and its
published code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bibench.models.base import Architecture, DistillationPoints
from bibench.recipes import Distillation
from bibench.tasks.base import Batch, Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["check_distillation", "distilled_loss", "hidden_loss", "logits_loss", "similarity_loss"]


def check_distillation(weights: Distillation, task: Task, architecture: Architecture) -> None:
    """Check that an architecture's network shows what is to be learned from it; it is built without memory for that.

    Raises:
        ValueError: the task's loss is of more than the network's outputs, or the network shows no hidden states or
            attention, and they are asked for.
    """
    if task.make_batch is not None:
        raise ValueError(
            f"distillation compares outputs, and the loss of task '{task.name}' is of more than the network's output "
            "for an input; leave distillation out"
        )
    if weights.inside:
        with torch.device("meta"):
            network = architecture.build(task.input_shape, task.outputs or 2)
        try:
            _points(network)
        except ValueError as error:
            raise ValueError(f"architecture '{architecture.name}': {error}") from error


def logits_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """``-Σ_c p_T(c)·log p_S(c)`` with ``p = softmax`` over dimension 1, the mean over all else; for numbers
    ``(s - t)²``.

    Args:
        student, teacher: outputs of one shape: ``(batch, classes, ...)``, or numbers ``(batch,)`` or ``(batch, 1)``.

    >>> logits_loss(torch.zeros(5, 3), torch.randn(5, 3)), logits_loss(torch.zeros(5, 1), torch.full((5, 1), 2.0))
    (tensor(1.0986), tensor(4.))
    """
    if student.ndim == 1 or student.shape[1] == 1:
        return F.mse_loss(student.float(), teacher.float())
    return F.cross_entropy(student.float(), teacher.float().softmax(dim=1))


def hidden_loss(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """``‖H_S/‖H_S‖ - H_T/‖H_T‖‖`` of each sample, the mean over the samples.

    Args:
        student, teacher: hidden states ``(batch, length, width)``.
        present: bool ``(batch, length)``: where there is a token.

    >>> states, present = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> round(hidden_loss(3 * states, states, present).item(), 5), hidden_loss(-states, states, present)
    (0.0, tensor(2.))
    """
    there = present[:, :, None]
    return _distance(student.float() * there, teacher.float() * there)


def similarity_loss(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """``‖P_S - P_T‖`` with ``P = X·Xᵀ/‖X·Xᵀ‖`` over the heads of each sample, the mean over the samples.

    Args:
        student, teacher: queries, keys or values ``(batch, heads, length, features)``.
        present: bool ``(batch, length)``: where there is a token.

    >>> queries, present = torch.randn(2, 3, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    >>> round(similarity_loss(-2 * queries, queries, present).item(), 5)
    0.0
    """
    there = present[:, None, :, None]
    one, other = student.float() * there, teacher.float() * there
    return _distance(one @ one.transpose(-1, -2), other @ other.transpose(-1, -2))


def _distance(one: Tensor, other: Tensor) -> Tensor:
    difference = F.normalize(one.flatten(1)) - F.normalize(other.flatten(1))
    norms: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return norms.mean()


def distilled_loss(
    fabric: Fabric, network: Any, teacher: nn.Module | None, batch: Batch, *, task: Task, weights: Distillation
) -> Tensor:
    """The loss of a binarized network that learns from labels and teacher; it has gradients for the network alone.

    Args:
        fabric: whose precision both compute in.
        network: as ``fabric.setup`` returns it, in training mode.
        teacher: in evaluation mode, on the same device.
        batch: on the device.
        task: whose loss.
        weights: of the terms.

    Raises:
        ValueError: there is no teacher.
    """
    if teacher is None:
        raise ValueError("the recipe has distillation, so a step needs a teacher: give the full-precision network")
    student = _Taught(fabric, network, teacher, weights)
    loss = task.loss(student, batch)
    return weights.labels * loss + torch.stack(student.terms).sum()


class _Taught(nn.Module):
    """A network that stands in for the student in the task's loss, and compares every answer with the teacher's."""

    def __init__(self, fabric: Fabric, network: Any, teacher: nn.Module, weights: Distillation) -> None:
        super().__init__()
        self.fabric, self.network, self.teacher, self.weights = fabric, network, teacher, weights
        self.terms: list[Tensor] = []

    def forward(self, *inputs: Any) -> Tensor:
        weights = self.weights
        with _watched(self.network.module, weights) as own:
            outputs = _compared(self.network(*inputs))
        with _watched(self.teacher, weights) as taught, torch.no_grad(), self.fabric.autocast():
            answer = _compared(self.teacher(*inputs))
        if weights.logits:
            self.terms.append(weights.logits * logits_loss(outputs, answer))
        if weights.inside:
            present = _points(self.teacher).present(*inputs)
            for weight, loss, ours, theirs in (
                (weights.hidden, hidden_loss, own.hidden, taught.hidden),
                (weights.similarity, similarity_loss, own.projections, taught.projections),
            ):
                if weight:
                    self.terms += [weight * loss(a, b, present) for a, b in zip(ours, theirs, strict=True)]
        return outputs


def _points(network: Any) -> DistillationPoints:
    if not hasattr(network, "distillation_points"):
        raise ValueError(
            f"{type(network).__name__} shows no hidden states and no attention to distil (it has no method "
            "distillation_points); set hidden and similarity to 0, which leaves the logits, or choose a network that "
            "does, such as bert_tiny4"
        )
    points: DistillationPoints = network.distillation_points()
    return points


def _compared(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"distillation compares outputs that are one tensor, and this network returns {type(outputs).__name__}; "
            "leave distillation out"
        )
    return outputs


@dataclass(frozen=True)
class _Seen:
    """What a network computed at its distillation points, in the order of their calls."""

    hidden: list[Tensor] = field(default_factory=list)
    projections: list[Tensor] = field(default_factory=list)


@contextmanager
def _watched(network: Any, weights: Distillation) -> Iterator[_Seen]:
    """See what a network computes inside the block, where the weights ask for that.

    No hook is left afterwards: a network with hooks is not binarized, nor copied without them.
    """
    seen = _Seen()
    hooks = []
    if weights.inside:
        points = _points(network)
        hooks += [
            module.register_forward_hook(lambda module, inputs, output: seen.hidden.append(output))
            for module in points.hidden
        ]
        hooks += [
            module.register_forward_pre_hook(lambda module, inputs: seen.projections.extend(inputs[:3]))
            for module in points.attention
        ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
