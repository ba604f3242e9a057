"""Equation 9 by hand, and what is said where nothing was deployed."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from made_records import by_metric, failed_record, figure, measured_record, ok_record, run_config, with_records

from bibench.records import Absence, Figure, Record, Results, Score
from bibench.tracks import ScoreError, score
from bibench.tracks.hardware_inference import hardware_inference

TRACK = "hardware_inference"

Latencies = Mapping[tuple[str, int, str], tuple[float, ...]]
"""By (device, threads, library): latency, full precision's, and, if it is another one, that of its fastest runtime."""

NAMES = ("latency", "full_precision_latency", "fastest_full_precision_latency")


def latencies(found: Latencies, unit: str = "ms") -> list[Figure]:
    return [
        figure(name, value, unit, dict(zip(("device", "threads", "library"), place, strict=True)))
        for place, values in found.items()
        for name, value in zip(NAMES, values, strict=False)
    ]


def deployed(
    architecture: str, found: Latencies, storage: float | None = None, seed: int = 0, **more: object
) -> Record:
    figures = latencies(found)
    if storage is not None:
        figures.append(figure("storage_compression", storage, "ratio"))
    return measured_record(run_config("t", architecture, "bnn", seed), 80.0, TRACK, *figures, **more)


def made(*records: Record) -> Results:
    return Results(plan=[record.run for record in records], records=records)


A = {("pi", 1, "larq"): (10.0, 50.0), ("pi", 4, "larq"): (5.0, 15.0), ("pi", 1, "dabnn"): (20.0, 50.0)}  # 5, 3, 2.5
B = {("m1", 1, "larq"): (2.0, 15.0)}  # 7.5
TWO_ROWS = made(deployed("a", A, 14.0), deployed("b", B, 18.0))


def test_equation_9_by_hand() -> None:
    found = by_metric(hardware_inference.score(TWO_ROWS))
    assert list(found) == ["speedup", "compression", "om_infer"]
    # every place of every row alike: (5 + 3 + 2.5 + 7.5)/4 = 4.5; by row it would be (3.5 + 7.5)/2 = 5.5
    assert found["speedup"].value == pytest.approx(4.5)
    assert found["compression"].value == pytest.approx(16.0)
    # sqrt((20.25 + 256)/2) = sqrt(138.125) = 11.75266
    assert found["om_infer"].value == pytest.approx(11.75266, abs=1e-5)
    assert found["om_infer"] == Score(
        track=TRACK,
        metric="om_infer",
        algorithm="bnn",
        value=found["om_infer"].value,
        unit="ratio",
        mode="literal",
        seeds=1,
    )
    assert score(TWO_ROWS, [hardware_inference], "paper") == hardware_inference.score(TWO_ROWS)


def test_the_fastest_runtime_for_full_precision_stands_beside() -> None:
    found = by_metric(hardware_inference.score(made(deployed("a", {("pi", 1, "larq"): (10.0, 50.0, 20.0)}, 16.0))))
    assert list(found) == ["speedup", "compression", "speedup_over_fastest", "om_infer"]
    assert found["speedup"].value == pytest.approx(5.0)
    assert found["speedup_over_fastest"].value == pytest.approx(2.0)
    assert found["om_infer"].value == pytest.approx(math.sqrt((25 + 256) / 2))  # it is no part of it


def test_where_no_other_runtime_is_faster_the_own_one_is_the_fastest() -> None:
    some = {("pi", 1, "larq"): (10.0, 50.0, 20.0), ("pi", 4, "larq"): (5.0, 15.0)}  # 2, and 15/5 = 3
    none = {("m1", 1, "larq"): (2.0, 14.0)}  # 7
    found = by_metric(hardware_inference.score(made(deployed("a", some, 16.0), deployed("b", none, 16.0))))
    assert (found["speedup_over_fastest"].status, found["speedup_over_fastest"].value) == ("ok", pytest.approx(4.0))
    assert found["speedup"].value == pytest.approx((5 + 3 + 7) / 3)


def test_more_threads_than_cores_are_noted() -> None:
    found = latencies(
        {("pi", 1, "larq"): (10.0, 50.0), ("pi", 8, "larq"): (5.0, 15.0), ("pi", 16, "larq"): (5.0, 15.0)}
    )
    cores = [
        figure("cores", 4, "count", {"device": "pi", "threads": threads, "library": "larq"})
        for threads in (1, 4, 8, 16, "x")
    ]
    run = run_config("t", "a", "bnn")
    notes = {
        one.metric: one.note
        for one in hardware_inference.score(made(measured_record(run, 80.0, TRACK, *found, *cores)))
    }
    assert notes["speedup"] == "more threads than cores: 8, 16 on pi with 4"
    assert notes["compression"] == notes["om_infer"] == ""


