"""The executor: parents first, one or several at a time with the same results, and what a failure takes with it."""

import dataclasses
import multiprocessing
import os
import signal

import pytest

from bibench.bench import executor
from bibench.bench.benchmark import run_suite, score_store
from bibench.bench.executor import run_plan
from bibench.bench.plan import make_plan
from bibench.bench.store import Store
from bibench.bench.suite import load_suite
from bibench.bench.worker import Outcome, Settings
from small_runs import content, suite_file


class Log:
    """A listener that remembers."""

    def __init__(self, on_event=lambda event, run_id: None):
        self.events = []
        self.on_event = on_event

    def __call__(self, todo):
        self.todo = todo
        return self

    def _add(self, event, run_id):
        self.events.append((event, run_id))
        self.on_event(event, run_id)

    def started(self, run):
        self._add("started", run.id)

    def progressed(self, run_id, share):
        self._add("progressed", run_id)

    def finished(self, outcome):
        self._add(outcome.status, outcome.run.id)

    def of(self, *events):
        return [run_id for event, run_id in self.events if event in events]


def run(suite, out, jobs=1, log=None, **settings):
    log = log or Log()
    runs, outcomes = run_suite(suite, Settings(out=out, **settings), jobs=jobs, listener=log)
    return runs, outcomes, log


@pytest.mark.slow
def test_one_or_two_at_a_time_end_bit_for_bit_the_same(tmp_path):
    suite = load_suite(str(suite_file(tmp_path, algorithms="[recu, fda, reactnet]")))
    alone = run(suite, tmp_path / "one", layers=True)
    together = run(suite, tmp_path / "two", jobs=2, layers=True)
    for runs, outcomes, log in (alone, together):
        assert [outcome.status for outcome in outcomes] == ["ok"] * 4
        assert sorted(log.of("started")) == sorted(run.id for run in log.todo) == sorted(run.id for run in runs)
        for each in runs:
            if each.parent:
                assert log.events.index(("ok", each.parent)) < log.events.index(("started", each.id))
            assert log.of("progressed").count(each.id) >= 1
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert len(one) == 4 * 5 - 1  # no layers.csv in full precision
    assert one == two


def made_up(ends, made):
    """In place of a run: how each ends, by algorithm; ``made`` gets who ran."""

    def execute(run, settings, progress):
        made.append(run.algorithm)
        end = ends.get(run.algorithm, Outcome(run=run, status="ok", message="", seconds=0.0))
        return dataclasses.replace(end, run=run)

    return execute


def plan_of(tmp_path, **keys):
    return make_plan(load_suite(str(suite_file(tmp_path, **keys))))


def test_children_of_a_failed_parent_are_errors_and_the_others_go_on(tmp_path, monkeypatch):
    runs, made = plan_of(tmp_path, seeds="2"), []
    first = Outcome(run=runs[0], status="failed", message="diverged", seconds=1.0)

    def execute(run, settings, progress):
        made.append((run.algorithm, run.seed))
        return first if run == runs[0] else Outcome(run=run, status="ok", message="", seconds=0.0)

    monkeypatch.setattr(executor, "execute", execute)
    outcomes = run_plan(runs, Settings(out=tmp_path / "store"), jobs=1, listener=Log())
    assert made == [("fp32", 0), ("fp32", 1), ("bnn", 1), ("recu", 1)]
    lost = [outcome for outcome in outcomes if outcome.status == "error"]
    assert [(outcome.run.algorithm, outcome.run.seed) for outcome in lost] == [("bnn", 0), ("recu", 0)]
    assert all(outcome.message == f"not run: its full-precision run {runs[0].id} did not succeed" for outcome in lost)


def test_after_a_full_disk_nothing_more_is_started(tmp_path, monkeypatch):
    runs, made = plan_of(tmp_path, seeds="2"), []
    full = Outcome(run=runs[0], status="error", message="full", seconds=1.0, fatal=True)
    monkeypatch.setattr(executor, "execute", made_up({"bnn": full}, made))
    outcomes = run_plan(runs, Settings(out=tmp_path / "store"), jobs=1, listener=Log())
    assert made == ["fp32", "bnn"]
    assert len(outcomes) == 2


def test_an_ordinary_error_leaves_the_rest_alone(tmp_path, monkeypatch):
    runs, made = plan_of(tmp_path), []
    bad = Outcome(run=runs[0], status="error", message="bad", seconds=1.0)
    monkeypatch.setattr(executor, "execute", made_up({"bnn": bad}, made))
    outcomes = run_plan(runs, Settings(out=tmp_path / "store"), jobs=1, listener=Log())
    assert made == ["fp32", "bnn", "recu"]
    assert [outcome.status for outcome in outcomes] == ["ok", "error", "ok"]


def test_a_diverged_algorithm_is_recorded_and_not_repeated(tmp_path):
    huge = "\n  - task: digits\n    full_precision: {epochs: 1, batch_size: 256}\n"
    huge += "    binarized: {epochs: 2, batch_size: 256, optimizer: {name: sgd, lr: 1.0e+30}}"
    suite = load_suite(str(suite_file(tmp_path, tasks=huge)))
    _, outcomes, _ = run(suite, tmp_path / "store")
    assert [(outcome.run.algorithm, outcome.status) for outcome in outcomes] == [
        ("fp32", "ok"),
        ("bnn", "failed"),
        ("recu", "failed"),
    ]
    _, scores, _ = score_store(Store(tmp_path / "store"))
    failed = [score for score in scores if (score.track, score.algorithm) == ("learning_task", "recu")]
    assert failed
    for score in failed:
        assert (score.status, score.value) == ("failed", None)
        assert any("recu" in text and "diverged" in text for text in score.missing)
    before = content(tmp_path / "store")
    _, again, log = run(suite, tmp_path / "store")
    assert (again, log.events) == ([], [])
    assert content(tmp_path / "store") == before


def test_more_is_added_and_nothing_repeated(tmp_path):
    suite = load_suite(str(suite_file(tmp_path, recipe="{epochs: 1, batch_size: 512}", algorithms="[bnn]")))
    run(suite, tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "runs").rglob("*") if path.is_file()}
    more = suite.model_copy(update={"seeds": (0, 1)})
    _, outcomes, _ = run(more, tmp_path / "store")
    assert [(outcome.run.algorithm, outcome.run.seed) for outcome in outcomes] == [("fp32", 1), ("bnn", 1)]
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_killed_worker_ends_its_runs_and_the_suite_goes_on(tmp_path):
    suite = load_suite(str(suite_file(tmp_path, algorithms="[bnn]", seeds="3", recipe="{epochs: 2, batch_size: 128}")))
    killed = []

    def kill(event, run_id):
        if event == "progressed" and not killed:
            killed.append(run_id)
            children = [child.pid for child in multiprocessing.active_children()]
            os.kill(children[0], signal.SIGKILL)

    runs, outcomes, _ = run(suite, tmp_path / "store", jobs=2, log=Log(kill))
    ends = {outcome.run.id: outcome for outcome in outcomes}
    assert len(ends) == len(outcomes) == len(runs)  # each run ends once
    died = [outcome for outcome in outcomes if "a worker process died" in outcome.message]
    assert 1 <= len(died) <= 2  # with one worker the pool ends the other
    assert {outcome.status for outcome in outcomes} == {"ok", "error"}
    _, outcomes, _ = run(suite, tmp_path / "store", jobs=2)
    assert {outcome.status for outcome in outcomes} == {"ok"}
    alone = tmp_path / "alone"
    run(suite, alone)
    assert content(tmp_path / "store") == content(alone)
