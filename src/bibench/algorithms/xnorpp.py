"""XNOR-Net++: signs, scaled by learned vectors over output channels and output positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bibench.algorithms.algorithm import Algorithm, Factors, LayerSpec
from bibench.algorithms.gradients import hard_ste
from bibench.algorithms.rules import Sign

__all__ = ["FactorisedScale", "xnorpp"]


class FactorisedScale(nn.Module):
    """``Γ = α ⊗ β ⊗ γ``: one learned factor per output channel, row and column, all starting at 1 (BiBench, eq. 18).

    A convolution over ``d`` dimensions has ``alpha`` of shape (out,) and ``d`` vectors ``positions`` over its output's
    sizes; a linear map has ``alpha`` alone. Smaller outputs use the vectors' beginning.

    Raises:
        ValueError: at construction, a convolution whose output size is not known; in forward, an output that is
            larger than the size it was built for.
    """

    formula = "learned α_c · β_h · γ_w"

    def __init__(self, layer: LayerSpec) -> None:
        super().__init__()
        size = layer.output_size or ()
        if len(size) != layer.dims:
            raise ValueError(
                "xnorpp learns one scale per output row and column and must know the output's size: give "
                "binarize(..., example=x) an input of the largest size that the network will see, or the layer "
                f"output_size=(...) with {layer.dims} entries (found {layer.output_size})"
            )
        alpha, *positions = (torch.ones(n, device=layer.device, dtype=layer.dtype) for n in (layer.out_features, *size))
        self.alpha = nn.Parameter(alpha)
        self.positions = nn.ParameterList([nn.Parameter(vector) for vector in positions])

    def forward(self, product: Tensor, x: Tensor, w: Tensor) -> Tensor:
        dims = len(self.positions)
        scale = self.alpha.view(-1, *(1,) * dims)
        for d, vector in enumerate(self.positions):
            size = product.shape[d - dims]
            if size > vector.numel():
                raise ValueError(
                    f"xnorpp: the output is {tuple(product.shape[product.dim() - dims :])}, larger than the "
                    f"{tuple(v.numel() for v in self.positions)} that the learned scales were built for; "
                    "binarize with an example input of the largest size"
                )
            scale = scale * vector[:size].view(-1, *(1,) * (dims - d - 1))
        return product * scale.to(product.dtype)

    def factors(self, weight: Tensor, output_size: tuple[int, ...]) -> Factors:
        """``α``, and ``β ⊗ γ`` over the beginning of the vectors."""
        vectors = [vector.detach()[:size] for vector, size in zip(self.positions, output_size, strict=True)]
        if not vectors:
            return Factors(channel=self.alpha.detach())
        positions = vectors[0]
        for vector in vectors[1:]:
            positions = positions.unsqueeze(-1) * vector
        return Factors(channel=self.alpha.detach(), positions=positions)


def xnorpp() -> Algorithm:
    """``o = (sgn(a) * sgn(w)) · α_c β_h γ_w``, all learned (BiBench, eq. 17 and 18; Bulat & Tzimiropoulos, 2019).

    >>> xnorpp().needs_output_size
    True
    """
    return Algorithm(
        name="xnorpp",
        title="XNOR++",
        source="Bulat & Tzimiropoulos, 2019; BiBench eq. 17, 18",
        weight=lambda layer: Sign(hard_ste, "hard"),
        activation=lambda layer: Sign(hard_ste, "hard"),
        scale=FactorisedScale,
        needs_output_size=True,
    )
