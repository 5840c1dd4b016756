"""Runners: anything that trains configurations into a run table.

The local one keeps worker processes of one thread each: results are then the same bits whatever
runs beside them, and the cores are shared without oversubscription.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from sweeps.errors import StorageError
from sweeps.packing import least_jobs, pack
from sweeps.progress import Reporter
from sweeps.table import RunTable
from transfer.config import ComputeConfig, RunConfig, canonical_json


@dataclass(frozen=True, slots=True)
class _Step:
    """How far a run is."""

    config: RunConfig
    step: int


_Answers = queue.SimpleQueue["int | BaseException | _Step | str"]
"""What the serving threads tell the one that waits: runs published, an error, progress, or a
note."""


class Runner(Protocol):
    """Trains runs and publishes their records in a table."""

    def run(
        self,
        table: RunTable,
        configs: Sequence[RunConfig],
        reporter: Reporter,
    ) -> None:
        """Return when every run has a record; tell the reporter as they come."""


@runtime_checkable
class BackgroundRunner(Runner, Protocol):
    """A runner that can begin runs and go on before they end, as a cluster does."""

    def submit(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
        """Begin runs, which have no record and were not submitted before, and return at once."""

    def wait(self, table: RunTable, run_ids: Collection[str], reporter: Reporter) -> None:
        """Return when the table has one of these runs, or several; tell the reporter as they come.

        Args:
            table: That of `submit`.
            run_ids: Submitted runs that had no record when the table was read last; at least one.
            reporter: Told of each run of `submit` that ended, once, whoever waits for it.
        """


class LocalRunner:
    """Worker processes on this machine, started when first needed and kept until closed.

    Args:
        workers: Number of processes; by default one a core this process may use, or a single one
            on other devices than the CPU.
        compute: How runs are computed; by default on the CPU.
    """

    def __init__(self, workers: int | None = None, compute: ComputeConfig | None = None) -> None:
        self.compute = compute or ComputeConfig()
        self.workers = workers or (num_cores() if self.compute.device == "cpu" else 1)
        self._crew: list[_Worker] = []
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
        crew, self._crew = self._crew, []
        for worker in crew:
            worker.close()

    def run(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
        """Train the runs; see `Runner`.

        Raises:
            StorageError: a record could not be written.
            RuntimeError: the workers cannot start, or the runner was closed meanwhile.
        """
        folder = str(table.folder.parent)
        if folder != self._folder:
            self.close()
            self._folder = folder
        # They import torch while this process does, to find out how large the jobs are.
        for worker in self._enlist(least_jobs(len(configs), self.workers)):
            worker.start()
        jobs = self._jobs(configs)
        answers: _Answers = queue.SimpleQueue()
        self._enlist(jobs.qsize())
        for worker in self._crew:
            arguments = (worker, table, jobs, answers)
            threading.Thread(target=_serve, args=arguments, daemon=True).start()
        try:
            _follow(answers, len(configs), reporter)
        except BaseException:
            self.close()  # or the threads would go on with the old queue
            raise

    def _enlist(self, num_jobs: int) -> "list[_Worker]":
        """Return the workers, as many as the jobs need."""
        while len(self._crew) < min(self.workers, num_jobs):
            self._crew.append(_Worker(self._folder, self.compute))
        return self._crew

    def _jobs(self, configs: Sequence[RunConfig]) -> "queue.SimpleQueue[list[RunConfig]]":
        from transfer.stacksize import most_runs  # brings torch along

        jobs: queue.SimpleQueue[list[RunConfig]] = queue.SimpleQueue()
        for job in pack(configs, self.workers, lambda config: most_runs(config, self.compute)):
            jobs.put(job)
        return jobs


def _follow(answers: _Answers, num_runs: int, reporter: Reporter) -> None:
    """Pass on what the serving threads say, notes once, until every run is published."""
    done, told = 0, set[str]()
    while done < num_runs:
        answer = answers.get()
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, _Step):
            reporter.running(answer.config, answer.step)
            continue
        if isinstance(answer, str):
            if answer not in told:
                reporter.note(answer)
            told.add(answer)
            continue
        done += answer
        reporter.advance(answer)


def num_cores() -> int:
    """Count the cores this process may use; not every system can restrict them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _serve(
    worker: "_Worker",
    table: RunTable,
    jobs: "queue.SimpleQueue[list[RunConfig]]",
    answers: _Answers,
) -> None:
    """Feed one worker until the jobs are out; runs in a thread of its own."""
    try:
        while True:
            try:
                job = jobs.get_nowait()
            except queue.Empty:
                return
            for part, reply in _train(worker, job, answers):
                if "fatal" in reply:
                    raise StorageError(reply["errno"], reply["fatal"], str(table.folder))
                if "died" in reply:
                    table.publish([_casualty(part[0], reply["died"])])
                answers.put(len(part))
    except BaseException as error:  # goes to the thread that waits
        answers.put(error)


