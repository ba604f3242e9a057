"""The terminal's cards and the page's sections for all six tracks, whatever of their pieces is there."""

import dataclasses
import html as html_module
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from rich.console import Console
from six_tracks import CLEAN, EVERYTHING, SETTINGS, TRACKS, TYPES, six

from bibench.records import Results, Score
from bibench.report import Meta, print_tables, write_report
from bibench.report.corruption_tables import corruption_tables
from bibench.report.figure_tables import complexity_tables, cost_tables, deployment_tables
from bibench.report.plots import sensitivity_plot, severity_plot
from bibench.report.summary import interval_text, missing, scorecards, sensitivity_grids, task_tables
from bibench.report.words import amount, short_time, size
from bibench.tracks import score
from bibench.tracks.comparisons import comparisons


def printed(results: Results, width: int | None = None, scores: Sequence[Score] | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=width is not None, color_system=None, highlight=False)
    print_tables(results, score(results, TRACKS) if scores is None else scores, [], console)
    return out.getvalue()


PLOTS = ("accuracy_plot", "learning_curves", "sensitivity_plot", "severity_plot", "computing_power_plot")


def page(
    path: Path, results: Results, scores: Sequence[Score] | None = None, plots: bool = False, **changes: Any
) -> str:
    """The page; without ``plots``, which take seconds, each is an empty picture."""
    meta = Meta(**({"suite": "quick", "tracks": TRACKS} | changes))
    found = score(results, TRACKS) if scores is None else scores
    empty = {} if plots else dict.fromkeys(PLOTS, lambda *_: "<svg></svg>")
    with patch.multiple("bibench.report.html", **empty) if empty else nullcontext():
        write_report(path / "report.html", results, found, comparisons(results, resamples=100), lambda _: [], meta)
    return (path / "report.html").read_text(encoding="utf-8")


def section(html: str, track: str) -> str:
    """The part of the page about one track."""
    return html.split(f'<section id="track-{track}">')[1].split("</section>")[0]


def words(html: str) -> str:
    """What of some HTML is text, in one line."""
    return " ".join(html_module.unescape(re.sub(r"<[^>]+>", " ", html)).split())


def cards(results: Results) -> dict[str, Any]:
    return {card.track: card for card in scorecards(score(results, TRACKS))}


def made(**changes: Any) -> Score:
    fields = {"track": "corruption_robustness", "metric": "mce", "algorithm": "bnn", "value": 1.0}
    return Score(**(fields | changes))


# Cards


def test_units_are_in_the_title_where_they_agree_and_in_the_headings_where_not() -> None:
    text = printed(six())
    titles = [line for line in text.splitlines() if ": " in line]
    assert "learning_task: percent of full precision, mean [95 % interval] over 2 seeds" in titles
    assert "neural_architecture: percent of full precision, mean [95 % interval] over 2 seeds" in titles
    assert "corruption_robustness: mean [95 % interval] over 2 seeds" in titles
    assert "training_consumption: percent, value [95 % interval] over 2 to 3 seeds" in titles  # sensitivity is no mean
    assert "theoretical_complexity: ratio, the same for each of 2 seeds" in titles
    heading = next(line for line in text.splitlines() if "mean_gap" in line)
    assert re.split(r" {2,}", heading.strip()) == [
        "cifar10_c (percent)", "gap_ratio (percent)", "mean_gap (points)", "mce (percent)", "relative_mce (percent)",
        "om_robust (percent)",
    ]  # fmt: skip


def test_units_are_in_the_page(tmp_path: Path) -> None:
    html = page(tmp_path, six())
    text = words(section(html, "corruption_robustness"))
    assert "cifar10_c percent gap_ratio percent mean_gap points mce percent" in text
    assert "om_comp percent" not in words(section(html, "theoretical_complexity"))
    assert "Lower is better: mean_gap, mce, relative_mce" in text
    assert "Lower is better" not in words(section(html, "learning_task"))


