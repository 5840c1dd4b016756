"""What a job does: it gets paths, never tensors, and trains the runs that its file names."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """Trains the runs of one file into the run table of one folder; submitit pickles it.

    What the table has already is not trained again, so a job that was handed on, or requeued
    after a node failed, goes on where its checkpoints are.
    """

    folder: str
    """The study's."""
    spec: str
    """A JSON file with the runs and how they are computed; see `launch.ledger`."""

    def __call__(self) -> int:
        """Train stack by stack, each published when it has ended; return how many runs."""
        import torch

        from sweeps.packing import pack
        from sweeps.table import RunTable
        from sweeps.worker import work
        from transfer.arithmetic import Arithmetic
        from transfer.config import ComputeConfig, run_config_from_dict
        from transfer.stacksize import most_runs

        torch.set_num_threads(1)
        given = json.loads(Path(self.spec).read_text("utf-8"))
        table = RunTable(Path(self.folder))
        known = table.read()
        compute = ComputeConfig(**given["compute"])
        Arithmetic("float32", compute.device)  # one line where the node has no such device
        configs = [run_config_from_dict(data) for data in given["runs"]]
        # A failed run is tried again if it had failed before the job was made, not in it.
        again = {
            run
            for run, when in given["failed"].items()
            if run in known and known[run].finished == when
        }
        left = [run for run in configs if run.run_id not in known or run.run_id in again]
        for stack in pack(left, 1, lambda config: most_runs(config, compute)):
            work(table, stack, lambda answer: print(answer, flush=True), compute)
        return len(left)

    def checkpoint(self) -> Any:
        """Hand the job on: only its paths are submitted again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
