"""Schedules by hand, warm-up, budgets and their split, and what validation refuses."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from bibench.recipes import SGD, Adam, Constant, Cosine, Linear, Recipe, Schedule, Step, split_budget

SCHEDULES: list[Schedule] = [
    Constant(),
    Cosine(),
    Cosine(final=0.1),
    Linear(),
    Linear(final=0.5),
    Step(milestones=(0.5, 0.75)),
]


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        (Constant(), 0.7, 1.0),
        (Cosine(), 0.0, 1.0),
        (Cosine(), 1 / 3, 0.75),  # (1 + cos 60°)/2
        (Cosine(), 0.5, 0.5),
        (Cosine(), 1.0, 0.0),
        (Cosine(final=0.2), 0.5, 0.6),  # 0.2 + 0.8/2
        (Cosine(final=0.2), 1.0, 0.2),
        (Linear(), 0.0, 1.0),
        (Linear(), 0.25, 0.75),
        (Linear(final=0.5), 0.5, 0.75),  # 1 - 0.5·0.5
        (Linear(final=0.5), 1.0, 0.5),
        (Step(milestones=(0.5, 0.75)), 0.4999, 1.0),
        (Step(milestones=(0.5, 0.75)), 0.5, 0.1),
        (Step(milestones=(0.5, 0.75)), 0.75, 0.01),
        (Step(milestones=(0.5,), gamma=0.3), 1.0, 0.3),
        (Step(milestones=()), 1.0, 1.0),
    ],
)
def test_schedules_by_hand(schedule: Schedule, progress: float, factor: float) -> None:
    assert schedule(progress) == pytest.approx(factor, abs=1e-12)


@given(st.sampled_from(SCHEDULES), st.floats(0, 1), st.floats(0, 1))
def test_schedules_never_rise_and_stay_within_0_and_1(schedule: Schedule, one: float, other: float) -> None:
    early, late = sorted((one, other))
    assert 0 <= schedule(late) <= schedule(early) + 1e-12 <= 1 + 1e-12


def recipe(**changes: Any) -> Recipe:
    return Recipe(**({"optimizer": SGD(lr=0.1), "epochs": 10, "batch_size": 8} | changes))


def test_warm_up_rises_to_the_base_rate_and_the_schedule_takes_the_rest() -> None:
    warm = recipe(warmup=0.2)
    assert warm.learning_rate(0.0) == 0.0
    assert warm.learning_rate(0.05) == pytest.approx(0.025)  # a quarter of the warm-up
    assert warm.learning_rate(0.2) == pytest.approx(0.1)
    assert warm.learning_rate(0.6) == pytest.approx(0.05)  # the middle of the remaining 0.8: cosine's half
    assert warm.learning_rate(1.0) == pytest.approx(0.0, abs=1e-15)


def test_without_warm_up_the_schedule_starts_at_once() -> None:
    assert recipe().learning_rate(0.0) == 0.1
    assert recipe(schedule=Constant()).learning_rate(1.0) == 0.1


def test_a_recipe_survives_json() -> None:
    adapter = TypeAdapter(Recipe)
    for schedule in SCHEDULES:
        for optimizer in (SGD(lr=0.1, nesterov=True), Adam(lr=1e-3, betas=(0.8, 0.99))):
            made = recipe(schedule=schedule, optimizer=optimizer, warmup=0.1, gradient_clip=1.0)
            assert adapter.validate_json(adapter.dump_json(made)) == made


GOOD: dict[str, Any] = {"optimizer": {"name": "sgd", "lr": 0.1}, "epochs": 1, "batch_size": 1}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"warmup": 1.0}, "warmup"),
        ({"warmup": -0.1}, "warmup"),
        ({"precision": "16"}, "precision"),
        ({"gradient_clip": 0}, "gradient_clip"),
        ({"latent_clip": -1}, "latent_clip"),
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"optimizer": {"name": "sgd", "lr": 0}}, "lr"),
        ({"optimizer": {"name": "sgd", "lr": math.nan}}, "lr"),
        ({"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 1.0}}, "momentum"),
        ({"optimizer": {"name": "adam", "lr": 0.1, "momentum": 0.9}}, "momentum"),
        ({"optimizer": {"name": "adam", "lr": 0.1, "betas": (0.9, 1.0)}}, "betas"),
        ({"optimizer": {"name": "lion", "lr": 0.1}}, "optimizer"),
        ({"schedule": {"name": "cosine", "final": 2}}, "final"),
        ({"schedule": {"name": "step", "milestones": (100, 150)}}, "milestones"),  # shares of the budget, not epochs
        ({"schedule": {"name": "step"}}, "milestones"),
        ({"schedule": {"name": "cosin"}}, "schedule"),
    ],
)
def test_validation_names_the_bad_field(changes: dict[str, Any], field: str) -> None:
    adapter = TypeAdapter(Recipe)
    adapter.validate_python(GOOD)
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(GOOD | changes)
    assert any(field in error["loc"] for error in caught.value.errors())


@pytest.mark.parametrize(
    ("budget", "found"),
    [({}, "epochs=None and steps=None"), ({"epochs": 2, "steps": 5}, "epochs=2 and steps=5")],
)
def test_a_budget_is_in_epochs_or_in_steps(budget: dict[str, int], found: str) -> None:
    message = f"expected either epochs or steps, found {found}"
    with pytest.raises(ValueError, match=message):
        Recipe(optimizer=SGD(lr=0.1), batch_size=8, **budget)
    content = {key: value for key, value in GOOD.items() if key != "epochs"} | budget
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Recipe).validate_python(content)


def test_budgets_by_hand() -> None:
    epochs, steps = recipe(epochs=3), recipe(epochs=None, steps=7)
    assert [(own.budget, own.unit) for own in (epochs, steps)] == [(3, "epochs"), (7, "steps")]
    assert [own.total_steps(5) for own in (epochs, steps)] == [15, 7]
    assert [own.total_epochs(5) for own in (epochs, steps)] == [3, 2]  # the second epoch has 2 of its 5 steps
    assert [steps.total_epochs(each) for each in (1, 6, 7, 8)] == [7, 2, 1, 1]
    assert epochs.with_budget(9) == recipe(epochs=9)
    assert steps.with_budget(9) == recipe(epochs=None, steps=9)
    adapter = TypeAdapter(Recipe)
    assert adapter.validate_json(adapter.dump_json(steps)) == steps


@given(
    st.sampled_from(SCHEDULES),
    st.sampled_from((0.0, 0.1, 0.5)),
    st.integers(1, 100),
    st.integers(1, 9),
    st.sampled_from(("epochs", "steps")),
)
def test_a_compressed_schedule_is_the_original_at_scaled_progress(
    schedule: Schedule, warmup: float, part: int, factor: int, unit: str
) -> None:
    """Each step of one that is ``factor`` times shorter has the rate of every ``factor``-th step of the whole."""
    whole = recipe(**{"epochs": None} | {unit: part * factor}, schedule=schedule, warmup=warmup)
    compressed = whole.with_budget(part)
    assert (compressed.budget, compressed.unit) == (part, unit)
    assert dataclasses.replace(compressed, epochs=1, steps=None) == dataclasses.replace(whole, epochs=1, steps=None)
    rates = [whole.learning_rate(step / whole.budget) for step in range(whole.budget + 1)]
    assert [compressed.learning_rate(step / part) for step in range(part + 1)] == rates[::factor]


@pytest.mark.parametrize(
    ("budget", "share", "parts"),
    [
        (64_000, 0.5, (32_000, 32_000)),
        (5, 0.5, (2, 3)),  # 2.5: the binarized part has the odd one
        (7, 0.25, (2, 5)),  # 1.75
        (10, 0.25, (2, 8)),  # 2.5
        (50, 0.55, (27, 23)),  # 27.5, and in binary floating point 27.500000000000004
        (50, 0.07, (3, 47)),  # 3.5, and in binary floating point 3.5000000000000004
        (1001, 0.999, (1000, 1)),
        (2, 0.5, (1, 1)),
        (9, 0, (0, 9)),
        (9, 1, (9, 0)),
        (1, 0.0, (0, 1)),
        (1, 1.0, (1, 0)),
    ],
)
def test_splits_by_hand(budget: int, share: float, parts: tuple[int, int]) -> None:
    assert split_budget(budget, share) == parts


@given(st.integers(1, 2**70), st.floats(0, 1))
def test_the_two_parts_sum_to_the_budget(budget: int, share: float) -> None:
    try:
        first, second = split_budget(budget, share)
    except ValueError as error:
        assert "is too short for a share of" in str(error)  # noqa: PT017
        exact = Fraction(str(share)) * budget
        assert 0 < share < 1
        assert exact <= Fraction(1, 2) or exact > budget - Fraction(1, 2)
        return
    assert first + second == budget
    assert abs(first - Fraction(str(share)) * budget) <= Fraction(1, 2)
    assert (first > 0, second > 0) == (share > 0, share < 1)


@pytest.mark.parametrize("share", [-0.01, 1.01, math.nan, math.inf, -math.inf])
def test_shares_outside_0_and_1(share: float) -> None:
    with pytest.raises(ValueError, match=rf"the share of full precision is {share}: expected a number from 0 to 1"):
        split_budget(100, share)


@pytest.mark.parametrize(("budget", "share"), [(1, 0.5), (2, 0.25), (12, 0.001), (12, 0.999), (0, 0.0), (0, 1.0)])
def test_budgets_too_short_for_both_parts(budget: int, share: float) -> None:
    with pytest.raises(ValueError, match=f"a budget of {budget} is too short for a share of {share:g} in full prec"):
        split_budget(budget, share)
