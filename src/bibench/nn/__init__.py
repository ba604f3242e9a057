"""Binarized layers, written once for all algorithms, and ``binarize()``, which puts them into any model."""

from bibench.nn.complexity import Complexity, LayerComplexity, complexity
from bibench.nn.convert import (
    LayerSummary,
    Summary,
    binarize,
    default_filter,
    resolve,
    summary,
)
from bibench.nn.layers import (
    AlgorithmError,
    BinarizeError,
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryLayer,
    BinaryLinear,
    BinaryMatmul,
)
from bibench.nn.training import clip_latent_, parameter_groups, partial_pretraining, penalty, set_progress
from bibench.nn.weights import LayerStatistics, layer_statistics, weight_signs

__all__ = [
    "AlgorithmError",
    "BinarizeError",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConv3d",
    "BinaryLayer",
    "BinaryLinear",
    "BinaryMatmul",
    "Complexity",
    "LayerComplexity",
    "LayerStatistics",
    "LayerSummary",
    "Summary",
    "binarize",
    "clip_latent_",
    "complexity",
    "default_filter",
    "layer_statistics",
    "parameter_groups",
    "partial_pretraining",
    "penalty",
    "resolve",
    "set_progress",
    "summary",
    "weight_signs",
]
