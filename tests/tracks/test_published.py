"""What the published results rest on, cell by cell, and own results beside them."""

from collections import Counter
from dataclasses import replace

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
    assert [replace(item, source=None) for item in shipped[1:]] == counted


def test_a_corrected_latency_changes_the_speedup() -> None:
    results = published_results()
    changed = record_of("cifar10", "resnet34", "reactnet")
    figures = [replace(item, value=item.value * 2) if item.name == "latency" else item for item in changed.figures]
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
    assert without_counterpart([], own) == (0, 2)
    failed = Results(plan=[run], records=[ok_record(run, 0.0, figures=figures, status="failed", reason="NaN")])
    assert beside_raw(failed) == []
    other = Results(plan=[run], records=[ok_record(run, 0.5, unit="ratio")])
    assert beside_raw(other) == []
    assert without_counterpart([], other) == (0, 1)


def test_the_published_results_beside_themselves() -> None:
    rows = beside_raw(published_results())
    assert all(row.difference == 0 and row.source for row in rows)
    trials = [row for row in rows if row.setting is not None]
    assert len(trials) == 9 * 8
    assert all(row.seeds == 5 and row.std is not None for row in trials)
    corrupted = [row for row in rows if row.corruption is not None]
    assert len(corrupted) == 9 * 95
    assert {(row.task, row.architecture) for row in (*trials, *corrupted)} == {("cifar10", "resnet18")}
    assert len(rows) == 504 + len(trials) + len(corrupted)
    assert all(row.std is None for row in rows if row.setting is None)
    assert without_counterpart([], published_results()) == (0, 0)


def test_scores_on_corrupted_images_stand_beside_those_of_tables_10_and_11() -> None:
    runs = [run_config("cifar10", "resnet18", "bnn", seed) for seed in (0, 1, 2)]
    records = []
    for run, value, origin in zip(runs, (60.0, 62.0, 70.0), ("generated", "generated", "original files"), strict=True):
        fog = figure("accuracy", value, "percent", {"corruption": "fog", "severity": 3}, mode=origin)
        mine = figure("accuracy", 1.0, "percent", {"corruption": "mine", "severity": 3}, mode=origin)
        records.append(ok_record(run, 0.0, figures=(figure("accuracy", 90.0, "percent"), fog, mine)))
    clean, *rows = beside_raw(Results(plan=runs, records=records))
    printed = record_of("cifar10", "resnet18", "bnn").figures_under("accuracy", "corruption", "severity")["fog", "3"]
    assert (clean.corruption, clean.origin, clean.seeds) == (None, None, 3)
    assert [(row.corruption, row.severity, row.origin, row.own, row.seeds) for row in rows] == [
        ("fog", 3, "generated", 61.0, 2),  # images of two origins are not averaged
        ("fog", 3, "original files", 70.0, 1),
    ]
    assert all(row.published == printed.value and row.source == printed.source for row in rows)
    assert rows[0].difference == pytest.approx(61.0 - printed.value)
    other = [run.model_copy(update={"architecture": "resnet20"}) for run in runs[:1]]
    others = [ok_record(run, 0.0, figures=records[0].figures) for run in other]
    assert [row.corruption for row in beside_raw(Results(plan=other, records=others))] == [None]


def test_trials_stand_beside_the_mean_of_tables_12_and_13_by_setting() -> None:
    grid = [run_config("cifar10", "resnet18", "recu", seed, main=False, setting="sgd-0.1x-step") for seed in (0, 1)]
    main = run_config("cifar10", "resnet18", "recu", 2, setting="sgd-0.1x-step")
    mine = run_config("cifar10", "resnet18", "recu", 3, main=False, setting="sgd-0.5x-step")
    records = [ok_record(run, value) for run, value in zip((*grid, main, mine), (80.0, 82.0, 87.0, 1.0), strict=True)]
    whole, trials = beside_raw(Results(plan=[*grid, main, mine], records=records))
    printed = [
        record.figures[0].value
        for record in published_results().records
        if (record.run.algorithm, record.run.setting) == ("recu", "sgd-0.1x-step")
    ]
    assert len(printed) == 5
    assert (whole.setting, whole.own, whole.source) == (None, 87.0, "BiBench, Table 7")
    assert (trials.setting, trials.own, trials.seeds) == ("sgd-0.1x-step", 83.0, 3)
    assert trials.published == pytest.approx(sum(printed) / 5)
    assert trials.source is not None
    assert trials.source.startswith("BiBench, Table 1")
