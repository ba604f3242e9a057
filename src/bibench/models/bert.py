"""BERT for sentences and pairs of sentences, with bi-attention in its binarized form.

The modules are this package's, with the parameter names of Hugging Face's ``BertForSequenceClassification``, so its
weights load by name. They are not taken from transformers: there the attention is a function that each version hands
around in another way, and what a binarized network needs is a module that can be replaced and that holds the
algorithm's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bibench.algorithms import Algorithm
from bibench.models.base import Architecture, DistillationPoints
from bibench.nn.attention import BiAttention

__all__ = ["POSITIONS", "VOCABULARY", "Attention", "Bert", "bert_base", "bert_tiny4", "bert_tiny6"]

VOCABULARY = 30_522
"""Word pieces of ``bert-base-uncased``, which the three networks have."""

POSITIONS = 512
"""Tokens of the longest input."""

_MASKED = -10_000.0
"""Added to the score of a padded position, as the original BERT does."""

_DEVIATION = 0.02
_EPSILON = 1e-12


class Attention(nn.Module):
    """Attention of one head or several: ``softmax(q·kᵀ/sqrt(d) + mask) · v``; it has no parameters.

    In a binarized network `bibench.nn.attention.BiAttention` takes its place.

    Args:
        features: size d of a head.
        dropout: share of the softmax's results.
        ge: of what takes its place, see `bibench.nn.attention.Attended`.
    """

    def __init__(self, features: int, dropout: float = 0.0, ge: bool = False) -> None:
        super().__init__()
        self.features, self.ge = features, ge
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend; see `bibench.nn.attention.BiAttention.forward`."""
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.features)
        if mask is not None:
            scores = scores + mask
        context: Tensor = self.dropout(scores.softmax(dim=-1)) @ value
        return context

    def binarized_counterpart(self, algorithm: Algorithm) -> nn.Module:
        """What stands in its place in a binarized network."""
        return BiAttention(self.features, dropout=self.dropout.p, ge=self.ge, algorithm=algorithm)


