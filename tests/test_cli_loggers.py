"""`--logger`: a run from the command line is logged, and is the same run."""

import csv

from bibench.bench.store import Store
from small_runs import bibench, content, suite_file


def test_a_logged_sweep_is_the_same_and_below_the_stores_logs(tmp_path):
    suite = suite_file(tmp_path, recipe="{epochs: 2, batch_size: 256}", algorithms="[bnn]", tracks="[learning_task]")
    plain, logged = tmp_path / "plain", tmp_path / "logged"
    assert bibench("run", suite, "--out", plain, "--jobs", "1").returncode == 0
    found = bibench("run", suite, "--out", logged, "--jobs", "2", "--logger", "csv", "--logger", "tensorboard")
    assert found.returncode == 0, found.stderr
    assert content(plain) == content(logged)
    for record in Store(logged).records():
        with (logged / "logs" / "csv" / record.id / "metrics.csv").open(encoding="utf-8", newline="") as file:
            losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
        assert losses == [row["train_loss"] for row in Store(logged).epochs(record.id)]
        assert len(list((logged / "logs" / "tensorboard" / record.id).iterdir())) == 1


def test_a_logger_that_is_not_known_is_refused_before_anything_is_made(tmp_path):
    found = bibench("run", "quick", "--out", tmp_path / "out", "--logger", "comet")
    assert found.returncode == 2
    assert found.stderr == "error: --logger comet: expected csv, tensorboard, wandb, mlflow\n"
    assert not (tmp_path / "out").exists()
