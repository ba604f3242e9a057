"""The level of a trivial answer, and which scores are at it."""

import pytest
from made_records import failed_record, figure, ok_record, run_config

from bibench.records import Figure, Record
from bibench.tracks.trivial import trivial_level


def told(value: float, higher_is_better: bool | None = True) -> Record:
    score = Figure(name="accuracy", value=value, unit="percent", higher_is_better=higher_is_better)
    level = figure("trivial_accuracy", 50.0, "percent", mode="one answer")
    return ok_record(
        run_config("t", "a", "bnn"), value, figures=(score, level, figure("trivial_accuracy_margin", 2.0, "percent"))
    )


def test_the_level_is_what_the_first_record_that_has_one_says() -> None:
    without = [failed_record(run_config("t", "a", "fda"), "loss is NaN"), ok_record(run_config("t", "a", "fp32"), 60.0)]
    assert trivial_level(without) is None
    found = trivial_level([*without, told(60.0)])
    assert found is not None
    assert (found.answer, found.value, found.margin, found.unit) == ("one answer", 50.0, 2.0, "percent")


@pytest.mark.parametrize("higher_is_better", [True, None])
def test_a_score_has_to_be_more_than_the_margin_beyond_it(higher_is_better: bool | None) -> None:
    level = trivial_level([told(60.0, higher_is_better)])
    assert level is not None
    assert [level.covers(score) for score in (0.0, 50.0, 52.0, 52.01)] == [True, True, True, False]


def test_where_lower_is_better_beyond_is_below() -> None:
    level = trivial_level([told(60.0, higher_is_better=False)])
    assert level is not None
    assert [level.covers(score) for score in (100.0, 48.0, 47.99)] == [True, True, False]
