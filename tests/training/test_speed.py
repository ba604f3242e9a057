"""An iteration, timed over real batches in turns: what counts and what doesn't; and steps in a wall-clock budget."""

import copy
import gc
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bibench import binarize
from bibench.recipes import SGD, Cosine, Recipe
from bibench.tasks.digits import digits
from bibench.training import speed, step_time
from bibench.training.seeds import derive_seed
from bibench.training.speed import iteration_times, steps_in
from bibench.training.step_time import StepTimes, TrainingStep
from small_runs import ALGORITHMS, DATA, config, model_of

RECIPE = Recipe(optimizer=SGD(lr=0.05, momentum=0.9), epochs=3, batch_size=64)
BATCHES = 22  # 1437 // 64
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(step_time.time, "perf_counter", lambda: self.now)


@dataclass
class Watched:
    """The training digits, noting what is asked for, which batches are given, and when they are dropped."""

    log: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    on_batch: object = lambda index: None
    on_end: object = lambda: None
    longest: int = 10**6

    def __len__(self):
        return len(DATA.train)

    def batches(self, batch_size, *, device, seed=None):
        self.asked.append((batch_size, device, seed))
        try:
            for index, batch in enumerate(DATA.train.batches(batch_size, device=device, seed=seed)):
                if index == self.longest:
                    return
                self.on_batch(index)
                self.log.append(index)
                yield batch
        finally:
            self.on_end()
            self.log.append("end")


class Named(nn.Module):
    """A small network that knows its name after it was copied."""

    def __init__(self, name, dropout=0.0):
        super().__init__()
        self.name = name
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, 10))

    def forward(self, x):
        return self.layers(x)


def times_of(*names, recipe=RECIPE, data=DATA, **settings):
    models = {name: Named(name) for name in names}
    recipes = dict.fromkeys(names, recipe)
    return iteration_times(models, task=digits, data=data, recipes=recipes, **settings)


def watched(**settings):
    split = Watched(**settings)
    return split, replace(DATA, train=split)


@pytest.fixture
def taken(monkeypatch):
    """The names of the candidates in the order of their steps, which are really taken."""
    names = []
    take = TrainingStep.take

    def noted(self, batch):
        names.append(self.model.name)
        take(self, batch)

    monkeypatch.setattr(TrainingStep, "take", noted)
    return names


@pytest.fixture
def made(monkeypatch):
    """The candidates that are made."""
    steps = []

    class Kept(TrainingStep):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            steps.append(self)

    monkeypatch.setattr(speed, "TrainingStep", Kept)
    return steps


# What is timed


def test_reading_and_stepping_count_and_the_skipped_batches_and_the_end_do_not(monkeypatch):
    clock = Clock(monkeypatch)

    def pass_by(seconds):
        clock.now += seconds

    take = TrainingStep.take

    def timed(self, batch):
        take(self, batch)
        pass_by({"a": 0.5, "b": 2.0}[self.model.name])

    monkeypatch.setattr(TrainingStep, "take", timed)
    _, data = watched(on_batch=lambda index: pass_by(1000 if index < 3 else 0.25), on_end=lambda: pass_by(500))
    for most, steps in ((None, BATCHES - 3), (4, 4), (1, 1), (100, BATCHES - 3)):
        found = times_of("a", "b", data=data, epochs=2, most=most)
        assert found == {"a": StepTimes((0.75, 0.75), steps), "b": StepTimes((2.25, 2.25), steps)}


def test_the_time_of_an_epoch_is_the_mean_over_its_iterations(monkeypatch):
    clock = Clock(monkeypatch)
    split, data = watched()

    def read(index):
        clock.now += len(split.asked) * (index + 1)  # the first epoch 1, 2, 3, ... seconds, the second 2, 4, 6, ...

    split.on_batch = read
    assert times_of("a", data=data, epochs=3, skip=1, most=4) == {"a": StepTimes((3.5, 7.0, 10.5), 4)}
    split.asked.clear()
    assert times_of("a", data=data, epochs=1, skip=0) == {"a": StepTimes(((BATCHES + 1) / 2,), BATCHES)}


def test_the_device_is_waited_for_before_and_after_what_is_timed(monkeypatch):
    split, data = watched()
    monkeypatch.setattr(step_time, "_wait_for", lambda device: split.log.append(device.type))
    times_of("a", data=data, epochs=1, skip=2, most=3)
    assert split.log == [0, 1, "cpu", 2, 3, 4, "cpu", "end"]


