"""Neural collaborative filtering: scores pairs of a user and an item."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from bibench.models.base import Architecture

__all__ = ["NeuMF", "ncf"]

_DEVIATION = 0.01


class NeuMF(nn.Module):
    """A matrix factorisation and a perceptron side by side, with a linear layer over both (He et al., 2017, figure 3).

    ``y = h . [p_u * q_i ; mlp([r_u ; s_i])] + b`` with four embeddings ``p, q, r, s`` is the logit for user ``u`` and
    item ``i``. Sizes and initialisation are those of the MLPerf recommendation reference v0.5: embeddings from
    N(0, 0.01^2), the perceptron Glorot uniform, the last layer LeCun uniform. Added is the batch normalisation that the
    1-bit network needs (Partial pre-training, section 4.1), after every layer that is binarized: the perceptron's but
    its first.

    Args:
        users, items: how many there are.
        factors: width of the factorisation's embeddings.
        layers: widths of the perceptron, from its input (half of it from the user, half from the item) to its output.

    Raises:
        ValueError: a number that is not positive, or no whole half.

    Input: int64 ``(batch, 2)``, a user and an item each. Output: ``(batch,)``.

    >>> NeuMF(3, 5)(torch.tensor([[0, 4], [2, 1]])).shape
    torch.Size([2])
    """

    def __init__(
        self, users: int, items: int, *, factors: int = 64, layers: tuple[int, ...] = (256, 256, 128, 64)
    ) -> None:
        super().__init__()
        if min(users, items, factors, *layers) < 1 or len(layers) < 2 or layers[0] % 2:
            raise ValueError(
                f"users={users}, items={items}, factors={factors}, layers={layers}: expected positive numbers, and at "
                "least two layers of which the first is even"
            )
        self.user_factors = nn.Embedding(users, factors)
        self.item_factors = nn.Embedding(items, factors)
        self.user_features = nn.Embedding(users, layers[0] // 2)
        self.item_features = nn.Embedding(items, layers[0] // 2)
        mlp: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (inputs, outputs) in enumerate(pairwise(layers), 1):
            mlp[f"linear{number}"] = nn.Linear(inputs, outputs)
            if number > 1:
                mlp[f"bn{number}"] = nn.BatchNorm1d(outputs)
            mlp[f"relu{number}"] = nn.ReLU()
        self.mlp = nn.Sequential(mlp)
        self.final = nn.Linear(factors + layers[-1], 1)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=_DEVIATION)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        limit = math.sqrt(3 / self.final.in_features)
        nn.init.uniform_(self.final.weight, -limit, limit)

    def forward(self, pairs: Tensor) -> Tensor:
        """One logit a pair."""
        user, item = pairs[:, 0], pairs[:, 1]
        product = self.user_factors(user) * self.item_factors(item)
        features = torch.cat((self.user_features(user), self.item_features(item)), dim=1)
        joined = torch.cat((product, self.mlp(features)), dim=1)
        logits: Tensor = self.final(joined)
        return logits.squeeze(1)


def _ncf(input_shape: tuple[int, ...], outputs: int | tuple[int, ...]) -> nn.Module:
    if input_shape != (2,):
        raise ValueError(
            f"ncf takes pairs of a user and an item, input_shape=(2,), got input_shape={input_shape}; "
            "choose another architecture for this task"
        )
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise ValueError(f"ncf scores every pair of a user and an item: outputs=(users, items), got outputs={outputs}")
    users, items = outputs
    return NeuMF(users, items)


ncf = Architecture(
    name="ncf",
    title="NCF",
    family="mlps",
    modality="ratings",
    build=_ncf,
    source="He et al., 2017; MLPerf recommendation v0.5; batch normalisation as in Partial pre-training, section 4.1",
)
"""NeuMF with 64 factors and a 256-256-128-64 perceptron.

>>> sum(parameter.numel() for parameter in ncf.build((2,), (610, 9_724)).parameters())
2091457
"""
