"""One run, from its configuration to its record."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import pytest

from bibench import registry
from bibench.bench import worker
from bibench.bench.store import Store
from bibench.bench.worker import Settings, execute
from bibench.files import file_sha256
from bibench.recipes import SGD
from bibench.tasks.base import DataError
from bibench.tasks.digits import digits
from bibench.tracks.base import Measuring
from bibench.training import save_weights
from small_runs import ADAM_RECIPE, SGD_RECIPE, config, model_of

SHORT = dataclasses.replace(ADAM_RECIPE, epochs=1)


@pytest.fixture
def settings(tmp_path):
    worker.load_data.cache_clear()
    yield Settings(out=tmp_path / "store", tracks=())
    worker.load_data.cache_clear()


def names(settings, run):
    return sorted(path.name for path in Store(settings.out).folder(run.id).iterdir())


def test_a_finished_run_leaves_its_record_and_files_and_no_checkpoint(settings):
    run = config("recu", SHORT)
    outcome = execute(run, dataclasses.replace(settings, layers=True))
    assert (outcome.status, outcome.fatal) == ("ok", False)
    assert names(settings, run) == [
        "epochs.csv",
        "layers.csv",
        "model.safetensors",
        "predictions.safetensors",
        "record.json",
    ]
    store = Store(settings.out)
    record = store.record(run.id)
    accuracy = record.figure("accuracy")
    assert (accuracy.unit, accuracy.samples, accuracy.higher_is_better) == ("percent", 360, True)
    assert record.figure("loss").unit == "nats"
    assert outcome.message == f"{accuracy.value:.2f} percent"
    assert accuracy.value == pytest.approx(100 * store.predictions(run.id).mean())
    assert store.epochs(run.id)[-1]["accuracy"] == accuracy.value
    assert {"load", "convert", "train", "evaluate", "checkpoint", "measure"} == set(record.phases)
    assert record.environment.threads == 1
    assert record.data == digits.load(None, False).fingerprint


def test_the_record_is_written_after_everything_else(settings, monkeypatch):
    present = []

    def commit(store, record, claim):
        present.extend(path.name for path in store.folder(record.id).iterdir())

    monkeypatch.setattr(Store, "commit", commit)
    execute(config("bnn", SHORT), settings)
    assert {"epochs.csv", "model.safetensors", "predictions.safetensors"} <= set(present)


def test_records_hold_the_level_of_a_trivial_answer(settings):
    """37 of the 360 test digits are threes."""
    run = config("fp32", SGD_RECIPE)
    assert execute(run, settings).status == "ok"
    record = Store(settings.out).record(run.id)
    level, margin = (record.figure(f"trivial_accuracy{end}") for end in ("", "_margin"))
    assert level.value == pytest.approx(100 * 37 / 360)
    assert level.mode == "one answer for all test samples ('3')"
    assert margin.value == pytest.approx(200 * (37 / 360 * 323 / 360 / 360) ** 0.5)
    assert {(figure.unit, figure.samples) for figure in (level, margin)} == {("percent", 360)}


def test_divergence_is_a_result(settings):
    run = config("fp32", dataclasses.replace(SGD_RECIPE, optimizer=SGD(lr=1e9)))
    outcome = execute(run, settings)
    assert outcome.status == "failed"
    record = Store(settings.out).record(run.id)
    assert record.status == "failed"
    assert record.reason == outcome.message
    assert "diverged: the mean training loss" in record.reason
    assert record.figures == ()
    assert not (Store(settings.out).folder(run.id) / "model.safetensors").exists()


def broken(monkeypatch, **content):
    task = dataclasses.replace(digits, **content)
    get = registry.get
    monkeypatch.setattr(registry, "get", lambda kind, name: task if name == "digits" else get(kind, name))


def failing(error):
    def fail(*arguments, **settings):
        raise error

    return fail


def test_an_explained_error_is_its_message(settings, monkeypatch):
    broken(monkeypatch, load=failing(DataError("no such file: put it there")))
    outcome = execute(config("bnn", SHORT), settings)
    assert (outcome.status, outcome.message, outcome.fatal) == ("error", "no such file: put it there", False)
    assert names(settings, config("bnn", SHORT)) == ["claim-000001.json"]
    assert Store(settings.out).claims.standing(config("bnn", SHORT).id).state.released


@pytest.mark.parametrize("error", [ValueError("not enough values"), RuntimeError("first line\nsecond"), KeyError("x")])
def test_an_unexpected_error_is_its_first_line_and_has_a_traceback(settings, monkeypatch, error):
    run = config("bnn", SHORT)
    broken(monkeypatch, loss=failing(error))
    outcome = execute(run, settings)
    assert outcome.status == "error"
    assert outcome.message == f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert "in train" in outcome.traceback
    assert Store(settings.out).record(run.id) is None


@pytest.mark.parametrize(
    ("code", "fatal"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EROFS, True), (errno.EACCES, False)]
)
def test_operating_system_errors_name_the_file(settings, monkeypatch, code, fatal):
    write_bytes = Path.write_bytes

    def write(path, content):
        if ".safetensors" in path.name:
            raise OSError(code, "no luck")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    outcome = execute(config("bnn", SHORT), settings)
    assert (outcome.status, outcome.fatal) == ("error", fatal)
    assert outcome.message.startswith(f"no luck: {settings.out}")
    assert ".safetensors" in outcome.message
    assert ("free some space" in outcome.message) == fatal


def test_an_interrupt_is_raised(settings):
    def interrupt(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(config("bnn", SHORT), settings, interrupt)
    assert Store(settings.out).record(config("bnn", SHORT).id) is None


def test_data_other_than_earlier_runs_saw_are_refused(settings):
    run = config("bnn", SHORT)
    Store(settings.out).begin({"name": "s"}, [run], {"digits": "f" * 64})
    outcome = execute(run, settings)
    assert outcome.status == "error"
    assert "earlier runs in" in outcome.message


def test_records_are_plain_json(settings):
    run = config("bnn", SHORT)
    execute(run, settings)
    content = json.loads((Store(settings.out).folder(run.id) / "record.json").read_text())
    assert content["schema_version"] == 1
    assert content["run"]["recipe"]["optimizer"]["name"] == "adam"


def alter(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "what"), [(Path.unlink, "is missing"), (alter, "has another SHA-256 than its run's record says")]
)
def test_damaged_full_precision_weights_are_refused_with_a_way_out(settings, damage, what):
    parent = config("fp32", SHORT)
    child = config("bnn", SHORT, method="fine_tune", parent=parent.id)
    assert execute(parent, settings).status == "ok"
    store = Store(settings.out)
    undamaged = store.weights(parent.id).read_bytes()
    damage(store.weights(parent.id))
    outcome = execute(child, settings)
    assert outcome.status == "error"
    assert outcome.message.startswith(f"{store.weights(parent.id)} {what}")
    folder = store.folder(parent.id)
    assert f"delete the folder {folder} and run the same command again: it is trained anew" in outcome.message
    shutil.rmtree(folder)
    assert execute(parent, settings).status == "ok"
    assert store.weights(parent.id).read_bytes() == undamaged
    assert execute(child, settings).status == "ok"


def test_a_users_checkpoint_is_named_in_its_record_and_in_those_that_start_from_it(settings, tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_weights(path, model_of(config("fp32", seed=7)))
    settings = dataclasses.replace(settings, checkpoint=path)
    parent = config("fp32", SHORT, method="checkpoint", checkpoint=file_sha256(path))
    for run in (parent, config("bnn", SHORT, method="fine_tune", parent=parent.id)):
        assert execute(run, settings).status == "ok"
        assert Store(settings.out).record(run.id).notes == (
            f"full precision of digits_cnn on digits is the given checkpoint (SHA-256 {file_sha256(path)[:10]}...)",
        )
    alone = config("bnn", SHORT)
    assert execute(alone, settings).status == "ok"
    assert Store(settings.out).record(alone.id).notes == ()


def test_weights_without_a_recorded_hash_are_taken(settings):
    parent = config("fp32", SHORT)
    execute(parent, settings)
    path = Store(settings.out).folder(parent.id) / "record.json"
    content = json.loads(path.read_text())
    del content["weights"]  # as earlier versions wrote it
    path.write_text(json.dumps(content))
    assert execute(config("bnn", SHORT, method="fine_tune", parent=parent.id), settings).status == "ok"


ONE_CELL = Measuring(corruptions=("fog",), severities=(3,), step_repeats=1)


def test_tracks_that_join_later_measure_on_the_stored_weights(settings):
    """As if they had been there from the start, and nothing is trained again."""
    run = config("reactnet", SHORT)
    tracks = ("corruption_robustness", "theoretical_complexity")
    whole = dataclasses.replace(settings, out=settings.out / "whole", tracks=tracks, measuring=ONE_CELL)
    assert execute(run, whole).status == "ok"
    wanted = Store(whole.out).record(run.id)
    assert execute(run, settings).status == "ok"
    store = Store(settings.out)
    before = store.record(run.id)
    assert before.measured == ()
    assert store.unfinished(run, tracks)
    assert not store.unfinished(run, ())
    weights = store.weights(run.id).stat().st_mtime_ns
    outcome = execute(run, dataclasses.replace(settings, tracks=tracks, measuring=ONE_CELL))
    after = store.record(run.id)
    assert outcome.status == "ok"
    assert after.figures == wanted.figures
    assert after.measured == wanted.measured == tracks
    assert (after.finished, after.weights, after.environment) == (before.finished, before.weights, before.environment)
    assert store.weights(run.id).stat().st_mtime_ns == weights
    assert not store.unfinished(run, tracks)


def test_only_main_runs_are_measured(settings):
    run = config("bnn", SHORT, main=False, setting="adam-1x-cosine")
    settings = dataclasses.replace(settings, tracks=("theoretical_complexity",))
    execute(run, settings)
    store = Store(settings.out)
    assert store.record(run.id).measured == ()
    assert not store.unfinished(run, settings.tracks)
    main = run.model_copy(update={"main": True})
    assert main.id == run.id
    assert store.unfinished(main, settings.tracks)
    execute(main, settings)
    assert store.record(run.id).measured == settings.tracks
    assert store.record(run.id).run.main


def test_altered_weights_are_not_measured(settings):
    run = config("bnn", SHORT)
    execute(run, settings)
    store = Store(settings.out)
    weights = bytearray(store.weights(run.id).read_bytes())
    weights[-1] ^= 1
    store.weights(run.id).write_bytes(weights)
    outcome = execute(run, dataclasses.replace(settings, tracks=("theoretical_complexity",)))
    assert outcome.status == "error"
    assert "has another SHA-256 than its run's record says" in outcome.message
    assert store.record(run.id).measured == ()


def test_a_failed_run_is_not_measured(settings):
    recipe = dataclasses.replace(SHORT, optimizer=SGD(lr=1e30))
    run = config("bnn", recipe)
    assert execute(run, settings).status == "failed"
    assert not Store(settings.out).unfinished(run, ("theoretical_complexity",))
