"""What `bibench run quick` spends outside training steps, evaluation and measuring.

The run's wall time is compared with the seconds that its records say were spent in these, over the runs at a time.

    python benchmarks/quick_overhead.py [--jobs 2] [--repeats 3]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

USEFUL = ("train", "evaluate", "measure")


def once(jobs: int) -> tuple[float, float]:
    """Wall seconds of one fresh run of the suite, and those of its training, evaluation and measuring."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "bibench", "run", "quick", "--out", str(out), "--jobs", str(jobs)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - start
        records = [json.loads(path.read_text()) for path in out.glob("runs/*/record.json")]
    return wall, sum(record["phases"].get(phase, 0.0) for record in records for phase in USEFUL) / jobs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"bibench run quick --jobs {options.jobs}, {options.repeats} repeats; {machine()}")
    rest, shares = [], []
    for _ in range(options.repeats):
        wall, useful = once(options.jobs)
        rest.append(wall - useful)
        shares.append(rest[-1] / wall)
        print(f"wall {wall:.1f} s, of it training, evaluation and measuring {useful:.1f} s", flush=True)
    print(f"everything else: median {statistics.median(rest):.1f} s ({min(rest):.1f}..{max(rest):.1f})")
    print(f"share of wall time: median {statistics.median(shares):.3f} ({min(shares):.3f}..{max(shares):.3f})")


if __name__ == "__main__":
    main()
