"""PointNet for point clouds: classification with and without T-Nets, and segmentation into parts.

A cloud is ``(channels, points)``: three coordinates, or six with normals. The maximum over points is a module apart,
since binarizing replaces it by EMA-max; it holds the ReLU that stands before it in full precision, so that no Hardtanh
comes to stand there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bibench.algorithms import Algorithm
from bibench.models.base import Architecture
from bibench.nn.ema_max import EMAMax

__all__ = [
    "MaxOverPoints",
    "PointNet",
    "PointNetSegmentation",
    "TNet",
    "TransformedConv1d",
    "pointnet",
    "pointnet_vanilla",
]

_PACT_CENTRE = 1.5
"""Where PACT's activation changes at first: half of its initial amplitude, 3."""


class MaxOverPoints(nn.Module):
    """``relu(max over points of x)``, which is the maximum of ``relu(x)``; EMA-max in a binarized network.

    >>> MaxOverPoints()(torch.tensor([[[0.5, 2.0], [-1.0, -2.0]]]))
    tensor([[2., 0.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, points)`` to ``(batch, channels)``."""
        return F.relu(F.adaptive_max_pool1d(x, 1).flatten(1))

    def binarized_counterpart(self, algorithm: Algorithm) -> EMAMax:
        """EMA-max, centred where the algorithm's activation changes its value: at 0, or for PACT at ``A/2``."""
        return EMAMax(0.0 if algorithm.relu == "hardtanh" else _PACT_CENTRE)


