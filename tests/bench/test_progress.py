"""How far a sweep is, from the files of its store."""

from __future__ import annotations

from pathlib import Path

import pytest

from bibench.bench.claims import Watch
from bibench.bench.progress import Error, Failed, Hours, Observer
from bibench.bench.store import Store
from bibench.records import RecordError, RunConfig
from made_sweep import BNN, BNN_1, CPU, ELSEWHERE, FULL, PLAN, RECU, finish, store_at


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "store")


def hours(found: Hours) -> tuple[float, float]:
    return pytest.approx((found.gpu, found.cpu))


def test_nothing_has_begun(store: Store) -> None:
    found = Observer(store).look()
    assert (found.planned, found.done, found.waiting, found.running) == (5, 0, 5, ())
    assert (found.spent, found.left, found.unknown) == (Hours(gpu=0, cpu=0), Hours(gpu=0, cpu=0), 5)
    assert found.seconds_left is None
    assert not found.finished


def test_the_rest_is_estimated_from_the_same_algorithm_or_else_the_same_network(store: Store) -> None:
    finish(store, FULL, 1.0)
    finish(store, BNN, 3.0)
    found = Observer(store).look()
    assert (found.done, found.waiting) == (2, 3)
    assert hours(found.spent) == (4.0, 0.0)
    # BNN's other seed as the first, and ReCU, which sees as many samples, as the mean of the network's two
    assert hours(found.left) == (3.0 + 2.0, 0.0)
    assert found.unknown == 1  # of the other network nothing is known
    assert found.seconds_left is None


def test_longer_runs_take_longer_and_devices_count(tmp_path: Path) -> None:
    recipe = BNN.known_recipe
    long = BNN_1.model_copy(update={"recipe": recipe.with_budget(4 * recipe.budget)})
    store = store_at(tmp_path / "store", FULL.model_copy(update={"devices": 2}), BNN, long)
    finish(store, FULL.model_copy(update={"devices": 2}), 1.0)
    finish(store, BNN, 1.5, environment=CPU)
    found = Observer(store).look()
    assert hours(found.spent) == (2.0, 1.5)
    assert hours(found.left) == (0.0, 6.0)


def test_the_time_that_is_left_is_shared_by_the_devices_at_work(tmp_path: Path) -> None:
    pair, single = BNN.model_copy(update={"devices": 2}), RECU
    other = BNN_1.model_copy(update={"devices": 2})
    store = store_at(tmp_path / "store", pair, other, single)
    finish(store, pair, 1.5)
    assert store.claims.take(other.id) is not None
    found = Observer(store).look()
    assert hours(found.left) == (3.0 + 3.0, 0.0)
    assert found.seconds_left == pytest.approx(3 * 3600)  # six hours of devices, two at work
    assert store.claims.take(single.id) is not None
    assert Observer(store).look().seconds_left == pytest.approx(2 * 3600)


def test_what_runs_counts_in_part_and_shares_the_time_that_is_left(store: Store) -> None:
    for run in (FULL, BNN, ELSEWHERE):
        finish(store, run, 2.0)
    claims = [store.claims.take(run.id) for run in (BNN_1, RECU)]
    for claim, share in zip(claims, (0.25, 0.75), strict=True):
        assert claim is not None
        claim.progressed(share)
        claim.beat()
    found = Observer(store).look()
    assert [(own.run, own.share, own.silent) for own in found.running] == [
        (BNN_1.id, 0.25, False),
        (RECU.id, 0.75, False),
    ]
    assert found.waiting == 0
    assert hours(found.left) == (1.5 + 0.5, 0.0)
    assert found.seconds_left == pytest.approx(3600)  # two hours of runs, two at a time


def test_a_claim_that_was_given_up_is_no_running_run(store: Store) -> None:
    claim = store.claims.take(BNN.id)
    assert claim is not None
    observer = Observer(store)
    assert len(observer.look().running) == 1
    claim.beat(released=True)
    found = observer.look()
    assert (found.running, found.waiting) == ((), 5)


def test_a_process_that_was_not_heard_of_for_its_lease_is_silent(store: Store) -> None:
    claim = store.claims.take(BNN.id, lease=10)
    assert claim is not None
    observer = Observer(store)
    times = iter((0.0, 9.0, 11.0, 12.0))
    observer._watch = Watch(store.claims, clock=lambda: next(times))
    for silent in (False, False, True):
        assert [own.silent for own in observer.look().running] == [silent]
    claim.beat()
    assert [own.silent for own in observer.look().running] == [False]


