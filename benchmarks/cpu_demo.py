"""Seconds of the main job on this computer: the command, from its start to its end.

    python benchmarks/cpu_demo.py --json cpu-demo

`run digits-mlp` in a folder of its own, the same once more when every run is in the table, and
adaptively in another folder.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import facts, keep  # noqa: E402

JOBS = {
    "first": ["--study", "whole"],
    "again": ["--study", "whole"],
    "adaptive": ["--study", "adaptive", "--sweep.adaptive"],
}


def seconds(folder: str, options: list[str]) -> float:
    """Return how long the command takes in a folder."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, str(root / "lmo_transfer.py"), "run", "digits-mlp", *options]
    started = time.monotonic()
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    """Measure and print; JSON on request."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = {name: seconds(folder, job) for name, job in JOBS.items()}
    print("| job | s |\n|---|---|")
    for name, value in times.items():
        print(f"| {name} | {value:.1f} |")
    if options.json:
        keep(options.json, {**facts(), "seconds": times})


if __name__ == "__main__":
    main()
