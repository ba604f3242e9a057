"""`bibench status` and `bibench logs`: what they print, and their messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bibench.bench.store import Store
from bibench.cli import app, status
from made_sweep import BNN, BNN_1, CPU, ELSEWHERE, FULL, PLAN, RECU, finish, saved, store_at


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two finished, one of them failed, one that runs, two that wait, one of them after an error."""
    store = store_at(tmp_path / "store")
    finish(store, FULL, 1.5)
    finish(store, ELSEWHERE, 0.25, environment=CPU, status="failed", figures=(), reason="loss is NaN in [epoch] 2")
    claim = store.claims.take(BNN.id)
    assert claim is not None
    claim.progressed(0.5)
    claim.beat()
    store.folder(RECU.id).mkdir(parents=True)
    (store.folder(RECU.id) / "error.log").write_text("Traceback\nRuntimeError: no memory\n", encoding="utf-8")
    return store


def call(*arguments: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, result.output
    assert "\x1b" not in result.output
    return result


def test_status_in_words(store: Store) -> None:
    lines = call("status", store.root, "--price-per-hour", "2").stdout.splitlines()
    assert lines[:5] == [
        "2 of 5 runs done (1 of them failed), 1 running, 2 waiting, 1 of them after an error",
        "so far 1.50 GPU hours and 15 min 00 s on CPUs; all runs about 5.25 GPU hours and 15 min 00 s on CPUs",
        "cost so far 3.50; all runs about 11.00",
        "about 3 h 45 min left with 1 run at a time",
        "",
    ]
    text = " ".join(" ".join(lines[5:]).split())
    assert f"running run trained host (process) since {BNN.id} 50 %" in text
    assert f"failed run reason {ELSEWHERE.id} loss is NaN in [epoch] 2" in text
    assert f"errors; tried again run message {RECU.id} RuntimeError: no memory" in text


def test_status_as_json(store: Store) -> None:
    found = json.loads(call("status", store.root, "--json", "--price-per-hour", "2").stdout)
    assert (found["planned"], found["done"], found["waiting"]) == (5, 2, 2)
    assert found["running"][0]["run"] == BNN.id
    assert found["running"][0]["share"] == 0.5
    assert (found["spent"], found["unknown"]) == ({"gpu": 1.5, "cpu": 0.25}, 0)
    assert (found["cost"], found["cost_of_all"]) == pytest.approx((3.5, 11.0))
    assert "cost" not in json.loads(call("status", store.root, "--json").stdout)


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store", FULL, ELSEWHERE)
    lines = call("status", store.root).stdout.splitlines()
    assert lines[1].endswith("without 2 runs of networks of which none has finished")
    assert lines[2] == "time left: unknown, since nothing runs"
    finish(store, FULL)
    assert store.claims.take(ELSEWHERE.id) is not None
    assert "time left: unknown, since no run of some networks has finished" in call("status", store.root).stdout


def test_long_lists_are_cut_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_at(tmp_path / "store")
    for run in PLAN:
        finish(store, run, status="failed", figures=(), reason="why")
    monkeypatch.setattr(status, "_SHOWN", 2)
    lines = call("status", store.root).stdout.splitlines()
    assert sum(line.endswith("why") for line in lines) == 2
    assert lines[-1] == "and 3 more; --json has all"
    assert len(json.loads(call("status", store.root, "--json").stdout)["failed"]) == 5


def test_watching_ends_when_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_at(tmp_path / "store", FULL, BNN, BNN_1)
    waits: list[float] = []

    def one_more(seconds: float) -> None:
        finish(store, (FULL, BNN, BNN_1)[len(waits)])
        waits.append(seconds)

    monkeypatch.setattr(status.time, "sleep", one_more)
    assert "3 of 3 runs done" in call("status", store.root, "--watch").stdout
    assert waits == [2.0, 2.0, 2.0]


def test_watching_ends_when_what_is_left_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = BNN.model_copy(update={"method": "fine_tune", "parent": FULL.id})
    store = store_at(tmp_path / "store", FULL, child)

    def diverge(seconds: float) -> None:
        finish(store, FULL, status="failed", figures=(), reason="loss is NaN")

    monkeypatch.setattr(status.time, "sleep", diverge)
    assert "1 of 2 runs done (1 of them failed)" in call("status", store.root, "--watch").stdout
    lines = call("status", store.root).stdout.splitlines()
    assert lines[:2] == [
        "1 of 2 runs done (1 of them failed), 0 running, 0 waiting",
        "can't be run, since their full-precision run failed: 1 run",
    ]
    assert not any("left" in line for line in lines)
    assert json.loads(call("status", store.root, "--json").stdout)["lost"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "{root}", "--watch", "--json"], "leave one of them out"),
        (["status", "{root}/nowhere"], "no results here"),
        (["logs", "{root}"], "not the folder of a run; give DIR/runs/NAME, or DIR NAME"),
        (["logs", "{root}", "another"], "no run of this name is planned: another"),
        (["logs", "{root}", "../x"], "is not the name of a run"),
    ],
)
def test_what_is_refused(store: Store, arguments: list[str], message: str) -> None:
    result = call(*(text.format(root=store.root) for text in arguments), exit_code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_logs_of_a_finished_run(store: Store) -> None:
    lines = call("logs", store.folder(FULL.id)).stdout.splitlines()
    assert lines == [
        FULL.id,
        "ok, 2026-01-01T00:00:00+00:00 on Some GPU",
        "train 1 h 07 min, measure 22 min 30 s",
        "epoch   lr  train_loss  accuracy",
        "    1  0.1           1        41",
        "    2  0.1         0.5        42",
    ]
    failed = call("logs", store.root, ELSEWHERE.id).stdout
    assert "failed: loss is NaN in [epoch] 2, 2026-01-01T00:00:00+00:00 on Some CPU" in failed


def test_logs_of_runs_that_go_on_or_went_wrong(store: Store) -> None:
    saved(store, BNN, 3)
    lines = call("logs", store.root, BNN.id).stdout.splitlines()
    assert lines[1].startswith("taken 1 time, last by ")
    assert lines[1].endswith(": 50 % trained")
    assert lines[2] == "no result yet"
    assert len(lines) == 3 + 4
    claim = store.claims.take(RECU.id)
    assert claim is not None
    claim.beat(released=True)
    lines = call("logs", store.root, RECU.id).stdout.splitlines()
    assert lines[1].endswith(": 0 % trained, given up")
    assert lines[-3:] == ["error.log", "Traceback", "RuntimeError: no memory"]


def test_logs_of_a_run_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_at(tmp_path / "runs" / "mine")
    finish(store, FULL)
    expected = call("logs", store.root, FULL.id).stdout
    assert expected.startswith(f"{FULL.id}\nok, ")
    assert call("logs", store.folder(FULL.id)).stdout == expected
    assert call("logs", store.folder(BNN.id)).stdout.startswith(BNN.id)  # whose folder isn't there yet
    monkeypatch.chdir(store.root)
    assert call("logs", f"runs/{FULL.id}/").stdout == expected
    monkeypatch.chdir(f"runs/{FULL.id}")
    assert call("logs", ".").stdout == expected
    assert "not the folder of a run" in call("logs", store.root, exit_code=2).stderr