def _train(
    worker: "_Worker", job: list[RunConfig], answers: _Answers
) -> Iterator[tuple[list[RunConfig], dict[str, Any]]]:
    """Have a job trained; after a death each run has one more try, alone."""
    reply = worker.ask(job, answers)
    if "died" not in reply:
        yield job, reply
        return
    for config in job:
        yield [config], worker.ask([config], answers)


class _Closed(RuntimeError):
    """The runner was closed while its threads were at work."""


class _Worker:
    """One worker process, started again when it died; once closed, closed for good."""

    def __init__(self, folder: str, compute: ComputeConfig) -> None:
        self._folder = folder
        self._compute = compute
        self._process: subprocess.Popen[str] | None = None
        self._ready = False
        self._closed = False
        self._lock = threading.Lock()

    def ask(self, job: list[RunConfig], answers: _Answers) -> dict[str, Any]:
        """Send a job and return its last answer; {"died": exit code} if none came.

        Raises:
            RuntimeError: the process cannot start, or the runner was closed.
        """
        process = self._alive()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(canonical_json([asdict(c) for c in job]) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                answer: dict[str, Any] = json.loads(line)
                if "step" in answer:
                    answers.put(_Step(job[answer["index"]], answer["step"]))
                elif "note" in answer:
                    answers.put(answer["note"])
                else:
                    return answer
        except (OSError, ValueError):
            pass  # the pipe broke, or was closed, or its last line was cut: the worker is gone
        code = process.wait()
        if self._closed:
            # Killed by us: that is no fault of the run, nothing may be recorded.
            raise _Closed("the runner was closed")
        return {"died": code}

    def start(self) -> "subprocess.Popen[str]":
        """Return the process, started if it was not, without waiting until it is ready."""
        with self._lock:
            if self._closed:
                raise _Closed("the runner was closed")
            if self._process is not None and self._process.poll() is not None:
                _discard(self._process)
                self._process = None
            if self._process is None:
                self._process = _start_worker(self._folder, self._compute)
                self._ready = False
            return self._process

    def _alive(self) -> "subprocess.Popen[str]":
        process = self.start()
        assert process.stdout is not None
        if not self._ready and not process.stdout.readline():
            code = process.wait()
            if self._closed:
                raise _Closed("the runner was closed")
            raise RuntimeError(f"a worker process could not start (exit code {code})")
        self._ready = True
        return process

    def close(self) -> None:
        """Kill the process."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
                _discard(self._process)


def _discard(process: "subprocess.Popen[str]") -> None:
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was not written yet is lost anyway
                stream.close()


def _start_worker(folder: str, compute: ComputeConfig) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # The packages' names are generic: whatever lies in the current folder must not win.
        "PYTHONSAFEPATH": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps.worker", folder, canonical_json(asdict(compute))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        # Ctrl-C is the driver's to handle; workers end when their standard input closes.
        start_new_session=True,
    )


def _casualty(config: RunConfig, code: int) -> Any:
    """Record a run whose worker did not survive it."""
    from sweeps.table import store
    from sweeps.worker import failed, versions

    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return store(failed(config, f"the worker process ended with {how}", 0.0), versions())