def test_the_paper_mode_is_named() -> None:
    assert "as the paper counts" in printed(six(), scores=score(six(), TRACKS, "paper"))
    assert "as the paper counts" not in printed(six())


def test_each_note_is_shown_once_with_its_metrics(tmp_path: Path) -> None:
    text = printed(six(), width=70)
    flat = " ".join(text.split())
    assert flat.count("8 settings x 3 seeds = 24 trials") == 1
    assert "sensitivity, om_train: cifar10 resnet18: 8 settings" in flat
    assert words(page(tmp_path, six())).count("8 settings x 3 seeds = 24 trials") == 1


def test_a_note_of_some_algorithms_names_them() -> None:
    scores = [
        made(note="3 of 9 left out"), made(metric="om_robust", note="3 of 9 left out"),
        made(algorithm="recu"), made(algorithm="recu", metric="om_robust", note="1 of 9 left out"),
    ]  # fmt: skip
    card = scorecards(scores)[0]
    assert card.notes == (("mce, om_robust of bnn", "3 of 9 left out"), ("om_robust of recu", "1 of 9 left out"))
    assert "mce, om_robust of bnn: 3 of 9 left out" in printed(six(), scores=scores)


@pytest.mark.parametrize("status", ["not_measured", "not_deployable", "not_reproducible", "incomplete", "failed"])
def test_every_status_is_in_words(tmp_path: Path, status: Any) -> None:
    scores = [made(track="learning_task", value=None, status=status), made(track="learning_task", algorithm="recu")]
    spoken = status.replace("_", " ")
    assert spoken in printed(six(), scores=scores)
    assert status == spoken or status not in printed(six(), scores=scores)
    assert spoken in words(section(page(tmp_path, six(), scores), "learning_task"))


def test_an_interval_without_width_is_not_printed() -> None:
    assert interval_text(made(low=2.0, high=2.0)) == ""
    assert interval_text(made(value=0.3, low=0.3, high=0.1 + 0.2)) == ""
    assert interval_text(made(low=0.996, high=1.004)) == "[1.00, 1.00]"
    assert interval_text(made()) == ""
    lines = printed(six()).split("theoretical_complexity")[1].splitlines()
    assert lines[2].split() == ["bnn", "12.60", "9.30", "11.07"]


def test_a_track_that_nothing_measures_is_one_line(tmp_path: Path) -> None:
    results = six(seeds=(0, 1, 2))
    about = [line for line in printed(results, width=100).splitlines() if "hardware" in line or "runtime" in line]
    assert about == ["hardware_inference: not measured: no runtime has measured it (12 runs)"]
    own = section(page(tmp_path, results), "hardware_inference")
    assert "Not measured: no runtime has measured it (12 runs)." in words(own)
    assert "<table" not in own
    gaps = (tmp_path / "report.html").read_text().split('<section id="missing">')[1]
    assert "runtime" not in gaps


def test_a_track_that_nothing_measures_is_one_line_while_runs_are_still_to_come() -> None:
    results = six(lacking=[("recu", None)])
    text = printed(results, width=100)
    assert "hardware_inference: not measured: no runtime has measured it (6 runs)" in text
    assert cards(results)["hardware_inference"].settled == "not measured"
    gap = next(item for item in missing(score(results, TRACKS), results) if "recu-s1" in item.text)
    assert gap.text.endswith(": not run yet")


def test_a_track_that_is_measured_in_part_has_its_table_and_the_reasons(tmp_path: Path) -> None:
    lacks = tuple(f"t-a-bnn-s{seed}-0123456789: no kernel for it" for seed in range(3))
    scores = [
        made(track="hardware_inference", value=None, status="not_deployable", missing=lacks, unit="ratio"),
        made(track="hardware_inference", algorithm="recu", unit="ratio"),
    ]
    text = printed(six(), scores=scores)
    assert "not deployable" in text
    assert "mce of bnn: no kernel for it (3 runs)" in text
    assert "Why scores are failed or incomplete" not in text
    assert "mce of bnn: no kernel for it (3 runs)" in words(page(tmp_path, six(), scores)).replace(" :", ":")
    assert scorecards(scores)[0].settled is None


