"""What researchers look at while a binarized network trains: flips, sign balance, dead weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bibench.nn.layers import BinaryLayer

__all__ = ["LayerStatistics", "layer_statistics", "weight_signs"]


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """Shares in [0, 1] over the weights of one layer.

    Args:
        layer: name of the layer.
        flip_rate: binarized weights that differ from those at the epoch's start.
        positive: binarized weights that are +1; 0.5 is balanced.
        dead: latent weights whose gradient in the last step was exactly 0, so that they can't move; None without a
            gradient.
    """

    layer: str
    flip_rate: float
    positive: float
    dead: float | None


def weight_signs(model: nn.Module) -> dict[str, Tensor]:
    """The deployed weights of every binarized layer as booleans (True: +1), by layer name."""
    return {
        name: module.binary_weight() > 0 for name, module in model.named_modules() if isinstance(module, BinaryLayer)
    }


def layer_statistics(model: nn.Module, before: Mapping[str, Tensor]) -> list[LayerStatistics]:
    """Statistics of every binarized layer against the signs at the epoch's start.

    Args:
        model: the model, with the gradients of its last step.
        before: `weight_signs` of the same model earlier.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BinaryLayer)}
    statistics = []
    for name, signs in weight_signs(model).items():
        gradient = layers[name].weight.grad
        statistics.append(
            LayerStatistics(
                layer=name,
                flip_rate=float(signs.logical_xor(before[name]).float().mean()),
                positive=float(signs.float().mean()),
                dead=None if gradient is None else float(gradient.eq(0).float().mean()),
            )
        )
    return statistics
