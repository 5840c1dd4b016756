"""A runner on SLURM, through submitit: packs runs into job arrays and waits for the run table.

Results come from the run table alone. Of SLURM it asks which jobs are still known to it, in one
call for all; a job that it has forgotten, and whose runs are not there, has died. Jobs of an
earlier driver that are still in the queue are not submitted again but waited for.
"""

import shutil
import signal
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from launch import queue
from launch.cluster import mismatches
from launch.estimates import bundles, pace_of
from launch.ledger import Spec, Submission, cancel_mark, submissions
from launch.submitting import AwayError, TooManyError, submit
from launch.team import last_words
from launch.where import StoppedError
from sweeps.cluster import ClusterConfig
from sweeps.packing import Bundle
from sweeps.progress import Reporter
from sweeps.table import RunTable, StoredRun, store
from transfer.config import ComputeConfig, RunConfig

_LOOK_S = 2.0
"""Between readings of the run table."""
_ASK_S = 10.0
"""Between questions to SLURM."""
_PATIENCE_S = 90.0
"""So long a job must be missing to be dead: a file of its node may take a while to be seen here."""
_DEAF_S = 3600.0
"""So long SLURM may be silent, with no result coming, until the command gives up."""


@dataclass
class _Task:
    """A task of an array that may still give results."""

    submission: Submission
    number: int
    left: set[str]
    """Its runs that have no new record yet."""
    missing_since: float | None = None
    """Since when SLURM does not know it, in every answer; None: it does."""


