"""The store: whose folder it is, what it keeps, and that nothing leaves it."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save

from bibench.bench import store as store_module
from bibench.bench.claims import Claim, ClaimLost, Claims
from bibench.bench.store import OtherTimes, Store, StoreError, write_rows
from bibench.files import json_text
from bibench.records import Environment, Figure, Record, RecordError
from small_runs import config

SUITE = {"name": "small", "version": 1, "description": "a", "tasks": [{"task": "digits"}], "epochs": None}
ENVIRONMENT = Environment(
    bibench="0", commit=None, python="3", torch="2", platform="p", processor="c", accelerator=None, threads=1
)


def record_of(run, **content):
    defaults = {
        "id": run.id,
        "run": run,
        "status": "ok",
        "figures": (Figure(name="accuracy", value=100 / 3, unit="percent", samples=3, higher_is_better=True),),
        "phases": {"train": 0.1 + 0.2},
        "environment": ENVIRONMENT,
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return Record(**(defaults | content))


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.begin(SUITE, [config()], {"digits": "a" * 64})
    return store


def commit(store, record):
    claim = store.claims.take(record.id)
    assert store.commit(record, claim)


def state(store):
    return {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def refused(store, *arguments):
    before = state(store)
    with pytest.raises(StoreError) as caught:
        store.begin(*arguments)
    assert state(store) == before
    return str(caught.value)


def test_a_claim_is_remembered(store):
    again = Store.open(store.root)
    assert again.suite() == SUITE
    assert again.plan() == [config()]


def test_more_seeds_and_other_parts_may_follow(store):
    more = [config(seed=1), config("fda")]
    store.begin(SUITE, more, {"digits": "a" * 64, "cifar10": "b" * 64})
    assert store.plan() == [config(), *more]
    store.begin(SUITE, [config(seed=1)], {})
    assert store.plan() == [config(), *more]


def test_a_description_may_be_rewritten(store):
    store.begin(SUITE | {"description": "b"}, [], {})
    assert store.suite()["description"] == "b"


def test_another_suite_is_refused(store):
    message = refused(store, SUITE | {"name": "other", "epochs": 3}, [config()], {})
    assert "holds results of suite 'small' with other settings" in message
    assert 'epochs was null, is 3, name was "small", is "other"' in message
    assert str(store.root) in message


def test_other_data_are_refused(store):
    message = refused(store, SUITE, [config()], {"digits": "b" * 64})
    assert f"task 'digits': the data have fingerprint {'b' * 12}, but earlier runs in {store.root} saw" in message


def test_other_files_are_refused(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    message = refused(Store(tmp_path), SUITE, [config()], {})
    assert message == f"{tmp_path} is not an empty folder and holds no results of bibench; choose another --out"


@pytest.mark.parametrize("seen", [None, ["data.json"], [".suite.json.0a1b.tmp"]])
def test_a_folder_that_another_process_just_makes_a_store_is_taken(tmp_path, monkeypatch, seen):
    """It begins after this one has looked for a store, and before, or while, it looks for other files."""
    own, other, listed = Store(tmp_path), Store(tmp_path), Path.iterdir

    def iterdir(path):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "iterdir", listed)
            if not (tmp_path / "suite.json").exists():
                other.begin(SUITE, [config()], {})
            return [path / name for name in seen] if seen else list(listed(path))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    own.begin(SUITE, [config("recu")], {})
    assert {run.algorithm for run in own.plan()} == {"bnn", "recu"}


def test_who_lost_the_claim_on_the_plan_reads_it_anew(store, monkeypatch):
    """Another process takes it over, and writes its plan, when this one has read the plan and not written it yet."""
    other, check = Store(store.root), store_module._refuse_namesakes

    def meanwhile(root, runs):
        monkeypatch.setattr(store_module, "_refuse_namesakes", check)
        claim = Claims(other.storage, below="").take("", takeover=1)
        other._merge(claim, SUITE, [config("recu")], {"cifar10": "c" * 64}, {})
        claim.finish()
        check(root, runs)

    monkeypatch.setattr(store_module, "_refuse_namesakes", meanwhile)
    store.begin(SUITE, [config("fda")], {})
    assert [run.algorithm for run in store.plan()] == ["bnn", "recu", "fda"]
    assert json.loads((store.root / "data.json").read_text()) == {"digits": "a" * 64, "cifar10": "c" * 64}
    assert not list(store.root.glob("claim-*"))


def test_times_that_another_process_wrote_first_are_kept(store):
    store.begin(SUITE, [], {}, {"digits digits_cnn bnn": 0.25})
    message = refused(store, SUITE, [config("fda")], {}, {"digits digits_cnn bnn": 0.5, "digits digits_cnn fda": 1.0})
    assert message == (
        f"{store.root} has 0.25 s for an iteration of digits digits_cnn bnn, and the runs were planned with 0.5 s; "
        "plan them again"
    )
    with pytest.raises(OtherTimes):
        store.begin(SUITE, [], {}, {"digits digits_cnn bnn": 0.5})
    store.begin(SUITE, [], {}, {"digits digits_cnn bnn": 0.25, "digits digits_cnn fda": 1.0})
    assert store.calibration() == {"digits digits_cnn bnn": 0.25, "digits digits_cnn fda": 1.0}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_the_plan_is_the_same_file_however_it_is_divided(tmp_path, monkeypatch, count):
    monkeypatch.setattr(store_module, "_AT_A_TIME", 2)
    runs = [config(seed=seed, options={"name": "ü"}) for seed in range(count)]
    store = Store(tmp_path)
    store.begin(SUITE, runs, {})
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    assert text == json_text([run.model_dump(mode="json") for run in runs]).replace("\\u00fc", "ü")
    assert store.plan() == runs


def test_an_empty_folder_is_taken(tmp_path):
    Store(tmp_path).begin(SUITE, [config()], {})
    assert Store.open(tmp_path).plan() == [config()]


@pytest.mark.parametrize("name", ["suite.json", "plan.json", "data.json"])
def test_a_truncated_file_is_named(store, name):
    path = store.root / name
    path.write_text(path.read_text()[:-5])
    assert f"{path}: can't be read" in refused(store, SUITE, [config()], {"digits": "a" * 64})


def test_a_plan_with_a_wrong_field_is_named(store):
    path = store.root / "plan.json"
    content = json.loads(path.read_text())
    content[0]["seed"] = "first"
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"plan\.json: 0\.seed: "):
        store.plan()


def test_no_results(tmp_path):
    with pytest.raises(StoreError, match=r"no results here \(suite\.json is missing\); 'bibench run SUITE --out"):
        Store.open(tmp_path)


def test_records_come_back(store):
    record = record_of(config())
    assert store.record(record.id) is None
    commit(store, record)
    assert store.record(record.id) == record
    assert store.records() == [record]
    assert store.results().record(record.id) == record


def test_a_truncated_record_is_named(store):
    commit(store, record_of(config()))
    path = store.folder(config().id) / "record.json"
    path.write_text(path.read_text()[:200])
    for read in (lambda: store.record(config().id), store.records):
        with pytest.raises(RecordError, match=r"record\.json: not valid JSON .*delete it and run the suite again") as e:
            read()
        assert str(path) in str(e.value)


def test_a_record_in_another_runs_folder_is_refused(store):
    commit(store, record_of(config()))
    other = config(seed=1).id
    store.folder(config().id).rename(store.folder(other))
    with pytest.raises(StoreError, match=f"is the record of run {config().id}; delete it"):
        store.record(other)


def test_predictions_come_back(store):
    scores = np.random.default_rng(0).random(1000, dtype=np.float32)[::2]
    assert store.predictions("a-run") is None
    store.write_predictions(store.folder("a-run"), scores)
    found = store.predictions("a-run")
    assert found.dtype == np.float32
    assert np.array_equal(found, scores)
    path = store.folder("a-run") / "predictions.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"predictions\.safetensors: not a complete file of predictions"):
        store.predictions("a-run")


def test_epochs_come_back_and_pandas_reads_them(store):
    rows = [{"epoch": 1, "lr": 0.1, "train_loss": 1 / 3}, {"epoch": 2, "lr": 0.05, "train_loss": 0.1 + 0.2}]
    assert store.epochs("a-run") == []
    write_rows(store.folder("a-run") / "epochs.csv", rows)
    assert store.epochs("a-run") == rows
    # pandas' default parser may be off by the last bit
    frame = pd.read_csv(store.folder("a-run") / "epochs.csv", float_precision="round_trip")
    assert frame.to_dict("records") == rows


@pytest.mark.parametrize("name", ["../a", "a/b", "/etc/passwd", "..", ".", "", "a/../../b"])
def test_a_runs_name_never_leads_out_of_the_store(store, name):
    for action in (store.folder, store.record, store.weights, store.predictions, store.epochs):
        with pytest.raises(StoreError, match="is not the name of a run"):
            action(name)


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_file_is_no_store(tmp_path, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is not a folder; choose another --out"):
        Store(tmp_path / "file" / below).begin(SUITE, [config()], {})


def test_a_crash_while_writing_leaves_the_old_file(store, monkeypatch):
    commit(store, record_of(config()))
    claim = store.claims.take(config().id)

    def crash(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        store.amend(record_of(config(), status="failed"), claim)
    claim.finish()
    assert store.record(config().id).status == "ok"
    assert [path.name for path in store.folder(config().id).iterdir()] == ["record.json"]


def test_who_lost_the_claim_does_not_replace_a_record(store):
    record = record_of(config())
    commit(store, record)
    slow = store.claims.take(record.id)
    quick = store.claims.take(record.id, takeover=slow.token)
    newer = record.model_copy(update={"measured": ("learning_task",)})
    store.amend(newer, quick)
    third = store.claims.take(record.id)
    with pytest.raises(ClaimLost, match="was taken over by another process"):
        store.amend(record.model_copy(update={"measured": ("training_speed",)}), slow)
    slow.finish()
    store.leave(record.id, slow)
    assert store.record(record.id) == newer
    assert third.check()


def test_a_late_result_leaves_no_claim(store):
    record = record_of(config())
    slow = store.claims.take(record.id)
    late: Claim = store.claims.take(record.id, takeover=slow.token)
    with late.beating():
        assert store.commit(record, slow)
        assert not store.commit(record.model_copy(update={"files": late.files}), late)
    assert store.record(record.id) == record
    assert [path.name for path in store.folder(record.id).iterdir()] == ["record.json"]
    assert store.discarded() == 1


def test_another_folder_is_refused_before_anything_is_made_in_it(tmp_path):
    (tmp_path / ".lock").write_text("the user's own")
    message = f"{tmp_path} is not an empty folder and holds no results of bibench; choose another --out"
    assert refused(Store(tmp_path), SUITE, [config()], {}) == message
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_place_that_another_process_begins_is_never_a_strangers(tmp_path, monkeypatch):
    """Looked at whenever a file of it is on its way: by the names of files that are written, linked and moved."""
    seen = set()

    def looked(function):
        def looking(*arguments):
            seen.update(re.sub("[0-9a-f]{16}", "*", path.name) for path in tmp_path.iterdir())
            Store(tmp_path)._refuse_foreign()
            return function(*arguments)

        return looking

    for name in ("fsync", "link", "replace", "unlink"):
        monkeypatch.setattr(os, name, looked(getattr(os, name)))
    Store(tmp_path).begin(SUITE, [config()], {"digits": "a" * 64}, {"digits digits_cnn bnn": 0.1})
    own = "claim-000001.json"
    assert {f"..{own}.*.tmp.*.tmp", f".{own}.*.tmp", own, ".suite.json.*.tmp", ".plan.json.*.tmp"} <= seen


DEEP = "[" * 100_000


@pytest.mark.parametrize("name", ["suite.json", "plan.json", "data.json"])
def test_json_that_is_too_deep_is_named(store, name):
    (store.root / name).write_text(DEEP)
    assert f"{store.root / name}: can't be read" in refused(store, SUITE, [config()], {"digits": "a" * 64})


@pytest.mark.parametrize(
    "content",
    [b"epoch,loss\n1\n", b"epoch,loss\n1,2,3\n", b"epoch\nx\n", b"epoch\n\xff\n", b"epoch\nnan\n", b"epoch\ninf\n"],
)
def test_damaged_epochs_are_refused(store, content):
    path = store.folder("a-run") / "epochs.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"epochs\.csv: .*; delete it$"):
        store.epochs("a-run")


@pytest.mark.parametrize(
    "score",
    [np.ones((2, 2), np.float32), np.ones(0, np.float32), np.array([1, np.nan], np.float32), np.ones(2, np.int64)],
)
def test_predictions_of_another_kind_are_refused(store, score):
    path = store.folder("a-run") / "predictions.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(save({"score": score}))
    with pytest.raises(StoreError, match=r"predictions\.safetensors: expected one finite .*; delete it$"):
        store.predictions("a-run")


def test_only_planned_records_are_read(store):
    commit(store, record_of(config()))
    stray = store.root / "runs" / "x" / "record.json"
    stray.parent.mkdir()
    stray.write_text("{}")
    assert store.records() == [record_of(config())]
    (store.root / "plan.json").unlink()
    with pytest.raises(RecordError, match="not a record of bibench"):
        store.records()


def test_a_record_with_another_configuration_is_refused(store):
    commit(store, record_of(config()).model_copy(update={"run": config(seed=1)}))
    for read in (lambda: store.record(config().id), store.records):
        with pytest.raises(StoreError, match="its configuration doesn't match its name; delete it and run the suite"):
            read()


@pytest.mark.parametrize("content", [{"task": "../x"}, {"architecture": "a/b"}, {"algorithm": "a\0b"}])
def test_a_plan_never_leads_out_of_the_store(store, content):
    path = store.root / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps([plan[0] | content]))
    with pytest.raises(StoreError, match=r"plan\.json: .* is not the name of a run"):
        store.plan()
