"""A training step, timed in turns and weighed: it is the loop's step, changes nothing, and gives figures that hold."""

import copy
import gc
import math
import statistics
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from bibench import binarize
from bibench.nn import BinaryLayer, set_progress
from bibench.recipes import SGD, Adam, Cosine, Recipe
from bibench.tasks.digits import digits
from bibench.training import step_time
from bibench.training.seeds import derive_seed
from bibench.training.step_time import (
    LEAST_SECONDS,
    Ratio,
    StepTimes,
    TrainingStep,
    compare_training,
    measure_steps,
    peak_memory,
    ratio,
)
from small_runs import ADAM_RECIPE, ALGORITHMS, DATA, SGD_RECIPE, config, model_of, trained

BATCH = next(DATA.train.batches(32, device=torch.device("cpu"), seed=0))
SECONDS = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9)
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def step_of(model, recipe=SGD_RECIPE, batch=BATCH, **settings):
    return TrainingStep(model, task=digits, batch=batch, recipe=recipe, **settings)


def state_of(model):
    """Everything that could have changed: tensors (copied), gradients, mode, what the rules know of the progress."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors |= {f"{name}, buffer": tensor.clone() for name, tensor in model.named_buffers()}
    tensors |= {f"{name}.grad": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return tensors, [module.training for module in model.modules()]


def assert_unchanged(model, before):
    tensors, modes = state_of(model)
    assert tensors.keys() == before[0].keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[0][name]), name
    assert modes == before[1]


# In turns


def recorder(calls, *names):
    return {name: lambda name=name: calls.append(name) for name in names}


def test_warm_up_then_turns_whose_order_is_reversed_every_other_repeat():
    calls = []
    times = measure_steps(recorder(calls, "a", "b", "c"), repeats=3, warm_up=2, steps=2)
    assert "".join(calls) == "aabbcc" + "aabbcc" + "ccbbaa" + "aabbcc"
    assert list(times) == ["a", "b", "c"]
    assert all(len(found.seconds) == 3 and found.steps == 2 for found in times.values())


def test_without_warm_up_and_with_a_single_repeat():
    calls = []
    times = measure_steps(recorder(calls, "a"), repeats=1, warm_up=0, steps=1)
    assert calls == ["a"]
    assert times["a"].median == times["a"].lowest == times["a"].highest == times["a"].seconds[0]


def test_the_warm_up_is_not_in_the_times():
    left = [2]

    def slow_at_first():
        left[0] -= 1
        time.sleep(0.3 if left[0] >= 0 else 0.001)

    assert measure_steps({"a": slow_at_first}, repeats=3, warm_up=2, steps=1)["a"].highest < 0.25


def test_a_step_that_sleeps_longer_takes_longer():
    times = measure_steps({"fp": lambda: time.sleep(0.005), "bi": lambda: time.sleep(0.02)}, repeats=3)
    assert 0.005 <= times["fp"].lowest <= times["fp"].median <= times["fp"].highest
    assert ratio(times["fp"], times["bi"]).median < 70 < 140 < ratio(times["bi"], times["fp"]).median


class Clock:
    """Time that passes only when a step says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(step_time.time, "perf_counter", lambda: self.now)

    def step(self, seconds):
        def step():
            self.now += seconds

        return step


def test_the_time_of_a_step_is_the_mean_over_a_repeats_steps(monkeypatch):
    clock = Clock(monkeypatch)
    times = measure_steps({"a": clock.step(0.25), "b": clock.step(2.0)}, repeats=2, steps=4)
    assert times == {"a": StepTimes((0.25, 0.25), 4), "b": StepTimes((2.0, 2.0), 4)}


@pytest.mark.parametrize("quick", [1e-6, 3e-4, 0.019, 0.02, 5.0])
def test_short_steps_are_repeated_until_the_quickest_candidate_lasts_long_enough(monkeypatch, quick):
    clock = Clock(monkeypatch)
    for order in (("quick", "slow"), ("slow", "quick")):
        steps = {"quick": clock.step(quick), "slow": clock.step(7 * quick)}
        times = measure_steps({name: steps[name] for name in order}, repeats=2)
        counts = {found.steps for found in times.values()}
        assert len(counts) == 1  # the same number for both
        (count,) = counts
        assert count * quick >= LEAST_SECONDS
        assert count == 1 or count * quick < 2.5 * LEAST_SECONDS