def _convolutions(inputs: int, outputs: Sequence[int], start: int = 1, *, relu_last: bool) -> nn.Sequential:
    """Convolutions of single points, each with batch normalisation and ReLU (the last without, if a pool has it)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (before, after) in enumerate(pairwise((inputs, *outputs)), start):
        layers[f"conv{number}"] = nn.Conv1d(before, after, kernel_size=1, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm1d(after)
        if relu_last or number < start + len(outputs) - 1:
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _dense(inputs: int, hidden: Sequence[int], outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with batch normalisation and ReLU, and one last linear layer, with dropout before it."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (before, after) in enumerate(pairwise((inputs, *hidden)), 1):
        layers[f"linear{number}"] = nn.Linear(before, after, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm1d(after)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["fc"] = nn.Linear(hidden[-1], outputs)
    return nn.Sequential(layers)


class TNet(nn.Module):
    """A small PointNet that predicts a square matrix for each cloud: the identity plus what it has learned.

    Args:
        channels: of the cloud that it sees.
        size: rows and columns of the matrix.

    Input: ``(batch, channels, points)``. Output: ``(batch, size, size)``.

    >>> TNet(6, 3).eval()(torch.randn(2, 6, 10)).shape
    torch.Size([2, 3, 3])
    """

    identity: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.features = _convolutions(channels, (64, 128, 1024), relu_last=False)
        self.pool = MaxOverPoints()
        self.matrix = _dense(1024, (512, 256), size * size)
        self.register_buffer("identity", torch.eye(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """One matrix a cloud."""
        entries: Tensor = self.matrix(self.pool(self.features(x)))
        return self.identity + entries.view(-1, self.size, self.size)


class TransformedConv1d(nn.Conv1d):
    """A convolution of points whose first three channels are multiplied by a matrix before: ``conv([T·xyz, rest])``.

    It is the layer that sees coordinates, so it stays in full precision in a binarized network, as PointNet vanilla's
    first layer does: of three signs nothing could be recognised. (`bibench.binarize` leaves layers alone that compute
    more than their base class.) The matrix product is in full precision too.

    >>> layer = TransformedConv1d(6, 8, kernel_size=1)
    >>> layer(torch.randn(2, 6, 10), torch.randn(2, 3, 3)).shape
    torch.Size([2, 8, 10])
    """

    def forward(self, x: Tensor, matrix: Tensor) -> Tensor:  # type: ignore[override]
        """Transform and convolve; ``x`` is ``(batch, channels, points)``, ``matrix`` ``(batch, 3, 3)``."""
        moved = torch.bmm(matrix, x[:, :3])
        if x.shape[1] > 3:
            moved = torch.cat((moved, x[:, 3:]), dim=1)
        return super().forward(moved)


class _FirstBlock(nn.Module):
    """Input T-Net, convolution, batch normalisation and ReLU."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.tnet = TNet(channels, 3)
        self.conv1 = TransformedConv1d(channels, outputs, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm1d(outputs)
        self.relu1 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu1(self.bn1(self.conv1(x, self.tnet(x))))
        return y


class _FeatureTransform(nn.Module):
    """Features multiplied by the matrix that a T-Net predicts from them, in full precision."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.tnet = TNet(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(self.tnet(x), x)


class PointNet(nn.Module):
    """Classification: 64-128-1024 features of each point, their maximum over points, 512-256-classes.

    The original's sum of two T-Nets is there, its regularising term is not: the benchmark's loss is cross-entropy.

    Args:
        channels: 3, or 6 with normals, which the input T-Net sees and leaves as they are.
        classes: number of outputs.
        tnets: the input's (3x3) and the features' (64x64); without them it is PointNet vanilla.

    Input: ``(batch, channels, points)``. Output: ``(batch, classes)``.

    Source: Qi et al., PointNet, CVPR 2017, figure 2; dropout of 0.3 before the last layer as there.

    >>> PointNet(3, 40).eval()(torch.randn(2, 3, 64)).shape
    torch.Size([2, 40])
    """

    def __init__(self, channels: int, classes: int, *, tnets: bool = True) -> None:
        super().__init__()
        first = _FirstBlock(channels, 64) if tnets else _convolutions(channels, (64,), relu_last=True)
        self.first = first
        self.transform = _FeatureTransform(64) if tnets else nn.Identity()
        self.features = _convolutions(64, (128, 1024), start=2, relu_last=False)
        self.pool = MaxOverPoints()
        self.classifier = _dense(1024, (512, 256), classes, dropout=0.3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each cloud."""
        logits: Tensor = self.classifier(self.pool(self.features(self.transform(self.first(x)))))
        return logits


class PointNetSegmentation(nn.Module):
    """Parts of an object whose category is known: local features of every depth beside the global one.

    Features 64-128-128, a T-Net of 128x128, 512-2048; the maximum over points of the last, the category and the five
    local features are concatenated at each point (4,944 channels), and 256-256-128-parts convolutions follow.

    Args:
        channels: 3, or 6 with normals.
        categories: channels that say the category, the same at each point: +1 for the object's own and -1 for others
            (a one-hot of 0 and 1 has the sign +1 everywhere, so a binarized layer couldn't see it).
        parts: number of outputs, over all categories.

    Input: ``(batch, channels + categories, points)``. Output: ``(batch, parts, points)``.

    Source: Qi et al., PointNet, CVPR 2017, supplementary C, and its released part segmentation network.

    >>> PointNetSegmentation(3, 16, 50).eval()(torch.randn(2, 19, 8)).shape
    torch.Size([2, 50, 8])
    """

    def __init__(self, channels: int, categories: int, parts: int) -> None:
        super().__init__()
        self.channels = channels
        self.first = _FirstBlock(channels, 64)
        self.second = _convolutions(64, (128,), start=2, relu_last=True)
        self.third = _convolutions(128, (128,), start=3, relu_last=True)
        self.transform = _FeatureTransform(128)
        self.fourth = _convolutions(128, (512,), start=4, relu_last=True)
        self.fifth = _convolutions(512, (2048,), start=5, relu_last=False)
        self.relu5 = nn.ReLU()
        self.pool = MaxOverPoints()
        joined = 2048 + categories + 64 + 128 + 128 + 512 + 2048
        self.head = _convolutions(joined, (256, 256, 128), relu_last=True)
        self.fc = nn.Conv1d(128, parts, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each point."""
        category = x[:, self.channels :]
        one = self.first(x[:, : self.channels])
        two = self.second(one)
        three = self.third(two)
        four = self.fourth(self.transform(three))
        five = self.fifth(four)
        everywhere = self.pool(five).unsqueeze(2).expand(-1, -1, x.shape[2])
        joined = torch.cat((everywhere, category, one, two, three, four, self.relu5(five)), dim=1)
        logits: Tensor = self.fc(self.head(joined))
        return logits


def _channels(name: str, input_shape: tuple[int, ...], categories: int = 0) -> int:
    """Coordinates (and normals) of an input shape, checked."""
    if len(input_shape) != 2 or input_shape[0] - categories not in (3, 6) or input_shape[1] < 1:
        of_category = f" and {categories} channels of the category" if categories else ""
        raise ValueError(
            f"{name} takes clouds of shape (channels, points) with 3 coordinates, or 6 channels with normals"
            f"{of_category}, got input_shape={input_shape}; choose another architecture for this task"
        )
    return input_shape[0] - categories


def _pointnet(input_shape: tuple[int, ...], outputs: Any) -> nn.Module:
    if isinstance(outputs, tuple):
        categories, parts = outputs
        return PointNetSegmentation(_channels("pointnet", input_shape, categories), categories, parts)
    return PointNet(_channels("pointnet", input_shape), outputs)


def _pointnet_vanilla(input_shape: tuple[int, ...], outputs: Any) -> nn.Module:
    if isinstance(outputs, tuple):
        raise ValueError(
            f"pointnet_vanilla classifies whole clouds, got outputs={outputs} (categories, parts); choose pointnet"
        )
    return PointNet(_channels("pointnet_vanilla", input_shape), outputs, tnets=False)


_QI = "Qi et al., PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation, CVPR 2017"

pointnet = Architecture(
    name="pointnet",
    title="PointNet",
    family="mlps",
    modality="points",
    build=_pointnet,
    source=f"{_QI}; EMA-max when binarized: Qin et al., BiPointNet, ICLR 2021",
)
"""PointNet with T-Nets: a classifier for a number of classes, a segmentation network for ``(categories, parts)``.

>>> type(pointnet.build((3, 1024), 40)).__name__, type(pointnet.build((19, 2048), (16, 50))).__name__
('PointNet', 'PointNetSegmentation')
"""

pointnet_vanilla = Architecture(
    name="pointnet_vanilla",
    title="PointNet vanilla",
    family="mlps",
    modality="points",
    build=_pointnet_vanilla,
    source=f"{_QI}, without T-Nets; EMA-max when binarized: Qin et al., BiPointNet, ICLR 2021",
)
"""PointNet without T-Nets.

>>> sum(parameter.numel() for parameter in pointnet_vanilla.build((3, 1024), 40).parameters())
809256
"""
