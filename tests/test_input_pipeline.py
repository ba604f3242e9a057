"""The benchmark of loading says what it can't measure."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "input_pipeline.py"


def test_workers_are_refused_where_none_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--task", "digits", "--data", str(tmp_path), "--workers", "2"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    expected = "--workers 2: the samples of digits are in memory or mapped (ImagesInMemory), and no worker processes"
    assert expected in capsys.readouterr().err