def test_garbage_is_not_collected_while_a_step_is_timed_and_is_again_afterwards():
    seen = []
    assert gc.isenabled()
    measure_steps({"a": lambda: seen.append(gc.isenabled())}, repeats=2, steps=1)
    assert set(seen) == {False}
    assert gc.isenabled()

    def fails():
        raise KeyError

    with pytest.raises(KeyError):
        measure_steps({"a": fails})
    assert gc.isenabled()
    gc.disable()
    try:
        measure_steps({"a": lambda: None}, repeats=1, steps=1)
        assert not gc.isenabled()  # who paused it goes on without it
    finally:
        gc.enable()


def test_the_generator_is_left_as_it_was():
    before = torch.get_rng_state()
    measure_steps({"a": lambda: torch.rand(3)}, repeats=2, steps=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"repeats": 0}, "repeats is 0: expected 1 or more"),
        ({"warm_up": -1}, "warm_up is -1: expected 0 or more"),
        ({"steps": 0}, "steps is 0: expected 1 or more"),
        ({"device": "meta"}, "on 'cpu' or 'cuda', not on 'meta'"),
    ],
)
def test_wrong_settings_are_refused_before_a_step_is_taken(wrong, message):
    calls = []
    with pytest.raises(ValueError, match=message):
        measure_steps(recorder(calls, "a"), **wrong)
    assert calls == []


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="at least one candidate"):
        measure_steps({})


# Times and ratios


@given(SECONDS, st.data())
def test_the_ratio_is_taken_within_each_repeat(full, data):
    binarized = data.draw(st.lists(st.floats(1e-6, 1e3), min_size=len(full), max_size=len(full)))
    found = ratio(StepTimes(tuple(full)), StepTimes(tuple(binarized)))
    percents = sorted(100 * (a / b) for a, b in zip(full, binarized, strict=True))
    middle = len(percents) // 2
    expected = percents[middle] if len(percents) % 2 else (percents[middle - 1] + percents[middle]) / 2
    assert found == Ratio(expected, percents[0], percents[-1])
    assert found.lowest <= found.median <= found.highest


@given(SECONDS, st.floats(0.01, 100), st.data())
def test_what_slows_a_whole_repeat_cancels(full, factor, data):
    load = data.draw(st.lists(st.floats(1, 50), min_size=len(full), max_size=len(full)))
    slowed = StepTimes(tuple(a * b for a, b in zip(full, load, strict=True)))
    binarized = StepTimes(tuple(a * factor for a in slowed.seconds))
    found = ratio(slowed, binarized)
    assert [found.lowest, found.median, found.highest] == pytest.approx([100 / factor] * 3, rel=1e-9)


@given(SECONDS)
def test_a_step_beside_itself_is_100_percent(full):
    assert ratio(StepTimes(tuple(full)), StepTimes(tuple(full))) == Ratio(100, 100, 100)


@given(SECONDS)
def test_median_lowest_and_highest_of_the_times(seconds):
    times = StepTimes(tuple(seconds))
    assert (times.median, times.lowest, times.highest) == (statistics.median(seconds), min(seconds), max(seconds))


def test_times_of_different_measurements_have_no_ratio():
    with pytest.raises(ValueError, match="1 repeats of full precision and 2 of the binarized step; measure both"):
        ratio(StepTimes((1.0,)), StepTimes((1.0, 1.0)))


@pytest.mark.parametrize("seconds", [(), (0.0,), (1.0, -1.0), (math.nan,), (math.inf,)])
def test_times_that_are_none_are_refused(seconds):
    with pytest.raises(ValueError, match="expected positive seconds"):
        StepTimes(seconds)


# The step

WHOLE = replace(SGD_RECIPE, epochs=1, batch_size=1437)  # an epoch is one step
RECIPES = {
    "sgd": WHOLE,
    "adam": replace(ADAM_RECIPE, epochs=1, batch_size=1437),
    "clipped": replace(WHOLE, gradient_clip=0.1, latent_clip=0.03, decay_scales=True),
    "warm": replace(WHOLE, warmup=0.5, schedule=Cosine()),
    "bf16": replace(WHOLE, precision="bf16-mixed"),
}
CASES = [*((name, "adam") for name in ("fp32", *ALGORITHMS)), *(("pact", name) for name in RECIPES if name != "adam")]


