"""Time of a whole sweep: stacked, one run after the other, and one process for each run.

    python benchmarks/sweep.py      # the sweep of digits-mlp, its settings as given
    python benchmarks/sweep.py --preset shallow-gpt-sign-cpu --data FILE --arms unconstrained

All three train the same runs, in turn, within one call. Of processes, of which each run needs one,
only some are started (`--processes`, spread over the sizes) and their time is multiplied. The
stacked way has as many workers as cores; the other two compute one run at a time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import facts, keep  # noqa: E402

from sweeps import load_experiment  # noqa: E402
from sweeps.plan import sweep_runs  # noqa: E402
from sweeps.progress import Reporter  # noqa: E402
from sweeps.runner import LocalRunner  # noqa: E402
from sweeps.table import RunTable  # noqa: E402
from transfer.config import ComputeConfig, RunConfig, canonical_json  # noqa: E402
from transfer.train import train  # noqa: E402

ALONE = """
import json, sys, torch
torch.set_num_threads(1)
from transfer.config import run_config_from_dict
from transfer.train import train
print(train(run_config_from_dict(json.loads(sys.argv[1]))).val_loss)
"""


def stacked(runs: list[RunConfig], compute: ComputeConfig) -> float:
    """Return seconds with the local runner, its start included."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, LocalRunner(compute=compute) as runner:
        runner.run(RunTable(Path(folder)), runs, Reporter())
    return time.monotonic() - started


def in_turn(runs: list[RunConfig]) -> float:
    """Return seconds in this process, one run after the other."""
    torch.set_num_threads(1)
    started = time.monotonic()
    for run in runs:
        train(run)
    return time.monotonic() - started


def processes(runs: list[RunConfig], number: int) -> float:
    """Return seconds for all runs, from those of some, each in a process of its own."""
    chosen = runs[:: max(1, len(runs) // number)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    started = time.monotonic()
    for run in chosen:
        command = [sys.executable, "-c", ALONE, canonical_json(asdict(run))]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return (time.monotonic() - started) * len(runs) / len(chosen)


def main() -> None:
    """Measure and print; JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="digits-mlp")
    parser.add_argument("--arms", nargs="*", help="all by default")
    parser.add_argument("--data", default="", help="where the data lie")
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    options = parser.parse_args()
    experiment = load_experiment(options.preset)
    if options.data:
        experiment = replace(experiment, data=replace(experiment.data, path=options.data))
    arms = options.arms or list(experiment.arms)
    planned = [
        run.config
        for arm in arms
        for run in sweep_runs(experiment, arm, experiment.arms[arm].optimizer)
    ]
    runs = list({run.run_id: run for run in planned}.values())
    train(replace(runs[0], steps=1))  # imports and data are not what is measured in this process
    times = {
        "stacked": stacked(runs, experiment.compute),
        "in turn": in_turn(runs),
        "processes": processes(runs, options.processes),
    }
    print(f"{options.preset}, arms {', '.join(arms)}: {len(runs)} runs, {os.cpu_count()} cores\n")
    print("| way | s | ÷ stacked |\n|---|---|---|")
    for way, seconds in times.items():
        print(f"| {way} | {seconds:.1f} | {seconds / times['stacked']:.2f} |")
    if options.json:
        keep(options.json, {**facts(), "runs": len(runs), "seconds": times})


if __name__ == "__main__":
    main()
