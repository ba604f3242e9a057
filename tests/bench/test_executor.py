"""The executor: parents first, one or several at a time with the same results, and what a failure takes with it."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import time

import pytest

from bibench.bench import claims, executor
from bibench.bench.benchmark import run_suite, score_store
from bibench.bench.claims import Holder
from bibench.bench.executor import Stop, run_plan
from bibench.bench.plan import make_plan
from bibench.bench.pool import Limits
from bibench.bench.progress import Observer
from bibench.bench.ray_executor import Cluster
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

    def elsewhere(self, run):
        self._add("elsewhere", run.id)

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

    def execute(run, settings, progress, *, takeover):
        made.append(run.algorithm)
        end = ends.get(run.algorithm, Outcome(run=run, status="ok", message="", seconds=0.0))
        return dataclasses.replace(end, run=run)

    return execute


def plan_of(tmp_path, **keys):
    return make_plan(load_suite(str(suite_file(tmp_path, **keys))))


def test_children_of_a_failed_parent_are_errors_and_the_others_go_on(tmp_path, monkeypatch):
    runs, made = plan_of(tmp_path, seeds="2"), []
    first = Outcome(run=runs[0], status="failed", message="diverged", seconds=1.0)

    def execute(run, settings, progress, *, takeover):
        made.append((run.algorithm, run.seed))
        return first if run == runs[0] else Outcome(run=run, status="ok", message="", seconds=0.0)

    monkeypatch.setattr(executor, "execute", execute)
    outcomes = run_plan(runs, Settings(out=tmp_path / "store"), jobs=1, listener=Log())
    assert made == [("fp32", 0), ("fp32", 1), ("bnn", 1), ("recu", 1)]
    lost = [outcome for outcome in outcomes if outcome.status == "error"]
    assert [(outcome.run.algorithm, outcome.run.seed) for outcome in lost] == [("bnn", 0), ("recu", 0)]
    assert all(outcome.message == f"not run: its full-precision run {runs[0].id} did not succeed" for outcome in lost)


def test_children_of_a_parent_that_failed_before_are_errors_each_time(tmp_path):
    huge = "\n  - task: digits\n    binarized: {epochs: 1, batch_size: 256}\n"
    huge += "    full_precision: {epochs: 2, batch_size: 256, optimizer: {name: sgd, lr: 1.0e+30}}"
    suite = load_suite(str(suite_file(tmp_path, tasks=huge)))
    runs, outcomes, _ = run(suite, tmp_path / "store")
    assert [outcome.status for outcome in outcomes] == ["failed", "error", "error"]
    _, again, _ = run(suite, tmp_path / "store")
    assert [(outcome.run.algorithm, outcome.message) for outcome in again] == [
        ("bnn", f"not run: its full-precision run {runs[0].id} did not succeed"),
        ("recu", f"not run: its full-precision run {runs[0].id} did not succeed"),
    ]


def test_after_a_full_disk_nothing_more_is_started(tmp_path, monkeypatch):
    runs, made = plan_of(tmp_path, seeds="2"), []
    full = Outcome(run=runs[0], status="error", message="full", seconds=1.0, fatal=True)
    monkeypatch.setattr(executor, "execute", made_up({"bnn": full}, made))
    outcomes = run_plan(runs, Settings(out=tmp_path / "store"), jobs=1, listener=Log())
    assert made == ["fp32", "fp32", "bnn"]
    assert len(outcomes) == 3


def test_an_ordinary_error_leaves_the_rest_alone(tmp_path, monkeypatch):
    runs, made = plan_of(tmp_path), []
    bad = Outcome(run=runs[0], status="error", message="bad", seconds=1.0)
    monkeypatch.setattr(executor, "execute", made_up({"bnn": bad}, made))
    outcomes = run_plan(runs, Settings(out=tmp_path / "store"), jobs=1, listener=Log())
    assert made == ["fp32", "bnn", "recu"]
    assert [outcome.status for outcome in outcomes] == ["ok", "error", "ok"]


@pytest.mark.parametrize("traceback", ["", "Traceback\n  in train\nValueError: bad\n"])
def test_what_went_wrong_is_kept_until_the_run_succeeds(tmp_path, monkeypatch, traceback):
    runs, out = plan_of(tmp_path), tmp_path / "store"
    store = Store(out)
    store.begin({"name": "small"}, runs, {})
    log = store.folder(runs[1].id) / "error.log"
    bad = Outcome(run=runs[1], status="error", message="ValueError: bad", seconds=1.0, traceback=traceback)
    with monkeypatch.context() as patch:
        patch.setattr(executor, "execute", made_up({"bnn": bad}, []))
        outcomes = run_plan(runs, Settings(out=out), jobs=1, listener=Log())
    assert outcomes[1].message == "ValueError: bad" + (f" (traceback in {log})" if traceback else "")
    assert log.read_text() == (traceback or "ValueError: bad\n")
    (shown,) = Observer(store).look().errors
    assert (shown.run, shown.message) == (runs[1].id, "ValueError: bad")
    assert [outcome.status for outcome in run_plan(runs, Settings(out=out), jobs=1, listener=Log())] == ["ok"] * 3
    assert not log.exists()


def test_a_reason_that_cannot_be_kept_is_told_all_the_same(tmp_path, monkeypatch):
    runs, out = plan_of(tmp_path), tmp_path / "store"
    (out / "runs" / runs[1].id / "error.log").mkdir(parents=True)
    bad = Outcome(run=runs[1], status="error", message="bad", seconds=1.0)
    monkeypatch.setattr(executor, "execute", made_up({"bnn": bad}, []))
    outcomes = run_plan(runs, Settings(out=out), jobs=1, listener=Log())
    assert outcomes[1].message.startswith("bad (error.log could not be written: ")
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
def test_a_killed_workers_run_goes_on_in_another_and_no_other_notices(tmp_path):
    suite = load_suite(str(suite_file(tmp_path, algorithms="[bnn]", seeds="3", recipe="{epochs: 2, batch_size: 128}")))
    killed = []

    def kill(event, run_id):
        if event == "progressed" and not killed:
            killed.append(run_id)
            children = [child.pid for child in multiprocessing.active_children()]
            os.kill(children[0], signal.SIGKILL)

    runs, outcomes, log = run(suite, tmp_path / "store", jobs=2, log=Log(kill))
    assert killed
    assert sorted(outcome.run.id for outcome in outcomes) == sorted(run.id for run in runs)
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert sorted(log.of("started")) == sorted(run.id for run in runs)
    alone = tmp_path / "alone"
    run(suite, alone)
    assert content(tmp_path / "store") == content(alone)


class Foreign:
    """A claim on a run by a process of which this machine knows nothing."""

    def __init__(self, store, run, monkeypatch):
        holder = Holder(host="elsewhere", system=None, pid=1, started=None)
        with monkeypatch.context() as patched:
            patched.setattr(claims, "this_process", lambda: holder)
            self.claim = store.claims.take(run.id, lease=0.5)
        self.asked = []

    def execute(self, run, settings, progress, *, takeover):
        """In place of a run: busy where the claim stands."""
        self.asked.append((run.algorithm, takeover))
        standing = self.claim.claims.standing(run.id)
        busy = standing is not None and not standing.free and standing.token != takeover
        return Outcome(run=run, status="busy" if busy else "ok", message="", seconds=0.0)


def test_a_run_of_another_process_is_taken_over_when_that_has_not_lived_for_a_lease(tmp_path, monkeypatch):
    (full, *rest), log = plan_of(tmp_path), Log()
    other = Foreign(Store(tmp_path / "store"), full, monkeypatch)
    monkeypatch.setattr(executor, "execute", other.execute)
    start = time.monotonic()
    outcomes = run_plan([full, *rest], Settings(out=tmp_path / "store", lease=0.5), jobs=1, listener=log)
    assert time.monotonic() - start >= 0.5
    assert other.asked == [("fp32", None), ("fp32", other.claim.token), ("bnn", None), ("recu", None)]
    assert [(outcome.run.algorithm, outcome.status) for outcome in outcomes] == [
        ("fp32", "ok"),
        ("bnn", "ok"),
        ("recu", "ok"),
    ]
    assert log.of("elsewhere") == [full.id]


@pytest.mark.parametrize("end", ["released", "finished"])
def test_a_run_that_another_process_gives_up_or_finishes_is_asked_for_again(tmp_path, monkeypatch, end):
    (full, *rest), log = plan_of(tmp_path), Log()
    other = Foreign(Store(tmp_path / "store"), full, monkeypatch)

    def give_up(event, run_id):
        if event == "elsewhere":
            other.claim.beat(released=True) if end == "released" else other.claim.finish()

    monkeypatch.setattr(executor, "execute", other.execute)
    log.on_event = give_up
    outcomes = run_plan([full, *rest], Settings(out=tmp_path / "store", lease=0.6), jobs=1, listener=log)
    assert other.asked == [("fp32", None), ("fp32", None), ("bnn", None), ("recu", None)]
    assert {outcome.status for outcome in outcomes} == {"ok"}


def test_while_another_process_works_on_one_run_the_others_go_on(tmp_path, monkeypatch):
    (full, *rest), log = plan_of(tmp_path), Log()
    other = Foreign(Store(tmp_path / "store"), rest[0], monkeypatch)
    monkeypatch.setattr(executor, "execute", other.execute)
    run_plan([full, *rest], Settings(out=tmp_path / "store", lease=0.5), jobs=1, listener=log)
    assert other.asked == [("fp32", None), ("bnn", None), ("recu", None), ("bnn", other.claim.token)]


@pytest.mark.slow
def test_with_a_time_of_grace_runs_end_with_their_epoch_and_nothing_of_it_is_lost(tmp_path):
    suite = load_suite(str(suite_file(tmp_path, algorithms="[]", recipe="{epochs: 40, batch_size: 64}")))
    out, stop = tmp_path / "store", Stop(120.0)

    def end(event, run_id):
        if event == "progressed" and not stop.requested and shares[-1] > 0:
            stop.request()

    shares, log = [], Log(end)
    log.progressed = lambda run_id, share: (shares.append(share), log._add("progressed", run_id))
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, Settings(out=out, checkpoint_seconds=1000), jobs=1, listener=log, stop=stop)
    assert multiprocessing.active_children() == []
    assert not stop.over
    store, run_id = Store(out), log.todo[0].id
    epoch = json.loads((store.folder(run_id) / "checkpoint.json").read_text())["epoch"]
    assert 1 <= epoch < 40
    assert store.claims.standing(run_id).state.released
    run(suite, out)
    run(suite, tmp_path / "alone")
    assert content(out) == content(tmp_path / "alone")


@pytest.mark.parametrize("wish", [True, False])
def test_a_wish_to_stop_in_the_last_moment_ends_what_follows(tmp_path, monkeypatch, wish):
    stop, looked = Stop(60.0), []

    class Workers:
        running, free = 0, False

        def __init__(self, size, settings, *, limits, on_progress, gpus):
            looked.append(stop.heeded)

        def close(self):
            looked.append(stop.heeded)

    def drive(driver, workers):
        looked.append(stop.heeded)
        if wish:
            stop.request()

    monkeypatch.setattr(executor, "Pool", Workers)
    monkeypatch.setattr(executor._Driver, "drive", drive)
    with pytest.raises(KeyboardInterrupt) if wish else contextlib.nullcontext():
        run_plan(plan_of(tmp_path), Settings(out=tmp_path / "store"), jobs=1, listener=Log(), stop=stop)
    assert looked == [False, True, True]  # made, driven, closed
    assert not stop.heeded


def test_nothing_is_started_after_the_wish_to_stop(tmp_path):
    runs, stop = plan_of(tmp_path), Stop(60.0)
    stop.request()
    with pytest.raises(KeyboardInterrupt):
        run_plan(runs, Settings(out=tmp_path / "store"), jobs=1, listener=Log(), stop=stop)
    assert not (tmp_path / "store").exists()


def test_with_nothing_to_do_no_cluster_is_asked(tmp_path, monkeypatch):
    runs = plan_of(tmp_path)
    monkeypatch.setattr(Store, "unfinished", lambda store, run, tracks: False)
    monkeypatch.setattr(executor, "RayWorkers", None)
    assert run_plan(runs, Settings(out=tmp_path / "store"), jobs=1, listener=Log(), cluster=Cluster()) == []


def test_runs_go_to_the_cluster_that_is_given(tmp_path, monkeypatch):
    runs, made = plan_of(tmp_path), []

    class Workers:
        running, free = 0, True

        def __init__(self, cluster, settings, *, limits, on_progress):
            made.append((cluster, settings.out, limits))

        def start(self, run, takeover):
            made.append(run.algorithm)
            self.ended = [Outcome(run=run, status="ok", message="", seconds=0.0)]
            self.running, self.free = 1, False

        def wait(self, seconds):
            self.running, self.free = 0, True
            return self.ended

        def close(self):
            made.append("close")

    monkeypatch.setattr(executor, "RayWorkers", Workers)
    cluster, out = Cluster(address="auto"), tmp_path / "store"
    run_plan(runs, Settings(out=out), jobs=1, listener=Log(), limits=Limits(hang_seconds=9), cluster=cluster)
    assert made == [(cluster, out, Limits(hang_seconds=9)), "fp32", "bnn", "recu", "close"]


def test_time_of_grace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(executor.time, "monotonic", lambda: now[0])
    stop = Stop(5.0)
    assert (stop.requested, stop.over) == (False, False)
    stop.request()
    now[0] += 4.9
    assert (stop.requested, stop.over) == (True, False)
    now[0] += 0.2
    assert stop.over
