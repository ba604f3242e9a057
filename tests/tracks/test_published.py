"""What the published results rest on, cell by cell, and own results beside them."""

from collections import Counter

import pytest
import torch
from made_records import figure, ok_record, run_config

from bibench.models.image import resnet18
from bibench.nn import binarize
from bibench.records import Record, Results, Score
from bibench.records.published import printed_cells, published_results
from bibench.tracks.published import beside, beside_raw, recompute, without_counterpart
from bibench.tracks.theoretical_complexity import complexity_figures

EXACT = {"exact": 8}
STATUSES = {
    "cifar10": EXACT,
    "imagenet": EXACT,
    "voc07": EXACT,
    "coco17": EXACT,
    "modelnet40": EXACT,
    "shapenet": EXACT,
    "glue": EXACT,
    "speech_commands": EXACT,
    "om_task": {"exact": 7, "close": 1},
    "cnns": EXACT,
    "transformers": EXACT,
    "mlps": EXACT,
    "om_arch": {"exact": 6, "close": 2},
    "cifar10_c": EXACT,
    "om_robust": EXACT,
    "sensitivity": EXACT,
    "time_cost": {"not_reproducible": 8},
    "om_train": {"exact": 7, "close": 1},  # 5 and 3 with times that are fitted and not as printed
    "theoretical speedup": {"exact": 4, "not_reproducible": 4},
    "theoretical compression": {"exact": 7, "not_reproducible": 1},
    "om_comp": {"exact": 4, "not_reproducible": 4},
    "hardware speedup": {"not_reproducible": 6, "not_deployable": 2},
    "hardware compression": {"not_reproducible": 6, "not_deployable": 2},
    "om_infer": {"not_reproducible": 6, "not_deployable": 2},
}


def test_the_status_of_every_cell() -> None:
    found: dict[str, Counter[str]] = {}
    for cell in recompute():
        shared = cell.metric in ("speedup", "compression")
        name = f"{cell.track.split('_')[0]} {cell.metric}" if shared else cell.metric
        found.setdefault(name, Counter())[cell.status] += 1
    assert found == STATUSES


def test_a_cell_has_no_recomputed_value_just_where_it_stands_for_itself() -> None:
    sources = {
        item.name
        for record in published_results().records
        for item in record.figures
        if "printed cell" in (item.source or "")
    }
    assert sources == {"time_cost", "storage_compression"}
    for mode in ("paper", "literal"):
        found = {cell.metric for cell in recompute(mode) if cell.recomputed is None and cell.printed is not None}
        assert found == {"time_cost", "compression"}
        whole = {cell.track for cell in recompute(mode) if cell.metric == "compression" and cell.recomputed is not None}
        assert whole == {"theoretical_complexity"}


def record_of(task: str, architecture: str, algorithm: str) -> Record:
    return next(
        record
        for record in published_results().records
        if (record.run.task, record.run.architecture, record.run.algorithm) == (task, architecture, algorithm)
    )


@pytest.mark.parametrize("algorithm", ["bnn", pytest.param("reactnet", marks=pytest.mark.slow)])
def test_the_complexity_figures_are_what_is_counted(algorithm: str) -> None:
    example = torch.zeros(1, 3, 224, 224)
    model = binarize(resnet18.build((3, 224, 224), 1000), algorithm, example=example, inplace=True).to("meta")
    counted = complexity_figures(model, example.to("meta"))
    shipped = record_of("imagenet", "resnet18", algorithm).figures
    assert [item.model_copy(update={"source": None}) for item in shipped[1:]] == counted


def test_a_corrected_latency_changes_the_speedup() -> None:
    results = published_results()
    changed = record_of("cifar10", "resnet34", "reactnet")
    figures = [
        item.model_copy(update={"value": item.value * 2}) if item.name == "latency" else item
        for item in changed.figures
    ]
    records = [
        *results.records,
        changed.model_copy(update={"figures": tuple(figures)}),
    ]  # the last of an identity counts
    before, after = recompute(), recompute(results=Results(plan=results.plan, records=records))
    differing = {(one.metric, one.algorithm) for one, other in zip(before, after, strict=True) if one != other}
    assert differing == {("speedup", "reactnet"), ("om_infer", "reactnet")}


def test_what_has_nothing_to_recompute_from_is_not_reproducible() -> None:
    for mode in ("paper", "literal"):
        cells = recompute(mode, Results(plan=[], records=[]))
        assert len(cells) == len(printed_cells()) == 192
        assert Counter(cell.status for cell in cells) == {"not_reproducible": 186, "not_deployable": 6}
        assert all(cell.recomputed is None and cell.difference is None for cell in cells)


def test_an_overall_score_over_other_tasks_says_so() -> None:
    tasks = ["cifar10", "imagenet", "voc07", "coco17", "modelnet40", "shapenet", "glue", "speech_commands"]

    def note(components: list[str]) -> str:
        metrics = [*components, "om_task"]
        scores = [Score(track="learning_task", metric=name, algorithm="bnn", value=80.0) for name in metrics]
        return next(row.note for row in beside(scores) if row.metric == "om_task")

    assert note(tasks) == ""
    assert note(["digits", "cifar10"]) == f"own over digits, cifar10; printed over {', '.join(tasks)}"
    robust = [
        Score(track="corruption_robustness", metric=name, algorithm="bnn", value=80.0)
        for name in ("digits_c", "gap_ratio", "om_robust")
    ]
    assert [(row.metric, row.note) for row in beside(robust)] == [
        ("om_robust", "own over digits_c; printed over cifar10_c")
    ]


def test_subsets_stand_beside_subsets_and_units_must_agree() -> None:
    run = run_config("shapenet", "pointnet", "bnn", metric="miou")
    figures = (
        figure("miou", 50.0, "percent"),
        figure("miou", 30.0, "percent", {"subset": "airplane"}),
        figure("miou", 20.0, "percent", {"subset": "teapot"}),
        figure("miou", 10.0, "percent", {"corruption": "fog", "severity": 1}),
    )
    own = Results(plan=[run], records=[ok_record(run, 0.0, figures=figures)])
    published = record_of("shapenet", "pointnet", "bnn")
    airplane = published.figures_under("miou", "subset")[("airplane",)]
    whole = published.figure("miou")
    assert whole is not None
    assert [(row.subset, row.own, row.published) for row in beside_raw(own)] == [
        (None, 50.0, whole.value),
        ("airplane", 30.0, airplane.value),
    ]
    assert without_counterpart([], own) == (0, 1)
    failed = Results(plan=[run], records=[ok_record(run, 0.0, figures=figures, status="failed", reason="NaN")])
    assert beside_raw(failed) == []
    other = Results(plan=[run], records=[ok_record(run, 0.5, unit="ratio")])
    assert beside_raw(other) == []
    assert without_counterpart([], other) == (0, 1)


def test_the_published_results_beside_themselves() -> None:
    rows = beside_raw(published_results())
    assert len(rows) == 504
    assert all(row.difference == 0 and row.std is None and row.source for row in rows)
    assert without_counterpart([], published_results()) == (0, 0)