def test_several_seeds_have_an_interval() -> None:
    records = [
        deployed("a", {("pi", 1, "larq"): (10.0, 10.0 * speedup)}, 14.0, seed) for seed, speedup in ((0, 4), (1, 6))
    ]
    found = by_metric(hardware_inference.score(made(*records)))
    assert (found["speedup"].value, found["speedup"].seeds) == (pytest.approx(5.0), 2)
    assert found["speedup"].low == pytest.approx(5 - 12.7062047)
    assert found["om_infer"].value == pytest.approx((math.sqrt(106) + math.sqrt(116)) / 2)
    assert found["om_infer"].low is not None


@pytest.mark.parametrize("status", ["not_deployable", "not_measured"])
def test_what_is_not_deployed_is_never_0(status: str) -> None:
    absences = tuple(Absence(name=name, status=status, reason="why") for name in ("latency", "storage_compression"))
    run = run_config("t", "a", "bnn")
    found = hardware_inference.score(made(measured_record(run, 80.0, TRACK, absences=absences)))
    assert [one.metric for one in found] == ["speedup", "compression", "om_infer"]
    for one in found:
        assert (one.status, one.value, one.low, one.missing) == (status, None, None, (f"{run.id}: why",))


def test_a_run_that_is_yet_to_be_measured_would_complete_it() -> None:
    run = run_config("t", "a", "bnn")
    for one in hardware_inference.score(made(ok_record(run, 80.0))):
        assert (one.status, one.value, one.missing) == ("incomplete", None, (run.id,))


def test_a_measured_record_without_figures_says_that_nothing_has_measured_it() -> None:
    run = run_config("t", "a", "bnn")
    for one in hardware_inference.score(made(ok_record(run, 80.0, measured=(TRACK,)))):
        assert (one.status, one.value) == ("not_measured", None)
        assert one.missing == (f"{run.id}: no runtime has measured it",)


def test_a_network_that_was_not_deployed_is_no_part_of_the_mean() -> None:
    absent = Absence(name="latency", status="not_deployable", reason="why")
    for extra in (
        measured_record(run_config("t", "c", "bnn"), 80.0, TRACK, absences=(absent,)),
        measured_record(run_config("t", "c", "bnn"), 80.0, TRACK),
    ):
        both = Results(plan=[*TWO_ROWS.plan, extra.run], records=[*TWO_ROWS.records, extra])
        assert hardware_inference.score(both) == hardware_inference.score(TWO_ROWS)
    waiting = ok_record(run_config("t", "c", "bnn"), 80.0)  # not tried yet, so it may become a part of it
    both = Results(plan=[*TWO_ROWS.plan, waiting.run], records=[*TWO_ROWS.records, waiting])
    assert {one.status for one in hardware_inference.score(both)} == {"incomplete"}


def test_missing_and_failed_runs_are_named() -> None:
    run = run_config("t", "b", "bnn")
    for changed, status, text in [
        (None, "incomplete", run.id),
        (failed_record(run, "NaN"), "failed", f"{run.id}: NaN"),
    ]:
        for one in hardware_inference.score(with_records(TWO_ROWS, {run.id: changed})):
            assert (one.status, one.value, one.missing) == (status, None, (text,))


def shipped(architecture: str, value: float, trained: float = 80.0, unit: str = "percent", seed: int = 0) -> Record:
    record = deployed(architecture, {("pi", 1, "larq"): (10.0, 50.0)}, 14.0, seed)
    figures = [replace(one, value=trained, unit=unit) for one in record.figures[:1]]
    figures += [*record.figures[1:], figure("packed_accuracy", value, unit)]
    return record.model_copy(update={"figures": tuple(figures)})


def test_what_the_shipped_files_score_stands_beside() -> None:
    found = by_metric(hardware_inference.score(made(shipped("a", 80.0), shipped("b", 70.0, trained=71.0))))
    assert list(found) == ["speedup", "compression", "packed_score", "packed_difference", "om_infer"]
    assert (found["packed_score"].value, found["packed_score"].unit) == (75.0, "percent")
    assert (found["packed_difference"].value, found["packed_difference"].unit) == (-0.5, "percent")
    assert found["om_infer"].value == pytest.approx(math.sqrt((25 + 14**2) / 2))  # it is no part of it