@pytest.mark.parametrize(("algorithm", "recipe"), CASES, ids=["-".join(case) for case in CASES])
def test_one_step_is_one_step_of_the_loop_bit_for_bit(tmp_path, algorithm, recipe):
    run = config(algorithm, RECIPES[recipe])
    batch = next(DATA.train.batches(1437, device=torch.device("cpu"), seed=derive_seed(0, "data", 0)))
    step = step_of(model_of(run), RECIPES[recipe], batch)
    step()
    expected = trained(run, tmp_path).model.state_dict()
    found = step.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    if recipe != "warm":  # the first learning rate of a warm-up is 0
        before = dict(model_of(run).named_parameters())
        assert any(not torch.equal(before[name], found[name]) for name in before)


def test_two_steps_are_those_of_plain_pytorch():
    recipe = replace(SGD_RECIPE, optimizer=SGD(lr=0.05, momentum=0.9), gradient_clip=0.5, latent_clip=0.04)
    step = step_of(model_of(config("pact")), recipe)
    model = model_of(config("pact")).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        step()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(BATCH[0]), BATCH[1])
        terms = [module.penalty() for module in model.modules() if hasattr(module, "penalty")]
        terms = [term for term in terms if term is not None]
        assert terms
        (loss + torch.stack(terms).sum()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        for module in model.modules():
            if isinstance(module, BinaryLayer):
                module.weight.data.clamp_(-0.04, 0.04)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(step.model.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("algorithm", ["recu", "fda"])
def test_the_step_of_a_trained_model_is_one_of_training(tmp_path, algorithm):
    model = trained(config(algorithm, replace(ADAM_RECIPE, epochs=2)), tmp_path).model
    before = state_of(model)
    step = step_of(model, ADAM_RECIPE)
    assert all(module.training for module in step.model.modules())
    fresh = model_of(config(algorithm))
    set_progress(fresh, 0, ADAM_RECIPE.epochs)
    progress = ("tau", "strength", "slope.n")
    expected = [(name, value) for name, value in fresh.named_buffers() if name.endswith(progress)]
    assert expected
    found = dict(step.model.named_buffers())
    for name, value in expected:
        assert torch.equal(found[name], value), name
        assert not torch.equal(dict(model.named_buffers())[name], value), name
    noise = [module for module in step.model.modules() if hasattr(module, "down")]
    assert bool(noise) == (algorithm == "fda")
    step()
    assert all(module.down.weight.grad.abs().sum() > 0 for module in noise)  # it took part
    assert_unchanged(model, before)


@pytest.mark.parametrize("batch", [(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long)), (), []])
def test_a_batch_without_samples_is_refused(batch):
    with pytest.raises(ValueError, match="the batch has no samples"):
        step_of(model_of(config("fp32")), batch=batch)


def test_another_device_is_refused():
    with pytest.raises(ValueError, match="on 'cpu' or 'cuda', not on 'mps'"):
        step_of(model_of(config("fp32")), device="mps")


# Memory


def keep_and_drop():
    """8,000 bytes, then 4,000 more, then 8,000 fewer, then 2,000 and 6,000 more: at most 12,000 at once."""
    first = torch.empty(2000)
    second = torch.zeros(1000)
    second.add_(1)  # in place and views: nothing new
    view = second.view(10, 100)[2:]
    del first
    third = torch.empty(2000, dtype=torch.int8)
    fourth = view.new_empty(1500)
    return fourth, third


def test_what_is_allocated_and_released_is_seen_to_the_byte():
    seen = step_time._Allocations()
    with seen:
        kept = keep_and_drop()
    assert seen.peak == 12_000
    assert seen._now == 8000
    del kept
    assert seen._now == 0


def test_tensors_from_before_count_neither_when_used_nor_when_dropped():
    old = torch.empty(5000)
    seen = step_time._Allocations()
    with seen:
        old.mul_(2)
        view = old[:10]
        del old, view
        new = torch.empty(10)
    assert (seen.peak, seen._now) == (40, 40)
    del new


BATCH_SIZE, INPUTS, HIDDEN = 512, 8, 1024


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(INPUTS, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, 10, bias=False)
    )