def test_what_nothing_has_measured_is_no_gap_of_a_score_that_failed_for_another_reason() -> None:
    lack = "t-a-bnn-s0-0123456789: no runtime has measured it"
    scores = [
        made(metric="speedup", value=None, status="not_measured", missing=(lack,)),
        made(metric="om_infer", value=None, status="failed", missing=(lack, "a file is damaged")),
    ]
    assert [item.text for item in missing(scores, six())] == ["a file is damaged"]


def test_reasons_that_many_runs_share_are_said_once(tmp_path: Path) -> None:
    results = six(failed=[("bnn", setting) for setting in SETTINGS], lacking=[("fda", s) for s in SETTINGS])
    found = missing(score(results, TRACKS), results)
    bad = next(item for item in found if item.failed and "NaN" in item.text)
    assert bad.text == "loss is NaN in epoch 2 (8 runs)"
    assert (len(bad.places), bad.algorithms, bad.metrics) == (8, ("bnn",), ("sensitivity", "om_train"))
    assert all("cifar10-resnet18-bnn-s2-" in place for place in bad.places)
    late = next(item for item in found if "not run yet" in item.text)
    assert (late.text, late.algorithms, late.failed) == ("not run yet (8 runs)", ("fda",), False)
    html = page(tmp_path, results)
    gaps = html.split("what scores wait for")[1]
    assert all(place in gaps for place in (*bad.places, *late.places))
    few = six(failed=[("bnn", SETTINGS[0])])
    one = missing(score(few, TRACKS), few)[0]
    assert (one.text.split(": ")[1], one.places) == ("loss is NaN in epoch 2", ())


def test_a_finished_run_that_a_track_has_not_measured_is_told_from_one_that_never_ran() -> None:
    results = six(measured=())
    texts = [item.text for item in missing(score(results, TRACKS), results)]
    assert any("run, but not measured by this track yet" in text for text in texts)
    assert not any("not run yet" in text for text in texts)


