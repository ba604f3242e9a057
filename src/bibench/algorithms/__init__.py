"""Binarization algorithms, each a small composition in a file of its own, and the rules that they share."""

from bibench.algorithms.algorithm import (
    Algorithm,
    Composition,
    Cost,
    Factors,
    LayerSpec,
    Rule,
    Threshold,
    composition,
)
from bibench.algorithms.gradients import approx_ste, closed_hard_ste, hard_ste, identity_ste, surrogate
from bibench.algorithms.rules import LearnedScale, MeanScale, Sign, mean_magnitude, sgn, unscaled

__all__ = [
    "Algorithm",
    "Composition",
    "Cost",
    "Factors",
    "LayerSpec",
    "LearnedScale",
    "MeanScale",
    "Rule",
    "Sign",
    "Threshold",
    "approx_ste",
    "closed_hard_ste",
    "composition",
    "hard_ste",
    "identity_ste",
    "mean_magnitude",
    "sgn",
    "surrogate",
    "unscaled",
]