def test_by_default_five_epochs_without_their_first_three_batches():
    split, data = watched()
    found = times_of("a", data=data)
    assert (len(found["a"].seconds), found["a"].steps) == (5, BATCHES - 3)
    assert split.log == [*range(BATCHES), "end"] * 5


def test_garbage_is_not_collected_within_an_epoch_and_is_again_afterwards(monkeypatch):
    seen = []
    split, data = watched(on_batch=lambda index: seen.append(gc.isenabled()))
    monkeypatch.setattr(speed.gc, "collect", lambda generation: split.log.append("collect"))
    times_of("a", "b", data=data, epochs=2, skip=0, most=1)
    assert set(seen) == {False}
    assert split.log == ["collect", 0, "end"] * 4
    assert gc.isenabled()

    def fails(index):
        raise KeyError

    split.on_batch = fails
    with pytest.raises(KeyError):
        times_of("a", data=data)
    assert gc.isenabled()


# In turns, over the batches


def test_candidates_take_epochs_in_turns_and_every_other_round_backwards(taken):
    found = times_of("a", "b", "c", epochs=3, skip=1, most=1)
    assert "".join(taken) == "aabbcc" + "ccbbaa" + "aabbcc"
    assert list(found) == ["a", "b", "c"]
    assert all(len(times.seconds) == 3 for times in found.values())


def test_a_candidates_batches_are_dropped_before_the_next_one_reads():
    split, data = watched()
    times_of("a", "b", data=data, epochs=1, skip=1, most=2)
    assert split.log == [0, 1, 2, "end"] * 2


def test_every_candidate_gets_the_same_batches_and_every_epoch_others():
    split, data = watched()
    times_of("a", "b", data=data, epochs=3, skip=0, most=1)
    cpu = torch.device("cpu")
    assert split.asked == [(64, cpu, derive_seed(0, "speed", epoch)) for epoch in (0, 0, 1, 1, 2, 2)]


