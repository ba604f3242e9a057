"""What a training loop needs of a binarized model, whoever writes the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bibench.algorithms import Algorithm, Rule
from bibench.nn.convert import binarize
from bibench.nn.layers import BinaryLayer
from bibench.recipes import split_budget

__all__ = ["clip_latent_", "parameter_groups", "partial_pretraining", "penalty", "set_progress"]

_M = TypeVar("_M", bound=nn.Module)


def partial_pretraining(
    model: _M,
    algorithm: str | Algorithm | Callable[..., Algorithm],
    fit: Callable[[nn.Module, int], object],
    *,
    budget: int,
    share: float = 0.5,
    **options: Any,
) -> _M:
    """Train a model in full precision for a share of a budget, binarize it, and train it for the rest.

    The idea: full-precision training takes fewer steps to a score than training binarized from scratch, and its steps
    take less time. Whether it pays depends on the algorithm and the budget: measure both.

    Args:
        model: in full precision, trained in place for its part of the budget.
        algorithm: see `binarize`.
        fit: ``fit(model, budget)`` trains a model in place for that many steps, or epochs, with the whole learning-rate
            schedule compressed into them. It is called twice and makes its optimizer each time.
        budget: in all, in whatever ``fit`` counts.
        share: of the full-precision part, from 0 to 1.
        options: of `binarize`, such as ``example``.

    Returns:
        The trained binarized model, a copy unless ``inplace=True`` is given.

    Raises:
        ValueError: a share outside [0, 1], or a budget too short to hold both parts.
        BinarizeError: see `binarize`.

    Source: Partial pre-training, algorithm 1.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> parts = []
    >>> binary = partial_pretraining(model, "bnn", lambda part, steps: parts.append(steps), budget=1001)
    >>> parts
    [500, 501]
    """
    first, second = split_budget(budget, share)
    if first:
        fit(model, first)
    binary = binarize(model, algorithm, **options)
    if second:
        fit(binary, second)
    return binary


def set_progress(model: nn.Module, epoch: int, total: int) -> None:
    """Tell every binarized layer the epoch (0-based) of ``total``; call it before each epoch.

    ReCU's quantile and FDA's series and noise change with it; the other algorithms don't mind. The progress isn't part
    of the state dict: after loading one, call this before training goes on. Evaluation doesn't depend on it.

    >>> import bibench
    >>> layer = bibench.nn.BinaryLinear(4, 2, algorithm="recu")
    >>> set_progress(layer, 5, 10)
    >>> round(float(layer.weight_rule.tau), 4)
    0.9029
    """
    if not 0 <= epoch < total:
        raise ValueError(f"epoch {epoch} of {total}: expected 0 <= epoch < total")
    for module in model.modules():
        if isinstance(module, Rule):
            module.set_progress(epoch, total)


def penalty(model: nn.Module) -> Tensor | None:
    """The sum of the terms that the model's rules add to the loss (PACT's L2 on its amplitudes), or None."""
    terms = [module.penalty() for module in model.modules() if isinstance(module, Rule)]
    present = [term for term in terms if term is not None]
    return torch.stack(present).sum() if present else None


def parameter_groups(model: nn.Module, weight_decay: float, *, decay_scales: bool = False) -> list[dict[str, Any]]:
    """Optimizer groups in which the thresholds, scales and amplitudes of binarized layers carry no weight decay.

    Those are the parameters of rules and scales with at most one dimension; every trainable parameter is in exactly
    one group.

    Args:
        model: the model.
        weight_decay: of the other parameters.
        decay_scales: give them the weight decay too.

    >>> import bibench
    >>> groups = parameter_groups(bibench.nn.BinaryLinear(4, 2, algorithm="reactnet"), 1e-4)
    >>> [(group["weight_decay"], len(group["params"])) for group in groups]
    [(0.0001, 2), (0.0, 1)]
    """
    exempt: set[int] = set()
    for module in model.modules():
        parts = [module] if isinstance(module, Rule) else []
        if isinstance(module, BinaryLayer) and module.scale is not None:
            parts.append(module.scale)  # type: ignore[arg-type]
        exempt.update(id(p) for part in parts for p in part.parameters() if p.dim() <= 1)
    trainable = [p for p in model.parameters() if p.requires_grad]
    if decay_scales:
        exempt.clear()
    groups = [
        {"params": [p for p in trainable if id(p) not in exempt], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) in exempt], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def clip_latent_(model: nn.Module, bound: float) -> None:
    """Clamp the latent weights of every binarized layer to ``[-bound, bound]``, in place; call it after a step.

    Beyond 1 the hard straight-through estimator has no gradient: a latent weight there can't come back by itself
    (Courbariaux et al., 2016, algorithm 1, clips to 1).
    """
    for module in model.modules():
        if isinstance(module, BinaryLayer):
            module.weight.clamp_(-bound, bound)
