"""Bi-attention: attention whose scores, weights and values are all binary (BiBERT, Qin et al., ICLR 2022).

Softmax attention can't be binarized by the sign: its weights are never negative, so all of them would become +1. In its
place a query attends to the keys whose score is positive, and all of these count alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bibench.algorithms import Algorithm, Rule, Threshold
from bibench.algorithms.gradients import hard_ste, surrogate
from bibench.nn.layers import BinaryMatmul, resolve

__all__ = ["Attended", "BiAttention"]


class Attended(Rule):
    """``1[s > 0]`` in {0, 1} with the gradient ``1[|s| < 1]``: which keys a query attends to.

    Args:
        ge: ``1[s >= 0]``. Scores are multiples of ``1/sqrt(d)``, and 0 is a frequent one: a tenth of them at d = 64.

    >>> Attended()(torch.tensor([-2.0, 0.0, 0.5])), Attended(ge=True)(torch.tensor([-2.0, 0.0, 0.5]))
    (tensor([0., 0., 1.]), tensor([0., 1., 1.]))
    """

    values = (0, 1)
    gradient = "hard"

    def __init__(self, ge: bool = False) -> None:
        super().__init__()
        self.ge = ge
        self.formula = "1[{x} >= 0]" if ge else "1[{x} > 0]"

    def forward(self, x: Tensor) -> Tensor:
        above = x >= 0 if self.ge else x > 0
        return surrogate(above.to(x.dtype), x, hard_ste)

    def deployed_threshold(self) -> Threshold:
        return Threshold(torch.zeros(()), inclusive=self.ge)

    def extra_repr(self) -> str:
        return f"ge={self.ge}"


class BiAttention(nn.Module):
    """Attention of binary operands, where A is the algorithm's rule: ``1[A(q)·A(k)ᵀ/sqrt(d) + mask > 0] · A(v)``.

    There is no softmax and no scale. Dropout acts on the scores, before they are binarized: what it leaves is scaled,
    and what it drops is 0. Gradients reach q, k and v: through the rule of each, and through `Attended` for q and k.

    Args:
        features: size d of a head.
        dropout: share of the scores.
        ge: see `Attended`.
        algorithm: name, `Algorithm`, or function that returns one.

    Source: Qin et al., BiBERT: Accurate Fully Binarized BERT, ICLR 2022, section 3.2; the order of mask and dropout is
    that of its published code.

    >>> attention = BiAttention(26, algorithm="reactnet")
    >>> q, k, v = torch.randn(3, 2, 12, 10, 26)
    >>> attention(q, k, v, torch.zeros(2, 1, 1, 10)).shape
    torch.Size([2, 12, 10, 26])
    """

    def __init__(
        self,
        features: int,
        *,
        dropout: float = 0.0,
        ge: bool = False,
        algorithm: str | Algorithm | Callable[..., Algorithm],
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        resolved = resolve(algorithm)
        more: Any = {"algorithm": resolved, "device": device, "dtype": dtype}
        self.features = features
        self.scores = BinaryMatmul(features, features, transpose_right=True, **more)
        self.dropout = nn.Dropout(dropout)
        self.context = BinaryMatmul(1, features, **more)
        self.context.left_rule = Attended(ge)  # in place of the algorithm's, which is for what can be negative

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query, key, value: ``(..., length, features)``.
            mask: added to the scores; a large negative number where a key is not to be attended to.
        """
        scores = self.scores(query, key) / math.sqrt(self.features)
        if mask is not None:
            scores = scores + mask
        context: Tensor = self.context(self.dropout(scores), value)
        return context