def test_each_candidate_has_its_own_recipe(made):
    split, data = watched()
    recipes = {"b": replace(RECIPE, batch_size=256, optimizer=SGD(lr=0.3)), "a": RECIPE}
    models = {name: Named(name) for name in ("a", "b")}
    found = iteration_times(models, task=digits, data=data, recipes=recipes, epochs=2)
    assert [size for size, _, _ in split.asked] == [64, 256, 256, 64]
    assert {name: times.steps for name, times in found.items()} == {"a": BATCHES - 3, "b": 1437 // 256 - 3}
    assert [step._plain_optimizer.param_groups[0]["lr"] for step in made] == [0.05, 0.3]


# The iteration


def test_skipped_and_timed_batches_train_the_copy_as_plain_pytorch_does(made):
    model = Named("a")
    recipe = replace(RECIPE, schedule=Cosine())
    iteration_times({"a": model}, task=digits, data=DATA, recipes={"a": recipe}, epochs=2, skip=3, most=4)
    expected = copy.deepcopy(model)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(2):
        batches = DATA.train.batches(64, device=torch.device("cpu"), seed=derive_seed(0, "speed", epoch))
        for _, (inputs, labels) in zip(range(7), batches, strict=False):
            optimizer.zero_grad()
            F.cross_entropy(expected(inputs), labels).backward()
            optimizer.step()
    (step,) = made
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(step.model.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("algorithm", ["fp32", *ALGORITHMS])
def test_a_step_that_takes_a_batch_is_the_step_on_its_own_batch(algorithm):
    batch = next(DATA.train.batches(64, device=torch.device("cpu"), seed=0))
    own = TrainingStep(model_of(config(algorithm)), task=digits, batch=batch, recipe=RECIPE)
    given_it = TrainingStep(model_of(config(algorithm)), task=digits, recipe=RECIPE)
    own()
    given_it.take(batch)
    for name, tensor in own.model.state_dict().items():
        assert torch.equal(given_it.model.state_dict()[name], tensor), name


def test_a_step_without_a_batch_says_so():
    step = TrainingStep(Named("a"), task=digits, recipe=RECIPE)
    with pytest.raises(ValueError, match=r"the step has no batch: give it one when it is made, or call take\(batch\)"):
        step()


def test_a_recipe_whose_budget_is_in_steps():
    found = times_of("a", recipe=replace(RECIPE, epochs=None, steps=10), epochs=1)
    assert found["a"].steps == BATCHES - 3  # the budget isn't used


def test_models_and_generators_stay_as_they_are():
    partner = model_of(config("fp32")).eval()
    model = binarize(model_of(config("fp32")), "recu", example=digits.example()).eval()
    digits.loss(model, next(DATA.train.batches(8, device=torch.device("cpu"), seed=0))).backward()
    models = {"bi": model, "fp": partner, "dropout": Named("dropout", dropout=0.5)}
    gradients = [parameter.grad for parameter in model.parameters()]
    values = [None if gradient is None else gradient.clone() for gradient in gradients]
    assert any(value is not None for value in values)
    before, generator = copy.deepcopy(models), torch.get_rng_state()
    iteration_times(models, task=digits, data=DATA, recipes=dict.fromkeys(models, RECIPE), epochs=1, most=2)
    assert torch.equal(torch.get_rng_state(), generator)
    for name, one in models.items():
        was = before[name]
        assert [module.training for module in one.modules()] == [module.training for module in was.modules()]
        pairs = [*zip(one.parameters(), was.parameters(), strict=True), *zip(one.buffers(), was.buffers(), strict=True)]
        assert all(torch.equal(a, b) for a, b in pairs), name
    for parameter, gradient, value in zip(model.parameters(), gradients, values, strict=True):
        assert parameter.grad is gradient
        assert value is None or torch.equal(gradient, value)
    assert all(parameter.grad is None for parameter in partner.parameters())


# Wrong input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is 0: expected 1 or more"),
        ({"skip": -1}, "skip is -1: expected 0 or more"),
        ({"most": 0}, "most is 0: expected 1 or more"),
        ({"device": "meta"}, "on 'cpu' or 'cuda', not on 'meta'"),
        (
            {"skip": 22},
            r"'a': the number of batches in an epoch is 22 \(of 64 samples\), so none is left after skip=22",
        ),
        ({"skip": 30}, "is left after skip=30; choose a skip below 22, or a smaller batch_size"),
        ({"recipe": replace(RECIPE, batch_size=1437)}, r"is 1 \(of 1437 samples\).* a skip below 1, or"),
        ({"recipe": replace(RECIPE, batch_size=5000)}, r"is 1 \(of 5000 samples\)"),
    ],
)
def test_wrong_settings_are_refused_before_a_batch_is_read(taken, wrong, message):
    split, data = watched()
    with pytest.raises(ValueError, match=message):
        times_of("a", data=data, **wrong)
    assert split.asked == taken == []


def test_the_candidate_with_too_few_batches_is_named():
    models = {name: Named(name) for name in ("a", "b")}
    recipes = {"a": RECIPE, "b": replace(RECIPE, batch_size=400)}
    with pytest.raises(ValueError, match=r"'b': the number of batches in an epoch is 3 \(of 400 samples\)"):
        iteration_times(models, task=digits, data=DATA, recipes=recipes)
    assert iteration_times(models, task=digits, data=DATA, recipes=recipes, epochs=1, skip=2)["b"].steps == 1


def test_candidates_without_recipes_and_recipes_without_candidates_are_refused():
    with pytest.raises(ValueError, match="at least one candidate"):
        times_of()
    for recipes in ({}, {"b": RECIPE}, {"a": RECIPE, "b": RECIPE}):
        with pytest.raises(
            ValueError, match=r"recipes are for \[.*\], models are \['a'\]: expected one for each model"
        ):
            iteration_times({"a": Named("a")}, task=digits, data=DATA, recipes=recipes)


@pytest.mark.parametrize("longest", [2, 10])
def test_a_split_with_fewer_batches_than_promised_is_refused(longest):
    _, data = watched(longest=longest)
    with pytest.raises(ValueError, match=r"ended before 22 batches of 64 samples: expected max\(1, 1437 // 64\)"):
        times_of("a", data=data)


# Steps in a wall-clock budget

SECONDS = st.floats(1e-4, 1e2)
SHARE = st.floats(0, 1)


