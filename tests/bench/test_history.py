"""What happened to one run, from its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from bibench.bench.history import history
from bibench.bench.store import Store, StoreError
from made_sweep import BNN, FULL, finish, saved, store_at


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "store", FULL, BNN)


def test_a_run_that_nobody_took(store: Store) -> None:
    found = history(store, BNN.id)
    assert (found.record, found.claim, list(found.epochs), found.error) == (None, None, [], "")


def test_a_run_that_is_not_planned_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no run of this name is planned: another"):
        history(store, "another")
    with pytest.raises(StoreError, match="is not the name of a run"):
        history(store, "../suite.json")


def test_epochs_of_a_run_that_goes_on_are_those_of_its_checkpoint(store: Store) -> None:
    assert store.claims.take(BNN.id) is not None
    saved(store, BNN, 2)
    found = history(store, BNN.id)
    assert [row["epoch"] for row in found.epochs] == [1, 2]
    assert found.claim is not None
    assert found.claim.token == 1
    assert store.claims.take(BNN.id, takeover=1) is not None
    saved(store, BNN, 3, "attempt-2")
    found = history(store, BNN.id)
    assert len(found.epochs) == 3
    assert found.claim is not None
    assert found.claim.token == 2


def test_a_finished_run_has_all_epochs_and_its_error_log_is_told(store: Store) -> None:
    record = finish(store, BNN)
    (store.folder(BNN.id) / "error.log").write_text("Traceback\nValueError: x\n", encoding="utf-8")
    found = history(store, BNN.id)
    assert found.record == record
    assert [row["accuracy"] for row in found.epochs] == [41.0, 42.0]
    assert found.error == "Traceback\nValueError: x\n"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"history": 3}', '{"history": [{"epoch": "one"}]}', "[" * 9999])
def test_a_damaged_checkpoint_is_named(store: Store, content: str) -> None:
    path = saved(store, BNN, 1)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(StoreError, match=r"checkpoint\.json: not a complete checkpoint") as caught:
        history(store, BNN.id)
    assert str(path) in str(caught.value)
