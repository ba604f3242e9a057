"""The example for Slurm, with commands of one node in Slurm's place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bibench.bench.store import Store
from small_runs import bibench, suite_file

SBATCH = Path(__file__).parents[1] / "examples" / "slurm" / "bibench.sbatch"
SRUN = """#!/bin/sh
case " $* " in *" --cpus-per-task=1 "*) ;; *) echo "srun: a step without CPUs: $*" >&2; exit 2;; esac
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames 127.0.0.1" ] && echo 127.0.0.1
"""


def variables(**more):
    """Of a job of two tasks, as Slurm sets them in each."""
    job = {
        "JOB_ID": os.getpid(),
        "JOB_NAME": "bibench",
        "JOB_NUM_NODES": 2,
        "JOB_NODELIST": "127.0.0.1",
        "NNODES": 2,
        "NODELIST": "127.0.0.1",
        "NTASKS": 2,
        "NPROCS": 2,
        "CPUS_PER_TASK": 1,
    }
    return {f"SLURM_{name}": str(value) for name, value in (job | more).items()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Slurm is of Linux")
def test_a_suite_runs_on_the_nodes_that_slurm_gives(tmp_path):
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
    first = variables(NTASKS_PER_NODE=1, PROCID=0, LOCALID=0, NODEID=0)
    search = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", SBATCH, suite_file(tmp_path, algorithms="[bnn]", tracks="[learning_task]"), "store", "--seeds", "2"],
        cwd=tmp_path,
        env=os.environ | first | {"PATH": search},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("] ok ") == 4
    assert len(Store(tmp_path / "store").records()) == 4
    assert not list(tmp_path.glob(".ray-token*"))


@pytest.mark.slow
@pytest.mark.parametrize("tasks_per_node", [{}, {"NTASKS_PER_NODE": 1}], ids=["ntasks", "ntasks-per-node"])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_in_a_job_is_of_one_machine(tmp_path, devices, tasks_per_node):
    """Whatever the job's tasks are; here the second one, whose runs are logged too."""
    second = variables(PROCID=1, LOCALID=0, NODEID=1, **tasks_per_node)
    path = suite_file(tmp_path, algorithms="[]", tracks="[learning_task]")
    done = bibench(
        "run", path, "--out", tmp_path / "store", "--jobs", 1, "--devices", devices, "--logger", "csv", **second
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = Store(tmp_path / "store").records()
    assert run.run.devices == devices
    (log,) = tmp_path.glob("store/logs/csv/*/metrics.csv")
    assert len(log.read_text(encoding="utf-8").splitlines()) == 3  # its names, and two epochs
