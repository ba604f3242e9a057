"""The neural-architecture track: how much of full precision's accuracy survives in each family (equation 3)."""

from __future__ import annotations

from bibench.records import Results, Score
from bibench.tracks.base import Track
from bibench.tracks.lookup import Lookup
from bibench.tracks.relative import relative_scores

__all__ = ["FAMILIES", "neural_architecture"]

FAMILIES = ("cnns", "transformers", "mlps")

_TABLE_7 = ("cifar10", "imagenet", "voc07", "coco17", "modelnet40")
"""The tasks of the paper's Table 7, whose rows its Table 2 averages as CNNs."""


def _score(results: Results) -> list[Score]:
    """Equation 3: a component is a family, the mean over all of its rows (task, architecture) in the plan.

    ``OM_arch = sqrt(1/3 · (E^2_cnns + E^2_transformers + E^2_mlps))``, in percent. It is about all three families,
    so a plan without one of them leaves that family and ``om_arch`` incomplete. Statuses, seeds and errors as in
    :func:`bibench.tracks.relative.relative_scores`.
    """
    rows = results.once(Lookup).rows
    components = {family: [row for row, run in rows.items() if run.family == family] for family in FAMILIES}
    return relative_scores(results, track="neural_architecture", components=components, overall_metric="om_arch")


def _paper(results: Results) -> list[Score]:
    """What gives Table 2: CNNs are all rows of Table 7, with both PointNets, which are MLPs too; MLPs lack ShapeNet."""
    rows = results.once(Lookup).rows
    components = {
        "cnns": [row for row in rows if row[0] in _TABLE_7],
        "transformers": [row for row, run in rows.items() if run.family == "transformers"],
        "mlps": [row for row, run in rows.items() if run.family == "mlps" and row[0] != "shapenet"],
    }
    return relative_scores(
        results, track="neural_architecture", components=components, overall_metric="om_arch", mode="paper"
    )


neural_architecture = Track(
    name="neural_architecture",
    title="Neural architecture",
    description=(
        "How much of the full-precision score each algorithm keeps in each family of architectures: the mean over "
        "all tasks and architectures of the family, and the quadratic mean over the three families, om_arch "
        "(BiBench, equation 3)."
    ),
    score=_score,
    paper=_paper,
)
