"""Seconds until 200 runs of digits-mlp are in SLURM's queue, five to a job.

    python benchmarks/submission.py --partition a100 --json slurm-submission

The start of the command is not counted. The jobs are held, and cancelled in the end: nothing is
trained.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import facts, keep  # noqa: E402

from launch import queue  # noqa: E402
from launch.ledger import submissions  # noqa: E402
from launch.slurm import SlurmRunner  # noqa: E402
from sweeps import load_experiment  # noqa: E402
from sweeps.cluster import ClusterConfig  # noqa: E402
from sweeps.plan import run_config  # noqa: E402
from sweeps.progress import Reporter  # noqa: E402
from sweeps.table import RunTable  # noqa: E402


def main() -> None:
    """Submit, look into the queue, cancel."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--partition", default="")
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    options = parser.parse_args()
    experiment = load_experiment("digits-mlp")
    arm = experiment.arms["scion"].optimizer
    runs = [
        run_config(experiment, "scion", replace(arm, stepsize=2.0**-k), size=32, seed=seed)
        for k in range(10)
        for seed in range(20)
    ]
    held = ClusterConfig(partition=options.partition, runs_per_job=5, extra={"hold": ""})
    with tempfile.TemporaryDirectory() as folder, SlurmRunner(held) as cluster:
        study = Path(folder) / "study"
        started = time.monotonic()
        cluster.submit(RunTable(study), runs, Reporter())
        seconds = time.monotonic() - started
        names = [made.name for made in submissions(study)]
        there = [job for job in queue.seen() or [] if job.name in names]
        found = {"runs": len(runs), "arrays": len(names), "jobs": len(there), "seconds": seconds}
        print(found)
    if options.json:
        keep(options.json, {**facts(), **found})


if __name__ == "__main__":
    main()
