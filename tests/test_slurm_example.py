"""The example for Slurm, with commands of one node in Slurm's place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bibench.bench.store import Store
from small_runs import suite_file

SBATCH = Path(__file__).parents[1] / "examples" / "slurm" / "bibench.sbatch"
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames 127.0.0.1" ] && echo 127.0.0.1
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Slurm is of Linux")
def test_a_suite_runs_on_the_nodes_that_slurm_gives(tmp_path):
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
    given = {"JOB_ID": os.getpid(), "JOB_NUM_NODES": 2, "JOB_NODELIST": "127.0.0.1", "CPUS_PER_TASK": 1}
    search = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", SBATCH, suite_file(tmp_path, algorithms="[bnn]", tracks="[learning_task]"), "store", "--seeds", "2"],
        cwd=tmp_path,
        env=os.environ | {f"SLURM_{name}": str(value) for name, value in given.items()} | {"PATH": search},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("] ok ") == 4
    assert len(Store(tmp_path / "store").records()) == 4
    assert not list(tmp_path.glob(".ray-token*"))