def test_by_hand():
    assert steps_in(10, [(1, 0.25)]) == 40
    assert steps_in(10, [(1, 4)]) == 2
    assert steps_in(4, [(1, 4)]) == 1
    assert steps_in(10, [(0.5, 0.25), (0.5, 0.75)]) == 20
    assert steps_in(10, [(0.25, 0.25), (0.75, 0.75)]) == 16  # an iteration takes 0.625 s on average
    assert steps_in(10, [(0.25, 0.5), (0.5, 1), (0.25, 0.5), (0, 100)]) == 13  # 0.75 s
    assert steps_in(10, [(0.5, 0.25), (0.5 + 5e-10, 0.25)]) == 40  # 1 up to rounding
    assert steps_in(10, [(0.5, 0.25), (0.5 - 5e-10, 0.25)]) == 40


@given(st.floats(1e2, 1e6), SHARE, SECONDS, SECONDS)
def test_the_steps_fit_and_one_more_would_not(seconds, share, full, binarized):
    steps = steps_in(seconds, [(share, full), (1 - share, binarized)])
    cost = share * full + (1 - share) * binarized
    assert steps * cost <= seconds * (1 + 1.1e-9)
    assert seconds < (steps + 1) * cost


@given(st.integers(1, 10**6), SHARE, SECONDS, SECONDS)
def test_the_time_of_so_many_steps_gives_so_many(steps, share, full, binarized):
    cost = share * full + (1 - share) * binarized
    assert steps_in(steps * cost, [(share, full), (1 - share, binarized)]) == steps


@given(st.floats(1e2, 1e6), st.floats(1e2, 1e6), SHARE, SECONDS, SECONDS)
def test_more_time_gives_no_fewer_steps(one, other, share, full, binarized):
    parts = [(share, full), (1 - share, binarized)]
    assert steps_in(min(one, other), parts) <= steps_in(max(one, other), parts)


@given(st.floats(1e2, 1e6), SHARE, SECONDS, st.floats(1, 10))
def test_partial_pre_training_lies_between_low_precision_and_full_precision(seconds, share, full, slower):
    binarized = full * slower
    if seconds < binarized:
        seconds += binarized
    between = steps_in(seconds, [(share, full), (1 - share, binarized)])
    assert steps_in(seconds, [(1, binarized)]) - 1 <= between <= steps_in(seconds, [(1, full)]) + 1  # 1 for rounding


@pytest.mark.parametrize("seconds", [0.2, 0, -5])
def test_a_budget_shorter_than_an_iteration_is_refused(seconds):
    with pytest.raises(ValueError, match=rf"budget of {seconds} s is shorter than one iteration, which takes 0\.375 s"):
        steps_in(seconds, [(0.5, 0.25), (0.5, 0.5)])


@pytest.mark.parametrize(
    ("seconds", "parts", "message"),
    [
        (1, [], r"shares of the iterations are \[\]: expected values from 0 to 1 whose sum is 1"),
        (1, [(0.5, 1)], "whose sum is 1"),
        (1, [(0.5, 1), (0.5 + 1e-8, 1)], "whose sum is 1"),
        (1, [(1.5, 0.1), (-0.5, 0.1)], "values from 0 to 1"),
        (1, [(math.nan, 0.1)], "values from 0 to 1"),
        (1, [(0.5, 0.1), (0.5, 0)], r"seconds of an iteration are \[0\.1, 0\]: expected positive, finite ones"),
        (1, [(1, -1)], "positive, finite"),
        (1, [(1, math.inf)], "positive, finite"),
        (1, [(1, math.nan)], "positive, finite"),
        (math.inf, [(1, 1)], "the budget is inf seconds: expected a finite time"),
        (math.nan, [(1, 1)], "the budget is nan seconds"),
    ],
)
def test_wrong_budgets_are_refused(seconds, parts, message):
    with pytest.raises(ValueError, match=message):
        steps_in(seconds, parts)


@CUDA
def test_on_a_gpu():
    model = binarize(model_of(config("fp32")), "fda", example=digits.example()).cuda()
    before, generator = copy.deepcopy(model.state_dict()), torch.cuda.get_rng_state()
    models = {"bi": model, "fp": model_of(config("fp32"))}
    split, data = watched()
    recipes = dict.fromkeys(models, RECIPE)
    found = iteration_times(models, task=digits, data=data, recipes=recipes, device="cuda", epochs=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.cuda.get_rng_state(), generator)
    assert {device.type for _, device, _ in split.asked} == {"cuda"}
    assert {times.steps for times in found.values()} == {BATCHES - 3}