def test_files_that_are_scored_in_different_units_have_no_mean() -> None:
    found = by_metric(hardware_inference.score(made(shipped("a", 80.0), shipped("b", 0.7, 0.7, unit="ratio"))))
    assert list(found) == ["speedup", "compression", "om_infer"]


def test_a_file_that_was_not_scored_says_why() -> None:
    absent = Absence(name="latency", status="not_deployable", reason="why")
    run = run_config("t", "b", "fda")
    lost = measured_record(run, 80.0, TRACK, absences=(absent,))
    found = by_metric(hardware_inference.score(made(shipped("b", 80.0), lost)), "fda")
    for name in ("packed_score", "packed_difference"):
        assert (found[name].status, found[name].missing) == ("not_deployable", (f"{run.id}: why",))


def test_not_deployable_outranks_not_measured() -> None:
    absent = Absence(name="latency", status="not_deployable", reason="why")
    records = [
        measured_record(run_config("t", "a", "bnn"), 80.0, TRACK, absences=(absent,)),
        ok_record(run_config("t", "b", "bnn"), 80.0),
    ]
    found = by_metric(hardware_inference.score(made(*records)))["om_infer"]
    assert found.status == "not_deployable"
    assert len(found.missing) == 3  # latency of both; storage of both, of which one has the same text


def test_storage_without_latency_is_not_measured() -> None:
    found = by_metric(hardware_inference.score(made(deployed("a", {}, 14.0))))
    assert found["compression"].value == pytest.approx(14.0)
    assert found["speedup"].status == found["om_infer"].status == "not_measured"


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_latency_without_its_partner_is_a_failure(lacking: int) -> None:
    figures = latencies({("pi", 1, "larq"): (10.0, 50.0), ("pi", 4, "larq"): (5.0, 15.0)})
    run = run_config("t", "a", "bnn")
    record = measured_record(run, 80.0, TRACK, *(figures[:lacking] + figures[lacking + 1 :]))
    found = by_metric(hardware_inference.score(made(record)))["speedup"]
    assert (found.status, found.value) == ("failed", None)
    assert found.missing == (f"{run.id}: no pair of latencies, binarized and full precision, on pi, 1, larq",)


@pytest.mark.parametrize("values", [(0.0, 50.0), (10.0, 0.0), (-1.0, 50.0), (10.0, -50.0)])
def test_a_latency_that_is_not_above_zero_is_a_failure(values: tuple[float, float]) -> None:
    run = run_config("t", "a", "bnn")
    found = by_metric(hardware_inference.score(made(deployed("a", {**A, ("m1", 1, "larq"): values}, 14.0))))["speedup"]
    assert (found.status, found.value) == ("failed", None)
    text = f"{run.id}: latency {values[0]:g} and full_precision_latency {values[1]:g} on m1, 1, larq, expected above 0"
    assert found.missing == (text,)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_compression_that_is_not_above_zero_is_a_failure(value: float) -> None:
    found = by_metric(hardware_inference.score(made(deployed("a", A, value))))
    text = f"{run_config('t', 'a', 'bnn').id}: storage_compression is {value:g}, expected above 0"
    for metric in ("compression", "om_infer"):
        assert (found[metric].status, found[metric].missing) == ("failed", (text,))
    assert found["speedup"].status == "ok"


def test_mixed_units_are_an_error() -> None:
    place = ("pi", 1, "larq")
    own, full = latencies({place: (10.0, 50.0)})
    run = run_config("t", "a", "bnn")
    record = measured_record(run, 80.0, TRACK, own, replace(full, unit="s"))
    with pytest.raises(ScoreError, match="latency is in 'ms', full_precision_latency in 's'") as caught:
        hardware_inference.score(made(record))
    assert run.id in str(caught.value)


def test_scores_never_overflow() -> None:
    for values in ((1e-300, 9e99), (9e99, 1e-300)):
        records = [deployed("a", {("pi", 1, "larq"): values}, 9e99, seed) for seed in (0, 1)]
        for one in hardware_inference.score(made(*records)):
            assert one.status in ("ok", "failed")
            assert all(value is None or math.isfinite(value) for value in (one.value, one.low, one.std))
