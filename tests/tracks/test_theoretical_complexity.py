"""Equations 7 and 8 from stored figures, by hand."""

import math

import pytest
from made_records import by_metric, failed_record, figure, measured_record, ok_record, run_config, with_records

from bibench.records import Record, Results, Score
from bibench.tracks import score
from bibench.tracks.theoretical_complexity import theoretical_complexity

TRACK = "theoretical_complexity"


def counted(
    architecture: str, seed: int, literal: tuple[float, float], paper: tuple[float, float] | None = None
) -> Record:
    """A binarized run with (speedup, compression) by both ways of counting."""
    figures = [figure(name, value, "ratio") for name, value in zip(("speedup", "compression"), literal, strict=True)]
    if paper is not None:
        figures += [
            figure(name, value, "ratio", {"counting": "paper"})
            for name, value in zip(("speedup", "compression"), paper, strict=True)
        ]
    return measured_record(run_config("t", architecture, "bnn", seed), 80.0, TRACK, *figures)


def made(*records: Record) -> Results:
    return Results(plan=[record.run for record in records], records=records)


TWO_ROWS = made(counted("a", 0, (10.0, 20.0), (11.0, 21.0)), counted("b", 0, (14.0, 24.0), (15.0, 29.0)))


def test_equation_8_by_hand() -> None:
    found = by_metric(theoretical_complexity.score(TWO_ROWS))
    assert list(found) == ["speedup", "compression", "om_comp"]
    assert found["speedup"].value == pytest.approx(12.0)
    assert found["compression"].value == pytest.approx(22.0)
    # sqrt((144 + 484)/2) = sqrt(314) = 17.72005
    assert found["om_comp"].value == pytest.approx(17.72005, abs=1e-5)
    assert found["om_comp"] == Score(
        track=TRACK,
        metric="om_comp",
        algorithm="bnn",
        value=found["om_comp"].value,
        unit="ratio",
        mode="literal",
        seeds=1,
    )


def test_the_papers_counting_is_the_other_mode() -> None:
    found = by_metric(score(TWO_ROWS, [theoretical_complexity], "paper"))
    assert (found["speedup"].value, found["compression"].value) == (pytest.approx(13.0), pytest.approx(25.0))
    assert found["om_comp"].value == pytest.approx(math.sqrt((169 + 625) / 2))
    assert {(one.mode, one.unit) for one in found.values()} == {("paper", "ratio")}


def test_several_seeds_have_an_interval() -> None:
    results = made(*(counted(name, seed, (10.0, 20.0), (11.0, 21.0)) for name in ("a", "b") for seed in (0, 1, 2)))
    for mode, value in (("literal", math.sqrt(250)), ("paper", math.sqrt(281))):
        found = by_metric(score(results, [theoretical_complexity], mode))["om_comp"]  # type: ignore[arg-type]
        # counts are the same for every seed, so the interval has no width
        assert (found.value, found.low, found.high) == (
            pytest.approx(value),
            pytest.approx(value),
            pytest.approx(value),
        )
        assert (found.seeds, found.std) == (3, pytest.approx(0.0))


def test_the_overall_is_taken_for_each_seed() -> None:
    found = by_metric(theoretical_complexity.score(made(counted("a", 0, (1.0, 7.0)), counted("a", 1, (7.0, 1.0)))))
    assert found["om_comp"].value == pytest.approx(5.0)  # of the means 4 and 4 it would be 4


@pytest.mark.parametrize("mode", ["literal", "paper"])
def test_what_is_missing_is_named(mode: str) -> None:
    run = run_config("t", "a", "bnn")
    for changed, status, text in [
        (None, "incomplete", run.id),
        (failed_record(run, "NaN"), "failed", f"{run.id}: NaN"),
        (ok_record(run, 80.0), "incomplete", run.id),
    ]:
        results = with_records(TWO_ROWS, {run.id: changed})
        for one in score(results, [theoretical_complexity], mode):  # type: ignore[arg-type]
            assert (one.status, one.value, one.missing) == (status, None, (text,))


def test_one_of_several_seeds_without_its_figure_is_a_failure() -> None:
    run = run_config("t", "a", "bnn", 1)
    whole = made(*(counted("a", seed, (10.0, 20.0), (11.0, 21.0)) for seed in (0, 1)))
    found = by_metric(theoretical_complexity.score(with_records(whole, {run.id: measured_record(run, 80.0, TRACK)})))
    for name in ("speedup", "compression"):
        assert (found[name].status, found[name].missing) == (
            "failed",
            (f"{run.id}: its record has no figure '{name}'",),
        )
    assert found["om_comp"].status == "failed"


def test_without_the_papers_counting_its_mode_has_no_value() -> None:
    results = made(counted("a", 0, (10.0, 20.0)))
    assert by_metric(theoretical_complexity.score(results))["om_comp"].status == "ok"
    found = by_metric(score(results, [theoretical_complexity], "paper"))["om_comp"]
    assert (found.status, found.value) == ("failed", None)


def test_networks_that_cannot_be_counted_are_left_out() -> None:
    extra = measured_record(run_config("t", "c", "bnn"), 80.0, TRACK)
    both = Results(plan=[*TWO_ROWS.plan, extra.run], records=[*TWO_ROWS.records, extra])
    assert theoretical_complexity.score(both) == theoretical_complexity.score(TWO_ROWS)
    found = by_metric(theoretical_complexity.score(made(extra)))["om_comp"]
    assert (found.status, found.missing) == ("incomplete", ("no network was counted",))


def test_scores_never_overflow() -> None:
    results = made(*(counted("a", seed, (value, value)) for seed, value in enumerate((9e99, -9e99, 1e-300))))
    for one in theoretical_complexity.score(results):
        assert one.value is not None
        assert math.isfinite(one.value)
        assert one.low is not None
        assert math.isfinite(one.low)


def test_a_negative_component_of_the_overall_is_named() -> None:
    found = by_metric(theoretical_complexity.score(made(counted("a", 0, (-1.0, 7.0)))))["om_comp"]
    assert (found.value, found.note) == (pytest.approx(7 / math.sqrt(2)), "speedup is negative, entered as 0")