def test_failures_and_errors_say_why(store: Store) -> None:
    finish(store, BNN, 1.0, status="failed", figures=(), reason="loss is NaN in epoch 2")
    for run, text in ((RECU, "Traceback\n  File x\nRuntimeError: no memory\n"), (BNN_1, "")):
        store.folder(run.id).mkdir(parents=True)
        (store.folder(run.id) / "error.log").write_text(text, encoding="utf-8")
    found = Observer(store).look()
    assert found.failed == (Failed(run=BNN.id, reason="loss is NaN in epoch 2"),)
    assert found.errors == (
        Error(run=BNN_1.id, message="error.log is empty"),
        Error(run=RECU.id, message="RuntimeError: no memory"),
    )
    assert (found.done, found.waiting) == (1, 4)
    assert found.unknown == 4  # how long a run takes that diverges says nothing
    claim = store.claims.take(RECU.id)
    assert claim is not None
    assert [error.run for error in Observer(store).look().errors] == [BNN_1.id]  # it is tried again


def test_what_starts_from_a_failed_run_is_not_waited_for(tmp_path: Path) -> None:
    child = BNN.model_copy(update={"method": "fine_tune", "parent": FULL.id})
    grandchild = RECU.model_copy(update={"method": "fine_tune", "parent": child.id})
    store = store_at(tmp_path / "store", FULL, child, grandchild, BNN_1)
    finish(store, BNN_1, 1.0)
    before = Observer(store).look()
    assert (before.done, before.waiting, before.lost) == (1, 3, 0)
    finish(store, FULL, 1.0, status="failed", figures=(), reason="loss is NaN in epoch 2")
    found = Observer(store).look()
    assert (found.planned, found.done, found.waiting, found.lost) == (4, 2, 0, 2)
    assert (found.left, found.unknown) == (Hours(gpu=0, cpu=0), 0)
    assert found.finished


def test_what_started_from_a_run_before_that_failed_keeps_its_result(tmp_path: Path) -> None:
    child = BNN.model_copy(update={"method": "fine_tune", "parent": FULL.id})
    store = store_at(tmp_path / "store", FULL, child)
    finish(store, child)
    finish(store, FULL, status="failed", figures=(), reason="why")
    found = Observer(store).look()
    assert (found.done, found.lost, found.finished) == (2, 0, True)


def test_runs_that_changed_hands_and_late_results_are_counted(store: Store) -> None:
    store.claims.take(BNN.id, lease=1)
    claim = store.claims.take(BNN.id, takeover=1)
    assert claim is not None
    assert claim.files == "attempt-2"
    assert Observer(store).look().taken_over == 1
    claim.beat(released=True)
    finish(store, FULL, files="attempt-2")
    (store.root / "discarded").mkdir()
    (store.root / "discarded" / f"{FULL.id}-000001.json").write_text("{}", encoding="utf-8")
    found = Observer(store).look()
    assert (found.taken_over, found.discarded) == (1, 1)


def test_a_finished_sweep(store: Store) -> None:
    observer = Observer(store)
    for run in PLAN:
        assert not observer.look().finished
        finish(store, run)
    found = observer.look()
    assert found.finished
    assert (found.done, found.waiting, found.unknown) == (5, 0, 0)
    assert (found.left, found.seconds_left) == (Hours(gpu=0, cpu=0), None)


def test_the_plan_is_read_again_when_it_has_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def plan(own: Store) -> list[RunConfig]:
        read.append(len(original(own)))
        return original(own)

    original = Store.plan
    monkeypatch.setattr(Store, "plan", plan)
    observer = Observer(store)
    first = observer.look()
    assert observer.look() == first
    assert read == [5]
    store_at(store.root, BNN.model_copy(update={"seed": 7}))
    read.clear()
    assert observer.look().planned == 6
    assert observer.look().planned == 6
    assert read == [6]
    (store.root / "plan.json").unlink()
    assert observer.look().planned == 0


def test_what_was_read_once_is_not_read_again(store: Store) -> None:
    finish(store, BNN)
    observer = Observer(store)
    first = observer.look()
    path = store.folder(BNN.id) / "record.json"
    path.write_text("damaged", encoding="utf-8")
    assert observer.look() == first
    with pytest.raises(RecordError, match="not valid JSON"):
        Observer(store).look()