def mlp_step(optimizer, batch_size=BATCH_SIZE):
    batch = torch.rand(batch_size, 1, 1, INPUTS), torch.zeros(batch_size, dtype=torch.long)
    return step_of(mlp(), Recipe(optimizer=optimizer, epochs=1, batch_size=1), batch)


@pytest.mark.parametrize(("optimizer", "slots"), [(SGD(lr=0.1), 1), (Adam(lr=0.1), 2), (SGD(lr=0.1, momentum=0.0), 0)])
def test_peak_memory_of_a_network_is_what_a_hand_computes(optimizer, slots):
    step = mlp_step(optimizer)
    found = peak_memory(step)
    parameters = 4 * (INPUTS * HIDDEN + HIDDEN * 10)
    batch = BATCH_SIZE * (4 * INPUTS + 8)
    counters = 2 * 4 if isinstance(optimizer, Adam) else 0  # Adam counts its steps in a float for each parameter
    held = parameters * (1 + slots) + batch + counters
    assert step.held_bytes() == held
    # Highest when the gradient passes the ReLU: its output (kept for the backward pass), the gradients on both of its
    # sides; beside them the last weight's gradient. Smaller: the logits, their logarithms and gradients, the loss.
    hidden = 4 * BATCH_SIZE * HIDDEN
    peak = held + 3 * hidden + 4 * HIDDEN * 10
    assert peak <= found <= peak + 5 * 4 * BATCH_SIZE * 10


def test_with_large_weights_the_peak_is_the_optimizers():
    step = mlp_step(SGD(lr=0.1, momentum=0.9, weight_decay=0.1), batch_size=2)
    parameters = 4 * (INPUTS * HIDDEN + HIDDEN * 10)
    # All gradients, and the larger one with weight decay added, out of place.
    assert peak_memory(step) == pytest.approx(step.held_bytes() + parameters + 4 * HIDDEN * 10, rel=0.02)


def test_peak_memory_is_the_same_whenever_it_is_asked_for_and_whatever_else_is_there():
    step = mlp_step(Adam(lr=0.1))
    first = peak_memory(step)
    others = torch.ones(1 << 20)
    step()
    assert peak_memory(step) == first
    assert peak_memory(mlp_step(Adam(lr=0.1))) == first
    del others


def test_it_grows_with_the_batch():
    small, large = (peak_memory(mlp_step(SGD(lr=0.1), size)) for size in (256, 512))
    assert small < large <= 2 * small


def test_buffers_are_held_and_shared_tensors_once():
    model = mlp().append(nn.BatchNorm1d(10))
    model.append(nn.Linear(10, HIDDEN, bias=False)).append(nn.Linear(HIDDEN, 10, bias=False))
    model[6].weight = model[3].weight
    labels = torch.zeros(4, dtype=torch.long)
    batch = torch.rand(4, 1, 1, INPUTS), labels, labels.detach()
    step = step_of(model, replace(SGD_RECIPE, optimizer=SGD(lr=0.1, momentum=0.0)), batch)
    normalisation = 4 * 4 * 10 + 8  # weight, bias, running mean and variance; the number of batches
    assert step.held_bytes() == 4 * (INPUTS * HIDDEN + 2 * HIDDEN * 10) + normalisation + 4 * (4 * INPUTS + 8)


@pytest.mark.parametrize("algorithm", ["fp32", "bnn", "fda"])
def test_peak_memory_beside_the_profilers_count(algorithm):
    """The profiler hears of every allocation, also of those inside an operator; it is the independent count here."""
    batch = next(DATA.train.batches(256, device=torch.device("cpu"), seed=0))
    step = step_of(model_of(config(algorithm)), ADAM_RECIPE, batch)
    found = peak_memory(step)
    step.release_gradients()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    now = highest = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    assert highest > 0
    assert 0.8 * highest <= found - step.held_bytes() <= highest


def test_a_compiled_steps_memory_is_refused_on_a_cpu():
    with pytest.raises(ValueError, match="can't be measured on a CPU"):
        peak_memory(step_of(mlp(), compiled=True))