class SlurmRunner:
    """Trains runs as jobs of a cluster.

    Args:
        cluster: What each job asks for.
        compute: How runs are computed.

    Raises:
        ValueError: there is no SLURM here.
    """

    def __init__(self, cluster: ClusterConfig, compute: ComputeConfig | None = None) -> None:
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise ValueError("--on slurm needs SLURM: there is no sbatch on PATH")
        self.cluster, self.compute = cluster, compute or ComputeConfig()
        self._tasks: dict[tuple[str, int], _Task] = {}
        self._held: list[tuple[Bundle, Spec]] = []
        """Not submitted yet, as SLURM takes no more for now."""
        self._configs: dict[str, RunConfig] = {}
        self._open: set[str] = set()
        """Runs that were submitted and have not ended."""
        self._failed: dict[str, str] = {}
        """When runs had failed that are tried again, by run id."""
        self._names: set[str] = set()
        """Of the arrays that were submitted."""
        self._mark: str | None = None
        """What `cancel` had written when the first runs were submitted; None before that."""
        self._told: set[str] = set()
        self._asked = self._answered = time.monotonic()

    def __enter__(self) -> "SlurmRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is still in the queue; `resume` submits it again."""
        names = {name for name, _ in self._tasks}
        with _uninterrupted():
            queue.cancel(sorted(names))  # if it fails they go on, and `resume` follows them
        self._tasks, self._held = {}, []

    def run(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
        """Train the runs; see `Runner`.

        Raises:
            ValueError: SLURM refuses the jobs, in its own words; none is left in the queue. Or it
                has not answered for an hour.
            StoppedError: the jobs were cancelled in another shell.
        """
        left = {config.run_id for config in configs}
        try:
            self.submit(table, configs, reporter)
            while left:
                left -= self.wait(table, left, reporter)
        except BaseException:
            self.close()
            raise

    def submit(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
        """Begin the runs and return; what is in the queue already is not submitted again.

        Raises:
            ValueError: as `run`.
        """
        rows, study = table.read(), table.folder.parent
        wanted = {config.run_id: config for config in configs}
        self._configs |= wanted
        self._open |= wanted.keys()
        failed = {r: row.finished for r, row in rows.items() if row.status == "failed"}
        self._failed |= {run: when for run, when in failed.items() if run in wanted}
        if self._mark is None:
            self._mark = cancel_mark(study)
            self._adopt(study, rows)
        self._stop_if_cancelled(study)
        there = self._under_way() & wanted.keys()
        if there:
            reporter.note(f"{len(there)} runs are in SLURM's queue already and are waited for")
        # What ended since somebody looked is not trained again.
        ended = {run for run, row in rows.items() if row.status != "failed"}
        new = [config for run, config in wanted.items() if run not in there | ended]
        if not new:
            return
        spec = Spec(compute=self.compute, failed=failed)
        pace = pace_of(rows.values(), self.compute)
        jobs = bundles(new, pace, self.compute, self.cluster)
        self._held += [(job, spec) for job in jobs]
        self._push(table)
        where = study / "jobs"
        if "submitted" not in self._told:
            reporter.note(f"jobs are in SLURM's queue, their files in {where}")
            for line in mismatches(self.cluster, self.compute.device):
                reporter.note(line)
        self._told.add("submitted")

    def wait(self, table: RunTable, run_ids: Collection[str], reporter: Reporter) -> set[str]:
        """Return those of these submitted runs that have a new record, once there are some.

        The reporter hears of every submitted run that ended meanwhile.
        """
        while True:
            rows = table.read()
            ended = {run for run in self._open if self._is_new(rows.get(run))}
            if ended:
                self._answered = time.monotonic()
                self._forget(ended)
                reporter.advance(len(ended))
            found = {run for run in run_ids if self._is_new(rows.get(run))}
            if found:
                return found
            assert self._tasks or self._held, "the runs that are waited for are in no job"
            if time.monotonic() - self._asked >= _ASK_S:
                self._look(table, reporter)
            time.sleep(_LOOK_S)

    # --- the queue ---

    def _adopt(self, study: Path, rows: dict[str, StoredRun]) -> None:
        """Follow the jobs of the study that are in the queue, whoever submitted them.

        Raises:
            ValueError: SLURM does not answer.
        """
        earlier = submissions(study)
        told = queue.seen() if earlier else []
        if told is None:
            raise ValueError("SLURM does not answer (squeue fails): try again when it does")
        live = {(job.name, job.task): job for job in told if job.works}
        for submission in earlier:
            for number, runs in enumerate(submission.runs):
                key = submission.name, number
                if key not in live:
                    continue
                retried = submission.retried(number)
                left = {r for r in runs if r not in rows or rows[r].finished == retried.get(r)}
                if not submission.array:  # its driver did not live to hear it
                    array = live[key].job.partition("_")[0]
                    submission = replace(submission, array=array)
                    submission.save()
                if left:
                    self._tasks[key] = _Task(submission, number, left)

    def _under_way(self) -> set[str]:
        """Return the runs in jobs that may still end, or are submitted when there is room."""
        held = {run.run_id for job, _ in self._held for run in job.runs}
        return held | {run for task in self._tasks.values() for run in task.left}

    def _stop_if_cancelled(self, study: Path) -> None:
        if cancel_mark(study) != self._mark:
            raise StoppedError("its jobs were cancelled")

    def _push(self, table: RunTable) -> None:
        """Submit what is held, as few arrays as the cluster takes.

        Raises:
            ValueError: SLURM refuses even a single job, while none of ours is there to end.
        """
        size = queue.most_tasks() if self._held else 0
        while self._held:
            spec = self._held[0][1]
            _, alike = next(groupby(self._held[:size], key=lambda held: id(held[1])))
            part = [job for job, _ in alike]
            try:
                made = submit(table.folder.parent, part, spec, self.cluster)
            except TooManyError:
                if len(part) > 1:
                    size = len(part) // 2
                    continue
                if self._tasks or self._are_ending():
                    return
                raise
            except AwayError:
                if self._names:
                    return  # it was there, and is asked again
                raise
            del self._held[: len(part)]
            self._names.add(made.name)
            for number, runs in enumerate(made.runs):
                self._tasks[made.name, number] = _Task(made, number, set(runs))

    def _is_new(self, row: StoredRun | None) -> bool:
        """Whether a record is there, and not the failure after which the run is tried again."""
        if row is None:
            return False
        return row.status != "failed" or row.finished != self._failed.get(row.run_id)

    def _are_ending(self) -> bool:
        """Whether jobs whose results are there have not left the queue yet."""
        return any(job.name in self._names and not job.ended for job in queue.seen() or [])

    def _forget(self, found: set[str]) -> None:
        self._open -= found
        for key, task in list(self._tasks.items()):
            task.left -= found
            if not task.left:
                del self._tasks[key]

    def _look(self, table: RunTable, reporter: Reporter) -> None:
        """Ask SLURM about the jobs: tell what is stuck, record what died, submit what was held."""
        now = self._asked = time.monotonic()
        study = table.folder.parent
        self._stop_if_cancelled(study)
        if any(not task.submission.folder.is_dir() for task in self._tasks.values()):
            raise ValueError(f"{study} is gone, or its jobs are: they are cancelled")
        whole = queue.seen()
        told = whole if whole is not None else queue.seen_by_accounting()
        if told is None:
            self._silence(reporter)
            return
        live = {(job.name, job.task): job for job in told if not job.ended}
        # Tasks that are cancelled while they wait have one line together, without a number.
        ended = {(job.name, job.task if "_" in job.job else None) for job in told if job.ended}
        for key, task in list(self._tasks.items()):
            known = whole is not None or key in live or not ended.isdisjoint({key, (key[0], None)})
            if known:
                self._answered = time.monotonic()
            if key in live or not known:
                task.missing_since = None
            if key in live:
                self._tell_stuck(live[key], reporter)
            elif not known:
                continue  # accounting lags, and says nothing of some
            elif task.missing_since is None:
                task.missing_since = now
            elif now - task.missing_since >= _PATIENCE_S:
                self._bury(table, task, told)
                del self._tasks[key]
        if whole is None:
            self._give_up_if_silent()  # accounting may know nothing of them
        self._push(table)

    def _silence(self, reporter: Reporter) -> None:
        """Nothing can be said of any job now; results may come all the same."""
        self._give_up_if_silent()
        self._tell(
            "SLURM does not answer now (squeue and sacct fail); results are still waited for",
            reporter,
        )

    def _give_up_if_silent(self) -> None:
        silent = time.monotonic() - self._answered
        if silent > _DEAF_S:
            minutes = f"{silent / 60:.0f} minutes"
            raise ValueError(f"SLURM has not answered for {minutes} (squeue and sacct fail)")

    def _tell_stuck(self, job: queue.Queued, reporter: Reporter) -> None:
        if job.stuck:
            self._tell(
                f"SLURM's job {job.job} waits for a reason of its own: {job.stuck}", reporter
            )

    def _tell(self, text: str, reporter: Reporter) -> None:
        kind = text.rpartition(":")[2].partition("(")[0]  # a reason may end with a list of nodes
        if kind not in self._told:
            self._told.add(kind)
            reporter.note(text)

    def _bury(self, table: RunTable, task: _Task, told: list[queue.Queued]) -> None:
        """Record the runs of a job that has died; those that it had ended are there."""
        rows = table.read()
        # Of runs that nobody has asked for yet nothing is recorded: they are submitted then.
        asked = task.left & self._configs.keys()
        gone = [run for run in asked if not self._is_new(rows.get(run))]
        if not gone:
            return
        job = task.submission.job(task.number)
        states = {known.job: known.state for known in told} | queue.accounted([job])
        how = f" ({states[job]})" if job in states else ""
        said = last_words(task.submission.logs(task.number))
        why = f"SLURM's job {job} ended{how} without a result: {said}"
        table.publish([_failed(self._configs[run], why) for run in gone])


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Take no Ctrl-C for a moment: one that comes meanwhile has nothing left to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _failed(config: RunConfig, why: str) -> StoredRun:
    from sweeps.worker import failed, versions

    return store(failed(config, why, 0.0), versions())
