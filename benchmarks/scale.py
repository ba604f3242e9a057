"""What huge grids cost: planning their runs, beginning a store, and scoring and reporting their stored results.

Each size is planned in a process of its own, which then begins a store with the plan, and goes on with it as a second
command does. A store with synthetic results of all runs is written, and `bibench report` and `bibench score` read it.
Linux only. This process loads nothing big, since the peak memory that the system tells of a process isn't less than
that of the one that started it.

    python benchmarks/scale.py [--sizes small medium large] [--folder DIR]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = str(Path(__file__).with_name("synthetic_sweep.py"))
SIZES = ("small", "medium", "large")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a process took: wall and processor seconds, peak memory in GB, and what it printed."""

    wall: float
    processor: float
    memory: float
    output: str


def cost_of(*command: str, folder: Path | None = None) -> Cost:
    """Run Python with these arguments, in a folder."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, *command], stdout=output, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        if status:
            raise SystemExit(f"{' '.join(command)} failed: {os.waitstatus_to_exitcode(status)}")
        output.seek(0)
        text = output.read()
    return Cost(wall=wall, processor=usage.ru_utime + usage.ru_stime, memory=usage.ru_maxrss / 1e6, output=text)


def measure(sizes: list[str], folder: Path) -> None:
    """Measure each size and print its figures, and how seconds of a processor grew from the size before."""
    before: dict[str, float] = {}
    for name in sizes:
        found = json.loads(cost_of(SWEEP, "plan", name).output)
        store = folder / name
        if not store.exists():
            cost_of(SWEEP, "write", name, str(store))
        report = cost_of("-m", "bibench", "report", str(store))
        score = cost_of("-m", "bibench", "score", str(store))
        size = (store / "report.html").stat().st_size / 1e6
        print(f"\n{found['runs']:,} runs")
        print(f"before planning: {found['before']:.2f} GB at most")
        for step, (seconds, memory) in found["costs"].items():
            print(f"{step}: {seconds:.2f} s of a processor, {memory:.2f} GB at most so far")
        for title, cost in (("report", report), ("score", score)):
            print(f"{title}: {cost.wall:.1f} s, {cost.processor:.1f} s of processors, {cost.memory:.2f} GB at most")
        print(f"report.html: {size:.1f} MB")
        own = {
            "runs": found["runs"],
            **{step: seconds for step, (seconds, _) in found["costs"].items()},
            "report": report.processor,
            "score": score.processor,
        }
        if before:
            print(
                "times the size before: " + ", ".join(f"{key} {own[key] / before[key]:.1f}" for key in own), flush=True
            )
        before = own


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--folder", type=Path, help="where stores are kept for another time")
    options = parser.parse_args()
    print(cost_of("-c", "from machine import machine; print(machine())", folder=Path(SWEEP).parent).output)
    with tempfile.TemporaryDirectory() as temporary:
        measure(options.sizes, options.folder or Path(temporary))


if __name__ == "__main__":
    main()