def test_peak_memory_leaves_the_generator_and_collects_garbage_again():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    step = step_of(model)
    before = torch.get_rng_state()
    peak_memory(step)
    assert torch.equal(torch.get_rng_state(), before)
    assert gc.isenabled()


# Both together


def network():
    """Convolutions, batch norm, dropout: buffers that training changes, and a use of the generator."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8, 10),
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_beside_full_precision_and_nothing_is_changed(algorithm):
    partner = network().eval()
    model = binarize(network(), algorithm, example=digits.example()).eval()
    digits.loss(model, BATCH).backward()  # gradients that someone may still need
    models = {"model": model, "partner": partner}
    before = {name: state_of(one) for name, one in models.items()}
    generator, batch = torch.get_rng_state(), copy.deepcopy(BATCH)
    found = compare_training(model, partner, task=digits, batch=BATCH, recipe=ADAM_RECIPE, repeats=2)
    for name, one in models.items():
        assert_unchanged(one, before[name])
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(a, b) for a, b in zip(BATCH, batch, strict=True))
    assert found.repeats == 2
    assert found.steps >= 1
    assert 0 < found.lowest <= found.time_ratio <= found.highest
    assert found.seconds > 0
    assert found.partner_seconds > 0
    assert found.peak_memory > found.partner_peak_memory > sum(4 * p.numel() for p in partner.parameters())


def test_the_ratio_is_full_precision_over_binarized(monkeypatch):
    clock = Clock(monkeypatch)
    taken = step_time.TrainingStep.__call__

    def timed(self):
        taken(self)
        clock.now += 0.5 if any(isinstance(module, BinaryLayer) for module in self.model.modules()) else 0.25

    monkeypatch.setattr(step_time.TrainingStep, "__call__", timed)
    model = binarize(network(), "bnn", example=digits.example())
    found = compare_training(model, network(), task=digits, batch=BATCH, recipe=ADAM_RECIPE, repeats=3)
    assert (found.time_ratio, found.lowest, found.highest) == (50, 50, 50)
    assert (found.seconds, found.partner_seconds, found.repeats, found.steps) == (0.5, 0.25, 3, 1)


def test_each_has_its_own_recipe():
    model = binarize(network(), "bnn", example=digits.example())

    def memories(**recipes):
        found = compare_training(model, network(), task=digits, batch=BATCH, repeats=1, **recipes)
        return found.peak_memory, found.partner_peak_memory

    same = memories(recipe=SGD_RECIPE)
    assert memories(recipe=SGD_RECIPE, partner_recipe=SGD_RECIPE) == same
    adam = memories(recipe=SGD_RECIPE, partner_recipe=ADAM_RECIPE)
    assert adam[0] == same[0]
    assert adam[1] > same[1]  # a second slot a weight


def test_wrong_input_of_the_comparison_is_refused():
    with pytest.raises(ValueError, match="repeats is 0"):
        compare_training(network(), network(), task=digits, batch=BATCH, recipe=SGD_RECIPE, repeats=0)
    with pytest.raises(ValueError, match="no samples"):
        compare_training(network(), network(), task=digits, batch=(), recipe=SGD_RECIPE)


@pytest.mark.slow
def test_a_compiled_step_computes_the_same():
    model = network()[:-2].append(nn.Linear(8, 10))  # without dropout
    plain, compiled = step_of(model), step_of(model, compiled=True)
    for _ in range(2):
        plain()
        compiled()
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    assert measure_steps({"plain": plain, "compiled": compiled}, repeats=1)["compiled"].median > 0


@CUDA
def test_on_a_gpu():
    partner = network().eval()
    model = binarize(network(), "fda", example=digits.example()).eval().cuda()
    before, generator = state_of(model), torch.cuda.get_rng_state()
    found = compare_training(model, partner, task=digits, batch=BATCH, recipe=ADAM_RECIPE, device="cuda", repeats=2)
    assert_unchanged(model, before)
    assert torch.equal(torch.cuda.get_rng_state(), generator)
    assert 0 < found.lowest <= found.time_ratio <= found.highest
    assert found.peak_memory > found.partner_peak_memory > sum(4 * p.numel() for p in partner.parameters())
