"""What a job does: it gets paths, never tensors, and trains the runs that its file names."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.table import StoredRun
    from transfer.config import RunConfig


_WAIT_S = 20.0
"""So long a job waits for the end of its step before it hands itself on all the same."""


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

        from launch.team import team
        from sweeps.packing import pack
        from sweeps.table import RunTable
        from sweeps.worker import work
        from transfer.arithmetic import Arithmetic
        from transfer.checkpoint import saved
        from transfer.config import ComputeConfig, run_config_from_dict
        from transfer.stacksize import most_runs

        torch.set_num_threads(1)
        _save_before_handing_on()
        given = json.loads(Path(self.spec).read_text("utf-8"))
        table = RunTable(Path(self.folder))
        compute = ComputeConfig(**given["compute"])
        Arithmetic("float32", compute.device)  # one line where the node has no such device
        configs = [run_config_from_dict(data) for data in given["runs"]]
        with team(compute.device) as processes:
            # What the first of them finds missing, all train.
            missing = processes.everybodys(_missing(table.read(), configs, given["failed"]))[0]
            left = [config for config in configs if config.run_id in missing]
            for stack in pack(left, 1, lambda config: most_runs(config, compute)):
                saved()  # between stacks there is nothing to write
                work(table, stack, lambda answer: print(answer, flush=True), compute)
        return len(left)

    def checkpoint(self) -> Any:
        """Hand the job on: only its paths are submitted again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _save_before_handing_on() -> None:
    """Have the signal that comes before the limit write checkpoints first, if that is soon."""
    import signal

    from transfer.checkpoint import save_soon, saved

    theirs = signal.getsignal(signal.SIGUSR2)
    if not callable(theirs):
        return  # called outside of a job

    def reached(number: int, frame: Any) -> None:
        def hand_on() -> None:
            try:
                theirs(number, frame)
            except Exception as error:  # training must not take it for a fault of the run
                print(f"{type(error).__name__}: {error}", flush=True)
                raise SystemExit(1) from None

        save_soon(hand_on)
        signal.setitimer(signal.ITIMER_REAL, _WAIT_S)

    signal.signal(signal.SIGALRM, lambda number, frame: saved())
    signal.signal(signal.SIGUSR2, reached)


def _missing(
    known: dict[str, "StoredRun"], configs: "list[RunConfig]", failed: dict[str, str]
) -> list[str]:
    """Return the runs without a result, by id.

    A failed run is tried again if it had failed, at the time that is given, before the job was
    made; not if it failed in this job, which may have been requeued.
    """
    return [
        config.run_id
        for config in configs
        if config.run_id not in known
        or (config.run_id in failed and known[config.run_id].finished == failed[config.run_id])
    ]
