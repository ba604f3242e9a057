"""Schedules by hand, warm-up, and what validation refuses."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from bibench.recipes import SGD, Adam, Constant, Cosine, Linear, Recipe, Schedule, Step

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