class _Embeddings(nn.Module):
    def __init__(self, width: int, vocabulary: int, positions: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, segments: Tensor) -> Tensor:
        x = self.word_embeddings(words) + self.token_type_embeddings(segments)
        x = x + self.position_embeddings.weight[: words.shape[1]]
        y: Tensor = self.dropout(self.LayerNorm(x))
        return y


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, ge: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attention = Attention(width // heads, dropout, ge)

    def _heads(self, x: Tensor) -> Tensor:
        apart: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return apart

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        context: Tensor = self.attention(query, key, value, mask)
        return context.transpose(1, 2).flatten(2)


class _Output(nn.Module):
    """A linear layer, dropout, and the norm of the sum with what went around."""

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + skip)
        return y


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, dropout: float, ge: bool) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": _SelfAttention(width, heads, dropout, ge), "output": _Output(width, width, dropout)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner), "activation": nn.GELU()})
        self.output = _Output(inner, width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        inner = self.intermediate["activation"](self.intermediate["dense"](x))
        y: Tensor = self.output(inner, x)
        return y


class _Encoder(nn.Module):
    """Embeddings, layers, and the pooler: what is pretrained."""

    masked: Tensor

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        inner: int,
        vocabulary: int,
        positions: int,
        dropout: float,
        ge: bool,
    ) -> None:
        super().__init__()
        self.embeddings = _Embeddings(width, vocabulary, positions, dropout)
        blocks = nn.ModuleList(_Layer(width, heads, inner, dropout, ge) for _ in range(layers))
        self.encoder = nn.ModuleDict({"layer": blocks})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width), "activation": nn.Tanh()})
        # Looked up, so that whole numbers are indices only, also where the network is exported.
        self.register_buffer("masked", torch.tensor([[_MASKED], [0.0]]), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        words, segments, present = tokens[:, 0], tokens[:, 1], tokens[:, 2]
        mask = F.embedding(present, self.masked).squeeze(-1)[:, None, None, :]
        x = self.embeddings(words, segments)
        blocks: Any = self.encoder["layer"]
        for layer in blocks:
            x = layer(x, mask)
        pooled: Tensor = self.pooler["activation"](self.pooler["dense"](x[:, 0]))
        return pooled


class Bert(nn.Module):
    """BERT with a linear classifier over the first token (Devlin et al., NAACL 2019).

    Args:
        outputs: classes, or 1 for a number.
        width: of the hidden states.
        layers, heads: how many.
        inner: width of the feed-forward part.
        vocabulary, positions: sizes of the embeddings.
        dropout: everywhere where BERT has it.
        ge: whether a binarized network attends to scores of 0 too, see `bibench.nn.attention.Attended`.

    Input: int64 ``(batch, 3, length)``: word pieces, segment (0 or 1), and 1 where there is a token, 0 where there is
    padding.
    Output: ``(batch, outputs)``.

    >>> model = Bert(2, width=24, layers=2, heads=2, inner=48, vocabulary=100)
    >>> model(torch.ones(5, 3, 7, dtype=torch.int64)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        outputs: int,
        *,
        width: int,
        layers: int,
        heads: int,
        inner: int,
        vocabulary: int = VOCABULARY,
        positions: int = POSITIONS,
        dropout: float = 0.1,
        ge: bool = False,
    ) -> None:
        super().__init__()
        if min(outputs, width, layers, heads, inner, vocabulary, positions) < 1 or width % heads:
            raise ValueError(
                f"outputs={outputs}, width={width}, layers={layers}, heads={heads}, inner={inner}, "
                f"vocabulary={vocabulary}, positions={positions}: expected positive numbers, and a width that the "
                "heads divide"
            )
        self.bert = _Encoder(width, layers, heads, inner, vocabulary, positions, dropout, ge)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, outputs)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=_DEVIATION)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])

    def forward(self, tokens: Tensor) -> Tensor:
        """One row of outputs a sample."""
        outputs: Tensor = self.classifier(self.dropout(self.bert(tokens)))
        return outputs

    def distillation_points(self) -> DistillationPoints:
        """The embeddings and every layer, and the attention in each."""
        layers: Any = self.bert.encoder["layer"]
        return DistillationPoints(
            hidden=(self.bert.embeddings, *layers),
            attention=tuple(layer.attention["self"].attention for layer in layers),
            present=lambda tokens: tokens[:, 2] > 0,
        )

    def own_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors by the names that they have here, whichever version of transformers wrote it.

        Older ones call a layer norm's weight and bias ``gamma`` and ``beta``, and store the numbers of the positions.

        Args:
            tensors: by name, as in the checkpoint; of the classifier or of the encoder alone.

        Raises:
            ValueError: the vocabulary is of another size than the network's.

        >>> model = Bert(2, width=24, layers=2, heads=2, inner=48, vocabulary=100)
        >>> older = {"embeddings.LayerNorm.gamma": torch.ones(24), "embeddings.position_ids": torch.arange(512)}
        >>> list(model.own_names(older))
        ['embeddings.LayerNorm.weight']
        """
        named: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name.endswith("embeddings.position_ids"):
                continue
            if name.endswith("embeddings.word_embeddings.weight") and tensor.ndim == 2:
                self._check_vocabulary(len(tensor))
            own = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            named[name if own in tensors else own] = tensor  # one that is there twice is surplus
        return named

    def _check_vocabulary(self, found: int) -> None:
        own = self.bert.embeddings.word_embeddings.num_embeddings
        if found != own:
            raise ValueError(
                f"it has a vocabulary of {found:,} word pieces, the tokenizer and the network have {own:,}: give "
                "weights that belong to the data's vocab.txt, such as those of bert-base-uncased"
            )

    def load_pretrained(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a pretrained encoder: the weights of a Hugging Face ``BertModel`` or of a model around one.

        The classifier stays as it is, and so does the pooler if the file has none. Heads of other kinds in the file are
        left out.

        Args:
            tensors: by name, as in the checkpoint; see `own_names`.

        Raises:
            ValueError: a part of the encoder is missing, there are more layers, or a shape is another; the message says
                which, and speaks of the tokenizer where it is the vocabulary's size.
        """
        named = {name.removeprefix("bert."): tensor for name, tensor in self.own_names(tensors).items()}
        found = {name: t for name, t in named.items() if name.startswith(("embeddings.", "encoder.", "pooler."))}
        expected = self.bert.state_dict()
        missing = [name for name in expected if name not in found and not name.startswith("pooler.")]
        surplus = [name for name in found if name not in expected]
        shapes = [
            f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            for name, tensor in found.items()
            if name in expected and tensor.shape != expected[name].shape
        ]
        if missing or surplus or shapes:
            parts = [
                f"missing: {', '.join(missing[:3])}" if missing else "",
                f"not in the network: {', '.join(surplus[:3])}" if surplus else "",
                "; ".join(shapes[:3]),
            ]
            raise ValueError(f"it is no encoder of this size ({'; '.join(part for part in parts if part)})")
        self.bert.load_state_dict(found, strict=False)


def _bert(
    name: str, layers: int, width: int, heads: int, inner: int, input_shape: tuple[int, ...], outputs: Any
) -> nn.Module:
    if len(input_shape) != 2 or input_shape[0] != 3 or not 1 <= input_shape[1] <= POSITIONS:
        raise ValueError(
            f"{name} takes three rows (word pieces, segments, mask) of up to {POSITIONS} tokens, "
            f"input_shape=(3, length), got input_shape={input_shape}; choose another architecture for this task"
        )
    if not isinstance(outputs, int):
        raise ValueError(f"{name} has a number of outputs, got outputs={outputs}")
    return Bert(outputs, width=width, layers=layers, heads=heads, inner=inner)


def _architecture(
    name: str, title: str, source: str, *, layers: int, width: int, heads: int, inner: int
) -> Architecture:
    return Architecture(
        name=name,
        title=title,
        family="transformers",
        modality="text",
        build=partial(_bert, name, layers, width, heads, inner),
        source=source,
    )


_TINYBERT = "Jiao et al., TinyBERT, Findings of EMNLP 2020; Devlin et al., BERT, NAACL 2019"

bert_tiny4 = _architecture("bert_tiny4", "BERT-Tiny 4L", _TINYBERT, layers=4, width=312, heads=12, inner=1_200)
"""Four layers of width 312 with 12 heads and 1,200 inner units, the sizes of TinyBERT.

>>> sum(parameter.numel() for parameter in bert_tiny4.build((3, 64), 2).parameters())
14350874
"""

bert_tiny6 = _architecture("bert_tiny6", "BERT-Tiny 6L", _TINYBERT, layers=6, width=768, heads=12, inner=3_072)
"""Six layers of width 768 with 12 heads and 3,072 inner units, the sizes of TinyBERT."""

bert_base = _architecture(
    "bert_base", "BERT-Base", "Devlin et al., BERT, NAACL 2019", layers=12, width=768, heads=12, inner=3_072
)
"""Twelve layers of width 768 with 12 heads and 3,072 inner units."""
