"""A runner without processes: everything where a debugger, a profiler or a breakpoint sees it."""

from collections.abc import Sequence

from sweeps.packing import pack
from sweeps.progress import Reporter
from sweeps.table import RunTable
from transfer.config import ComputeConfig, RunConfig


class InProcessRunner:
    """Trains runs in this process, a stack after the other, with the results of the others.

    Args:
        compute: How runs are computed; by default on the CPU.
    """

    def __init__(self, compute: ComputeConfig | None = None) -> None:
        self.compute = compute or ComputeConfig()

    def __enter__(self) -> "InProcessRunner":
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to end."""

    def run(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
        """Train the runs; see `Runner`."""
        import torch

        from sweeps.worker import Answer, work
        from transfer.stacksize import most_runs

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: the bits depend on it
        try:
            for job in pack(configs, 1, lambda config: most_runs(config, self.compute)):

                def say(answer: Answer, job: list[RunConfig] = job) -> None:
                    if "note" in answer:
                        reporter.note(str(answer["note"]))
                    else:
                        index, step = answer["index"], answer["step"]
                        assert isinstance(index, int) and isinstance(step, int)
                        reporter.running(job[index], step)

                work(table, job, say, self.compute)
                reporter.advance(len(job))
        finally:
            torch.set_num_threads(threads)
