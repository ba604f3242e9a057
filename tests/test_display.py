"""What a person sees while runs go on."""

import dataclasses
import io

import pytest
from rich.console import Console

from bibench import display
from bibench.bench import queue
from bibench.bench.worker import Outcome
from bibench.display import Display
from small_runs import SGD_RECIPE, config

RUNS = [config("fp32"), config("bnn"), config("fda"), config("recu")]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def plain():
    return Console(file=io.StringIO(), width=60)


def ended(run, status="ok", message="91.00 percent"):
    return Outcome(run=run, status=status, message=message, seconds=3.2)


def test_time_left_is_what_the_rest_takes_at_the_pace_so_far(clock):
    with Display(RUNS, plain()) as shown:
        assert shown.left() == (None, 4)
        shown.started(RUNS[0])
        shown.progressed(RUNS[0].id, 0.0)
        clock[0] += 10
        shown.progressed(RUNS[0].id, 0.5)
        assert shown.left() == (pytest.approx(70), 0)  # half a run in 10 s, three and a half are left
        shown.finished(ended(RUNS[0]))
        assert shown.left() == (pytest.approx(30), 0)  # faster than was expected
        clock[0] += 10  # in which nothing ran, so that half a run at a time was done
        assert shown.left() == (pytest.approx(60), 0)


def test_runs_at_a_time(clock):
    with Display(RUNS, plain()) as shown:
        for run in RUNS[:2]:
            shown.started(run)
            shown.progressed(run.id, 0.0)
        clock[0] += 10
        for run in RUNS[:2]:
            shown.progressed(run.id, 0.5)
        assert shown.left() == (pytest.approx(30), 0)  # three runs of 20 s each, two at a time


def test_what_was_done_before_an_interruption_is_not_counted_as_speed(clock):
    with Display(RUNS, plain()) as shown:
        shown.started(RUNS[0])
        shown.progressed(RUNS[0].id, 0.8)
        clock[0] += 10
        shown.progressed(RUNS[0].id, 1.0)
        assert shown.left() == (pytest.approx(150), 0)  # 1/5 of a run in 10 s, 3 runs left
        shown.finished(ended(RUNS[0]))
        assert shown.left() == (pytest.approx(150), 0)


def test_networks_have_their_own_pace_and_those_that_have_not_run_are_counted_apart(clock):
    large = [config(name, architecture="digits_mlp") for name in ("fp32", "bnn")]
    console = plain()
    with Display([*RUNS[:2], *large], console) as shown:
        for run, seconds in ((RUNS[0], 10), (large[0], 300)):
            shown.started(run)
            clock[0] += seconds
            shown.finished(ended(run))
        assert shown.left() == (pytest.approx(310), 0)
    lines = console.file.getvalue().splitlines()
    assert lines[0].endswith("(about 10 s left, and 2 runs of other networks)")
    assert lines[1].endswith("(about 5 min 10 s left)")


@pytest.mark.parametrize(
    ("known", "first", "second"),
    [(True, pytest.approx(10), pytest.approx(20 * 0.5 / 1.5)), (False, None, pytest.approx(20 * 239.5 / 241.5))],
)
def test_runs_count_by_the_samples_that_they_see_in_whatever_their_budgets_are(
    clock, monkeypatch, known, first, second
):
    """2 epochs of 1437 digits, and as many in 479 steps of 6; where a task doesn't say its number, 2 and 479."""
    epochs = config("fp32", dataclasses.replace(SGD_RECIPE, epochs=2))
    steps = config("bnn", dataclasses.replace(SGD_RECIPE, epochs=None, steps=479, batch_size=6))
    if not known:
        monkeypatch.setattr(queue, "samples_of", lambda run: None if run is epochs else 2874)
    with Display([epochs, steps], plain()) as shown:
        shown.started(epochs)
        clock[0] += 10
        shown.finished(ended(epochs))
        assert shown.left()[0] == first
        shown.started(steps)
        clock[0] += 10
        shown.progressed(steps.id, 0.0)
        shown.progressed(steps.id, 0.5)
        assert shown.left()[0] == second


def test_progress_never_goes_back(clock):
    with Display(RUNS, plain()) as shown:
        shown.started(RUNS[0])
        clock[0] += 10
        shown.progressed(RUNS[0].id, 0.0)
        shown.progressed(RUNS[0].id, 0.9)
        shown.progressed(RUNS[0].id, 0.4)
        before = shown.left()
        shown.finished(ended(RUNS[0]))
        shown.progressed(RUNS[0].id, 0.4)  # came late, from another process
        shown.progressed("of another plan", 0.4)
        assert before == (pytest.approx(10 * 3.1 / 0.9), 0)
        assert shown.left() == (pytest.approx(30), 0)


def test_without_a_terminal_one_plain_line_a_run(clock):
    console = plain()
    with Display(RUNS, console) as shown:
        for run, status, message in zip(
            RUNS, ("ok", "failed", "error", "ok"), ("91.00 percent", "x" * 90, "[red]", ""), strict=True
        ):
            shown.started(run)
            shown.progressed(run.id, 0.0)
            clock[0] += 10
            shown.progressed(run.id, 0.5)
            shown.finished(ended(run, status, message))
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "[1/4] ok     digits digits_cnn fp32 seed 0: 91.00 percent  3.2 s  (about 30 s left)"
    assert lines[1] == f"[2/4] failed digits digits_cnn bnn seed 0: {'x' * 90}  3.2 s  (about 20 s left)"
    assert lines[2] == "[3/4] error  digits digits_cnn fda seed 0: [red]  3.2 s  (about 10 s left)"
    assert len(lines) == 4
    assert "\x1b" not in console.file.getvalue()


def test_in_a_terminal_bars_with_the_time_left(clock):
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with Display(RUNS, console) as shown:
        shown.started(RUNS[0])
        shown.progressed(RUNS[0].id, 0.0)
        clock[0] += 10
        shown.progressed(RUNS[0].id, 0.5)
        shown.live.refresh()
        assert "0 of 4 runs, about 1 min 10 s left" in console.file.getvalue()
        assert "digits digits_cnn fp32 seed 0" in console.file.getvalue()
        shown.finished(ended(RUNS[0]))
    assert "\x1b[?25h" in console.file.getvalue()  # the cursor is back


def test_runs_of_another_process_have_no_bar_and_are_counted(clock):
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with Display(RUNS, console) as shown:
        for run in RUNS[:2]:
            shown.started(run)
            shown.elsewhere(run)
        assert list(shown.names) == []
        shown.live.refresh()
        assert "0 of 4 runs, 2 of another process" in console.file.getvalue()
        shown.started(RUNS[0])
        assert list(shown.names) == [RUNS[0].id]
        assert shown.others == {RUNS[1].id}


def test_after_an_error_the_terminal_is_as_it_was():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), Display(RUNS, console):
        raise KeyboardInterrupt
    assert console.file.getvalue().count("\x1b[?25l") == console.file.getvalue().count("\x1b[?25h") == 1
