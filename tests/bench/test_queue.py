"""The queue: parents first, then the longest path, against a search through everything at every step."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bibench.bench import queue
from bibench.bench.queue import Queue, work_of
from small_runs import SGD_RECIPE, config


def epochs(number):
    return dataclasses.replace(SGD_RECIPE, epochs=number)


@st.composite
def plans(draw):
    """Runs that start from earlier ones or from none, and the identities of some whose weights are there."""
    runs = []
    for seed in range(draw(st.integers(1, 9))):
        parent = draw(st.none() | st.sampled_from(runs)) if runs else None
        recipe = epochs(draw(st.integers(1, 4)))
        runs.append(config("bnn", recipe, seed=seed, parent=None if parent is None else parent.id))
    return runs, draw(st.sets(st.sampled_from([run.id for run in runs])))


def longest(run, runs, there):
    """A run's own budget and that of its longest chain of children, by looking at every chain."""
    waiting = [child for child in runs if child.parent == run.id and run.id not in there]
    return run.recipe.epochs + max((longest(child, runs, there) for child in waiting), default=0)


@given(plans(), st.data())
@settings(max_examples=80, deadline=None)
def test_each_step_takes_the_longest_path_of_all_that_can_start(plan, data):
    runs, there = plan
    found = Queue(runs, there)
    waiting, taken, done = list(runs), [], set(there)
    while waiting or taken:
        ready = [run for run in waiting if run.parent is None or run.parent in done]
        ready.sort(key=lambda run: (-longest(run, runs, there), runs.index(run)))
        action = data.draw(st.sampled_from(["finish", "take", "lose", "put back"] if taken else ["take"]))
        if action == "take":
            run = found.take()
            assert run == (ready[0] if ready else None)
            if run is not None:
                waiting.remove(run)
                taken.append(run)
            continue
        run = data.draw(st.sampled_from(taken))
        taken.remove(run)
        if action == "put back":
            found.put_back(run.id)
            waiting.append(run)
        elif action == "finish":
            found.finish(run.id)
            done.add(run.id)
        elif run.id not in done:
            gone = {run.id}
            for other in runs:  # parents come before their children
                if other.parent in gone and other.parent not in done:
                    gone.add(other.id)
            lost = [other for other in waiting if other.id in gone]
            assert sorted(other.id for other in found.lose(run.id)) == sorted(other.id for other in lost)
            waiting = [other for other in waiting if other not in lost]
    assert found.take() is None


def test_a_long_chain_begins_before_more_runs_of_the_same_length():
    short = [config("fp32", epochs(4), seed=seed) for seed in range(3)]
    first = config("fp32", epochs(3), seed=9)
    child = config("bnn", epochs(3), seed=9, parent=first.id, method="fine_tune")
    found = Queue([*short, first, child])
    assert found.take() == first
    assert found.take() == short[0]
    found.finish(first.id)
    assert found.take() == short[1]  # 4 epochs, and the child has 3


@pytest.mark.parametrize("order", [slice(None, None, -1), slice(1, None)])
def test_a_parent_that_is_not_before_its_child_is_named(order):
    first = config("fp32")
    runs = [first, config("bnn", parent=first.id)]
    with pytest.raises(ValueError, match=f"starts from {first.id}, neither finished nor planned before it"):
        Queue(runs[order])
    Queue(runs[order], there={first.id})


def test_work_is_samples_and_else_budgets(monkeypatch):
    steps = config("bnn", dataclasses.replace(SGD_RECIPE, epochs=None, steps=7, batch_size=32))
    given_weights = config("fp32", method="checkpoint", checkpoint="0" * 64)
    runs = [config("bnn", epochs(2)), steps, given_weights]
    assert work_of(runs) == [2 * 1437, 7 * 32, 0]
    monkeypatch.setattr(queue, "samples_of", lambda run: None if run is steps else 1)
    assert work_of(runs) == [2, 7, 0]
