"""Runners: anything that trains configurations into a run table.

The local one keeps worker processes of one thread each: results are then the same bits whatever
runs beside them, and the cores are shared without oversubscription.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol

from sweeps.errors import StorageError
from sweeps.progress import Reporter
from sweeps.table import RunTable
from transfer.config import RunConfig, canonical_json

_MAX_CHUNK = 4
"""Most runs a worker takes at a time: few files, yet little is lost when it is killed."""


@dataclass(frozen=True, slots=True)
class _Step:
    """How far a run is."""

    config: RunConfig
    step: int


_Answers = queue.SimpleQueue["int | BaseException | _Step"]
"""What the serving threads tell the one that waits: runs published, an error, or progress."""


class Runner(Protocol):
    """Trains runs and publishes their records in a table."""

    def run(
        self,
        table: RunTable,
        configs: Sequence[RunConfig],
        reporter: Reporter,
    ) -> None:
        """Return when every run has a record; tell the reporter as they come."""


class LocalRunner:
    """Worker processes on this machine, started when first needed and kept until closed.

    Args:
        workers: Number of processes; by default one a core this process may use.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._folder = ""

    def __enter__(self) -> "LocalRunner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers at once; what they had not published is computed again another time."""
        processes = list(self._processes.values())
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        self._processes = {}

    def run(
        self,
        table: RunTable,
        configs: Sequence[RunConfig],
        reporter: Reporter,
    ) -> None:
        """Train the runs; see `Runner`.

        Raises:
            StorageError: a record could not be written.
        """
        folder = str(table.folder.parent)
        if folder != self._folder:
            self.close()
            self._folder = folder
        # The largest first: the end of the queue then fills the gaps.
        ordered = sorted(configs, key=lambda c: (c.width, c.depth, c.steps), reverse=True)
        size = max(1, min(_MAX_CHUNK, len(ordered) // (4 * self.workers)))
        jobs: queue.SimpleQueue[list[RunConfig]] = queue.SimpleQueue()
        for start in range(0, len(ordered), size):
            jobs.put(ordered[start : start + size])
        answers: _Answers = queue.SimpleQueue()
        for index in range(min(self.workers, jobs.qsize())):
            threading.Thread(
                target=self._serve, args=(index, table, jobs, answers), daemon=True
            ).start()
        done = 0
        while done < len(ordered):
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            if isinstance(answer, _Step):
                reporter.running(answer.config, answer.step)
                continue
            done += answer
            reporter.advance(answer)

    def _serve(
        self,
        index: int,
        table: RunTable,
        jobs: "queue.SimpleQueue[list[RunConfig]]",
        answers: _Answers,
    ) -> None:
        """Feed one worker until the jobs are out; runs in a thread of its own."""
        try:
            while True:
                try:
                    chunk = jobs.get_nowait()
                except queue.Empty:
                    return
                for part, reply in self._train(index, chunk, answers):
                    if "fatal" in reply:
                        raise StorageError(reply["errno"], reply["fatal"])
                    if "died" in reply:
                        table.publish([_casualty(part[0], reply["died"])])
                    answers.put(len(part))
        except BaseException as error:  # goes to the thread that waits
            answers.put(error)

    def _train(
        self, index: int, chunk: list[RunConfig], answers: _Answers
    ) -> list[tuple[list[RunConfig], dict[str, Any]]]:
        """Have a chunk trained; if the worker dies, find the run that kills it one by one."""
        reply = self._ask(index, chunk, answers)
        if "died" not in reply or len(chunk) == 1:
            return [(chunk, reply)]
        return [pair for config in chunk for pair in self._train(index, [config], answers)]

    def _ask(self, index: int, chunk: list[RunConfig], answers: _Answers) -> dict[str, Any]:
        """Send a job and return its last answer; {"died": exit code} if none came."""
        process = self._process(index)
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(canonical_json([asdict(c) for c in chunk]) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                answer: dict[str, Any] = json.loads(line)
                if "step" not in answer:
                    return answer
                answers.put(_Step(chunk[answer["index"]], answer["step"]))
        except OSError:
            pass  # the pipe broke: the worker is gone
        return {"died": process.wait()}

    def _process(self, index: int) -> "subprocess.Popen[str]":
        process = self._processes.get(index)
        if process is None or process.poll() is not None:
            process = self._processes[index] = _start_worker(self._folder)
        return process


def _start_worker(folder: str) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # The packages' names are generic: whatever lies in the current folder must not win.
        "PYTHONSAFEPATH": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps.worker", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )


def _casualty(config: RunConfig, code: int) -> Any:
    """Record a run whose worker did not survive it."""
    from sweeps.table import store
    from sweeps.worker import failed, versions

    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return store(failed(config, f"the worker process ended with {how}", 0.0), versions())