def test_reasons_of_seeds_are_counted_as_seeds() -> None:
    lacks = tuple(f"seed {seed}: a mean gap is 0" for seed in range(5))
    scores = [made(value=None, status="failed", missing=lacks), made(value=None, metric="x", missing=("no mlps",),
              status="incomplete")]  # fmt: skip
    assert [item.text for item in missing(scores, six())] == ["a mean gap is 0 (5 seeds)", "no mlps"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_texts_in_the_terminal_are_never_cut(width: int) -> None:
    long = "an_algorithm_with_a_name_that_is_far_too_long_for_any_table"
    results = six(algorithms=["fp32", "bnn", "recu", long], failed=[("bnn", SETTINGS[0])])
    text = printed(results, width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    first = "".join(line.split("  ")[0] for line in text.splitlines() if not line.startswith(" "))
    assert long in first  # broken over lines, in the column of names
    letters = re.sub(r"\s", "", text)
    for part in ("relative_mce(percent)", "mean_gap(points)", "24trials", "noruntimehasmeasuredit(6runs)"):
        assert part in letters


# The sensitivity grid


def test_the_grid_holds_every_trial_and_marks_the_best_setting() -> None:
    (grid,) = sensitivity_grids(six())
    assert (grid.task, grid.architecture, grid.metric, grid.unit) == ("cifar10", "resnet18", "accuracy", "percent")
    assert grid.settings == SETTINGS
    assert grid.algorithms == tuple(CLEAN)
    assert sorted(grid.cells["bnn", "sgd-1x-step"].values) == [0, 1, 2]
    spread = grid.cells["bnn", "sgd-1x-step"].spread
    assert spread is not None
    assert spread.mean == pytest.approx(71 - 9 * 3 / 4 + 9 * 0.2)
    for name in CLEAN:
        assert [s for s in SETTINGS if grid.cells[name, s].best] == ["sgd-1x-cosine"]
    trials = [value for s in SETTINGS for value in grid.cells["bnn", s].values.values()]
    mean = sum(trials) / 24
    assert grid.deviation("bnn") == pytest.approx((sum((v - mean) ** 2 for v in trials) / 23) ** 0.5)


def test_the_grid_plot_has_a_panel_an_algorithm_and_a_row_a_setting() -> None:
    (grid,) = sensitivity_grids(six())
    svg = sensitivity_plot(grid)
    assert svg is not None
    texts = [text.strip() for text in ElementTree.fromstring(svg).itertext() if text.strip()]
    for label in (*CLEAN, "sgd 1x cosine", "adam 0.1x step", "accuracy (percent)", f"std {grid.deviation('bnn'):.2f}"):
        assert label in texts
    assert "currentColor" in svg
    assert "var(--plot" in svg
    assert "var(--full" in svg


def test_the_page_shows_the_grid_in_pictures_and_numbers(tmp_path: Path) -> None:
    own = section(page(tmp_path, six()), "training_consumption")
    assert own.count("<svg") == 1
    text = words(own)
    assert "resnet18 on cifar10: sensitivity to training settings" in text
    assert "Small dots: single seeds" in text
    assert "resnet18 on cifar10: accuracy in percent by training setting, mean ± std over 3 seeds" in text
    assert "94.20 ± 0.20 ~" in text


def test_a_grid_with_failed_and_missing_runs() -> None:
    results = six(grid_seeds=(0,), failed=[("bnn", "adam-1x-step")], lacking=[("recu", "sgd-1x-cosine")])
    (grid,) = sensitivity_grids(results)
    assert grid.cells["bnn", "adam-1x-step"].text == "failed"
    assert grid.cells["recu", "sgd-1x-cosine"].text == "incomplete"
    assert (grid.deviation("bnn"), grid.deviation("recu")) == (None, None)
    assert grid.deviation("fda") is not None
    svg = sensitivity_plot(grid)
    assert svg is not None
    texts = list(ElementTree.fromstring(svg).itertext())
    assert "failed" in texts
    assert "incomplete" in texts
    assert "one seed" in grid.title


def test_a_grid_without_any_result(tmp_path: Path) -> None:
    results = Results(plan=six().plan, records=[])
    (grid,) = sensitivity_grids(results)
    assert sensitivity_plot(grid) is None
    assert "No run of this grid has a score yet" in page(tmp_path, results, plots=True)


def test_a_suite_without_a_grid(tmp_path: Path) -> None:
    results = six(settings=())
    assert sensitivity_grids(results) == []
    html = page(tmp_path, results)
    assert "sensitivity to training settings" not in html
    assert "Sensitivity grid" not in html
    assert "no sensitivity grid in this suite" in html


def test_settings_with_names_of_another_form_are_rows_too() -> None:
    (grid,) = sensitivity_grids(six(settings=("mine", "sgd-1e-05x-step", "sgd-1x-step")))
    svg = sensitivity_plot(grid)
    assert svg is not None
    assert {"mine", "sgd 1e-05x step"} <= set(ElementTree.fromstring(svg).itertext())


def test_settings_of_an_optimizer_stay_together_whatever_the_order_of_the_plan() -> None:
    plan = ("adam-1x-cosine", "sgd-1x-cosine", "adam-0.1x-step", "adam-1x-step", "sgd-0.1x-step", "adam-0.1x-cosine")
    (grid,) = sensitivity_grids(six(settings=plan))
    assert grid.settings == (
        "adam-1x-cosine", "adam-1x-step", "adam-0.1x-cosine", "adam-0.1x-step", "sgd-1x-cosine", "sgd-0.1x-step",
    )  # fmt: skip


def test_runs_of_the_grid_alone_stay_out_of_everything_else(tmp_path: Path) -> None:
    """One algorithm and one seed are in the grid only, and the rest of the page knows nothing of them."""
    results = six(seeds=(0,), grid_seeds=(0, 7), failed=[("bnn", "sgd-1x-step")])
    only = [run for run in six(algorithms=["extra"], seeds=(0,)).plan if run.setting is not None]
    results = dataclasses.replace(results, plan=[*results.plan, *only])
    (table,) = task_tables(results, [])
    assert "extra" not in table.algorithms
    assert table.seeds == 1
    assert all(cell.planned == 1 for cell in table.cells.values())
    assert not any(cell.failed for cell in table.cells.values())
    html = page(tmp_path, results)
    text = words(html)
    assert "Seeds 1 (0)" in text
    assert "85 of 109 finished, 1 of them failed" in text
    assert "Sensitivity grid 8 settings of resnet18 on cifar10, 4 seeds (0, 1, 2, 7): 80 of these 104 runs" in text
    assert "Everything here is from one seed" in text
    failures = html.split("runs that failed")[1].split("</table>")[0]
    assert "sgd-1x-step" in failures  # the identity alone doesn't say which setting it was


def test_a_grid_run_that_is_a_main_run_too_is_in_both() -> None:
    results = six()
    first = next(run for run in results.plan if run.setting == "sgd-1x-cosine" and run.algorithm == "bnn")
    plan = [run.model_copy(update={"main": True}) if run.id == first.id else run for run in results.plan]
    plan = [run for run in plan if (run.algorithm, run.setting, run.seed) != ("bnn", None, first.seed)]
    both = dataclasses.replace(results, plan=plan)
    (table,) = task_tables(both, [])
    assert table.cells["bnn", "resnet18"].values[first.seed] == results.record(first.id).figures[0].value  # type: ignore[union-attr]
    assert first.seed in sensitivity_grids(both)[0].cells["bnn", "sgd-1x-cosine"].values


# Costs, counts, corruptions


def test_step_times_and_memories(tmp_path: Path) -> None:
    (table,) = cost_tables(six())
    assert table.title == "resnet18 on cifar10, mean over 2 seeds"
    assert dict(zip(table.columns, table.rows["bnn"], strict=True)) == {
        "time cost": "60.5 % (55.0 to 66.0)",
        "step": "12.3 ms",
        "full-precision step": "7.50 ms",
        "peak memory": "48.5 MB",
        "full-precision peak memory": "31.2 MB",
    }
    assert "fp32" not in table.rows
    assert "60.5 %\n(55.0 to 66.0)" in section(page(tmp_path, six()), "training_consumption")


def test_a_column_that_nobody_has_is_left_out_and_a_gap_is_in_words() -> None:
    (table,) = cost_tables(six(peak=False))
    assert table.columns == ("time cost", "step", "full-precision step")
    results = six(seeds=(0,), failed=[("recu", None)])
    records = [
        r.model_copy(update={"figures": r.figures[:1]}) if r.run.algorithm == "fda" and r.run.main else r
        for r in results.records
    ]
    (table,) = cost_tables(dataclasses.replace(results, records=records))
    assert set(table.rows["recu"]) == {"no result"}
    assert set(table.rows["fda"]) == {"not measured"}
    assert table.title.endswith("one seed")
    (partly,) = cost_tables(six(seeds=(0, 1, 2), failed=[("recu", None)]))
    assert partly.title.endswith("mean over 2 to 3 seeds")


def test_what_was_counted(tmp_path: Path) -> None:
    (table,) = complexity_tables(six())
    assert dict(zip(table.columns, table.rows["xnor"], strict=True)) == {
        "parameters": "11.2 M", "kept parameters": "182 K", "operations": "555 M", "kept operations": "36.7 M",
        "bit-operations": "38.1 G", "memory traffic": "5.40 MB", "speedup": "12.60x", "compression": "9.30x",
    }  # fmt: skip
    own = words(section(page(tmp_path, six()), "theoretical_complexity"))
    assert "38.1 G" in own
    assert "25.20x" not in own  # the paper's counting is another condition


def test_where_it_is_deployed(tmp_path: Path) -> None:
    results = six(deployed=True)
    (table,) = deployment_tables(results)
    assert table.title == "resnet18 on cifar10, mean over 2 seeds"
    assert dict(zip(table.columns, table.rows["bnn"], strict=True)) == {
        "latency": "2.50 ms (900 µs to 4.00 ms)",
        "full precision": "20.0 ms (19.0 to 30.0 ms)",
        "fastest full precision": "12.0 ms, ONNX Runtime",
        "speedup": "8.33x",
        "over the fastest": "5.00x",
        "file": "1.75 MB",
        "compression": "25.50x",
        "score of the file": "71.08 percent",
        "difference from PyTorch": "-0.02",
    }
    assert "fp32" not in table.rows
    own = words(section(page(tmp_path, results), "hardware_inference"))
    assert "12.0 ms, ONNX Runtime" in own
    assert "Other runs may have been going on" in own
    assert "packed_score percent" in own
    assert deployment_tables(six()) == []
    text = printed(results)
    assert "speedup_over_fastest" in text
    assert "packed_difference (percent)" in text


def test_corruptions_are_averaged_over_severities_and_seeds() -> None:
    (table,) = corruption_tables(six())
    assert table.algorithms == tuple(CLEAN)
    assert table.corruptions == TYPES
    assert table.severities == (1, 2, 3, 4, 5)
    assert table.seeds == "mean over 2 seeds"
    assert table.clean("bnn") == pytest.approx(71.1)
    assert table.by_corruption["bnn", "glass_blur"] == pytest.approx(71.1 - (2 + 2) * 3 * 1.2)
    assert table.by_corruption["recu", ""] == pytest.approx(90.6 - 4.5 * 3 * 0.8)
    assert table.by_severity["recu"][5] == pytest.approx([90.5 - 4.5 * 5 * 0.8, 90.7 - 4.5 * 5 * 0.8])
    assert table.by_severity["recu"][0] == pytest.approx([90.5, 90.7])
    assert (table.share(94.1), table.share(min(table.by_corruption.values())), table.share(None)) == (100, 0, 0)


def test_the_page_shows_corruptions_as_a_map_and_lines(tmp_path: Path) -> None:
    own = section(page(tmp_path, six()), "corruption_robustness")
    text = words(own)
    assert "mean over severities 1, 2, 3, 4, 5; mean over 2 seeds; corrupted images: generated" in text
    assert "glass blur 84.5 56.7 74.5 81.0 80.4" in text
    assert "--share: 100" in own
    assert own.count("<svg") == 1
    svg = severity_plot(corruption_tables(six())[0])
    assert svg is not None
    assert {"bnn", "recu", "severity", "accuracy (percent)"} <= set(ElementTree.fromstring(svg).itertext())
    other = words(page(tmp_path, six(origin="original files")))
    assert "corrupted images: original files" in other


def test_gaps_and_corruption_errors_by_type() -> None:
    (table,) = corruption_tables(six())
    # gaps (2 + 2) · (1 + ... + 5)/5, times 1.2 and 0.8, the same for both seeds
    assert table.gaps.cells["bnn", "glass_blur"] == pytest.approx(14.4)
    assert table.gaps.cells["fp32", "glass_blur"] == pytest.approx(9.6)
    assert table.gaps.cells["fp32", ""] == pytest.approx(4.5 * 3 * 0.8)
    # errors (5 · 29 + 72)/(5 · 6 + 48) for seed 0, (5 · 28.8 + 72)/(5 · 5.8 + 48) for seed 1
    assert table.errors.cells["bnn", "glass_blur"] == pytest.approx(50 * (217 / 78 + 216 / 77))
    assert ("fp32", "glass_blur") not in table.errors.cells  # it is the reference
    scores = {(one.algorithm, one.metric): one.value for one in score(six(), TRACKS)}
    for name in ("bnn", "recu"):
        assert table.errors.cells[name, ""] == pytest.approx(scores[name, "mce"])
        assert table.gaps.cells[name, ""] == pytest.approx(scores[name, "mean_gap"])
    assert table.accuracies.cells["bnn", "fog", 5] == pytest.approx(71.1 - (2 + 4) * 5 * 1.2)
    assert len(table.accuracies.cells) == len(CLEAN) * len(TYPES) * 5
    lowest, highest = min(table.gaps.cells.values()), max(table.gaps.cells.values())
    assert [table.gaps.share(value) for value in (lowest, (lowest + highest) / 2, highest, None)] == [0, 50, 100, 0]


def test_the_page_shows_gaps_errors_and_every_cell(tmp_path: Path) -> None:
    own = section(page(tmp_path, six()), "corruption_robustness")
    heat, details = own.split("<details>")
    gap, error = words(heat).split("gap in percent points")[1].split("corruption error in percent")
    assert "glass blur 9.6 14.4 9.6 9.6 9.6 " in gap
    assert "all types 10.8 16.2 10.8 10.8 10.8 " in gap
    assert "glass blur 279.4 " in error
    (table,) = corruption_tables(six())
    means = " ".join(f"{table.errors.cells[name, '']:.1f}" for name in table.algorithms[1:])
    assert f"mean (mCE) {means} " in error
    cells = words(details)
    assert "accuracy in percent by corruption type and severity; mean over 2 seeds" in cells
    assert "fog 1 89.3 63.9 79.3 85.8 85.2 2 84.5 56.7 74.5 81.0 80.4 3 " in cells
    assert details.count("<tr>") == 1 + len(TYPES) * 5


def test_without_its_partner_a_network_has_no_corruption_error(tmp_path: Path) -> None:
    results = six(seeds=(0,), lacking=[("fp32", None)])
    (table,) = corruption_tables(results)
    assert (table.gaps.cells, table.errors.cells) == ({}, {})
    text = words(section(page(tmp_path, results), "corruption_robustness"))
    assert "gap in percent points" not in text
    assert "corruption error in percent" not in text
    assert "accuracy in percent by corruption type and severity" in text
    partly = six(failed=[("recu", None)], seeds=(0, 1))
    assert "recu" in corruption_tables(partly)[0].algorithms
    ratios = [
        r.model_copy(update={"figures": tuple(replace(f, unit="ratio") for f in r.figures)}) for r in six().records
    ]
    assert corruption_tables(dataclasses.replace(six(), records=ratios))[0].errors.cells == {}


def test_one_severity_is_a_map_without_lines(tmp_path: Path) -> None:
    results = six(severities=(3,), seeds=(0,))
    records = [r.model_copy(update={"figures": r.figures[1:]}) if r.run.main else r for r in results.records]
    (table,) = corruption_tables(dataclasses.replace(results, records=records))
    assert table.clean("bnn") is None
    assert severity_plot(table) is None
    assert table.seeds == "one seed"
    (usual,) = corruption_tables(results)
    assert severity_plot(usual) is not None  # clean and one more


def test_without_corrupted_figures_there_is_no_map(tmp_path: Path) -> None:
    results = six(measured=("theoretical_complexity",))
    assert corruption_tables(results) == []
    own = section(page(tmp_path, results, plots=True), "corruption_robustness")
    assert "heat" not in own
    assert "<svg" not in own


def test_an_algorithm_without_a_result_is_not_in_the_map() -> None:
    (table,) = corruption_tables(six(seeds=(0,), lacking=[("recu", None)]))
    assert "recu" not in table.algorithms
    (alone,) = corruption_tables(six(seeds=(0,), lacking=[(name, None) for name in CLEAN if name != "fp32"]))
    assert alone.algorithms == ("fp32",)
    assert severity_plot(alone) is None


# The page as a whole


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [value or "" for key, value in attrs if key in ("href", "src", "xlink:href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_section_a_track_in_the_suites_order(tmp_path: Path) -> None:
    networks = [("cifar10", "resnet18", "cnns"), ("cifar10", "resnet-18", "cnns"), ("cifar10", "resnet_18", "cnns")]
    results = six(networks=networks, algorithms=["fp32", "bnn"], settings=SETTINGS[:2])
    for tracks in (TRACKS, TRACKS[::-1], TRACKS[2:4]):
        html = page(tmp_path, results, score(results, tracks), plots=tracks is TRACKS, tracks=tracks)
        seen = _Page()
        seen.feed(html)
        assert seen.open == []
        assert len(seen.ids) == len(set(seen.ids))  # those of plots too, however alike their titles
        assert all(link[1:] in seen.ids for link in seen.links)
        assert [name for name in seen.ids if name.startswith("track-")] == [f"track-{track.name}" for track in tracks]
        assert [link for link in seen.links if link.startswith("#track-")] == [f"#track-{t.name}" for t in tracks]
        for track in tracks:
            own = words(section(html, track.name))
            assert own.startswith(f"{track.title} {track.description}")
    assert words(page(tmp_path, Results(plan=[], records=[]))).count("No score: nothing is binarized") == len(TRACKS)


def test_labels_are_text_in_every_section(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    results = six(
        networks=[(f"t{evil}", f"a{evil}", "cnns")], algorithms=["fp32", evil, r"$\frac{1}{0}$"],
        corruptions=[f"c{evil}"], origin=f"o{evil}", settings=[f"s{evil}", "sgd-1x-$x$"],
        failed=[(evil, f"s{evil}")],
    )  # fmt: skip
    html = page(tmp_path, results, plots=True)
    assert "<script" not in html
    for track in ("corruption_robustness", "training_consumption", "theoretical_complexity"):
        assert "&lt;script&gt;" in section(html, track)
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ElementTree.fromstring(svg)
    assert evil in printed(results, width=400)


def test_a_published_record_ran_nowhere(tmp_path: Path) -> None:
    results = six()
    records = [record.model_copy(update={"environment": None, "phases": {}}) for record in results.records]
    text = words(page(tmp_path, dataclasses.replace(results, records=records)))
    assert "a published result: not run here" in text
    assert "summed over runs ()" not in text


def test_the_whole_is_the_same_each_time(tmp_path: Path) -> None:
    results = six(algorithms=["fp32", "bnn"], settings=SETTINGS[:3])
    assert page(tmp_path, results, plots=True) == page(tmp_path, results, plots=True)


@pytest.mark.parametrize("measured", [(), ("training_consumption",), EVERYTHING])
@pytest.mark.parametrize("changes", [{}, {"failed": [("bnn", None)]}, {"lacking": [("fp32", None)]}])
def test_any_pieces_make_a_page_and_tables(tmp_path: Path, measured: Sequence[str], changes: dict[str, Any]) -> None:
    for seeds, settings in (((0,), SETTINGS[:1]), ((0, 1), SETTINGS[:2])):
        results = six(
            seeds=seeds, grid_seeds=seeds, measured=measured, algorithms=["fp32", "bnn"], settings=settings, **changes
        )
        assert "</html>" in page(tmp_path, results, plots=True)
        assert "learning_task" in printed(results, width=60)


# Numbers for people


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1.00 K"),
        (9_994, "9.99 K"),
        (9_996, "10.0 K"),
        (99_960, "100 K"),
        (2e18, "2000 P"),
    ],
)
def test_amounts(value: float, text: str) -> None:
    assert amount(value) == text


def test_sizes_and_times() -> None:
    assert [size(value) for value in (12, 1_234, 5_400_000)] == ["12 B", "1.23 kB", "5.40 MB"]
    assert [short_time(value) for value in (0.00001, 0.0421, 0.9994, 0.9996, 75.0)] == [
        "10.0 µs", "42.1 ms", "999 ms", "1.00 s", "75.0 s",
    ]  # fmt: skip
