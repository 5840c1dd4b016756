"""A runner on SLURM, through submitit: packs runs into job arrays and waits for the run table.

Results come from the run table alone. Of SLURM it asks which jobs are still known to it, in one
call for all; a job that it has forgotten, and whose runs are not there, has died. Jobs of an
earlier driver that are still in the queue are not submitted again but waited for.
"""

import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import queue
from launch.estimates import bundles, pace_of
from launch.ledger import Spec, Submission, load, mark_cancelled, submissions
from launch.submitting import TooManyError, submit
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
_PATIENCE = 3
"""So many answers in which a job is missing make it dead: results may take a while to be seen."""
_DEAF_S = 3600.0
"""So long SLURM may be silent, with no result coming, until the command gives up."""


@dataclass
class _Task:
    """A task of an array that may still give results."""

    submission: Submission
    number: int
    left: set[str]
    """Runs of ours that have no new record yet."""
    missing: int = 0
    """Answers of SLURM's, one after the other, in which it was not there."""


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
        self._before: dict[str, StoredRun] = {}
        """Records that runs had already: those that are tried again."""
        self._names: set[str] = set()
        """Of the arrays that were submitted."""
        self._told: set[str] = set()
        self._asked = self._answered = time.monotonic()

    def __enter__(self) -> "SlurmRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is still in the queue; `resume` submits it again."""
        tasks, self._tasks, self._held = self._tasks, {}, []
        open_ones = {task.submission.name: task.submission for task in tasks.values()}
        for submission in open_ones.values():
            mark_cancelled(submission)
        if queue.cancel(sorted(open_ones)) is not None:
            for submission in open_ones.values():  # they go on, and `resume` may follow them
                submission.save()

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
        self._before |= {run: rows[run] for run in wanted if run in rows}
        there = self._adopt(study, set(wanted), rows)
        if there:
            reporter.note(f"{len(there)} runs are in SLURM's queue already and are waited for")
        new = [config for run, config in wanted.items() if run not in there]
        if not new:
            return
        failed = {run: rows[run].finished for run in wanted if run in rows}
        spec = Spec(compute=self.compute, failed=failed)
        pace = pace_of(rows.values(), self.compute)
        jobs = bundles(new, pace, self.compute, self.cluster)
        self._held += [(job, spec) for job in jobs]
        self._push(table)
        where = study / "jobs"
        if "submitted" not in self._told:
            reporter.note(f"jobs are in SLURM's queue, their files in {where}")
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
            if time.monotonic() - self._asked >= _ASK_S:
                self._look(table, reporter)
            time.sleep(_LOOK_S)

    # --- the queue ---

    def _adopt(self, study: Path, wanted: set[str], rows: dict[str, StoredRun]) -> set[str]:
        """Return the runs that jobs in the queue will train, whoever submitted them, and follow
        those jobs."""
        earlier = [s for s in submissions(study) if not s.cancelled]
        if earlier and wanted:
            live = _live(queue.seen())
            if live is None:
                raise ValueError("SLURM does not answer (squeue fails): try again when it does")
            for submission in earlier:
                for number, runs in enumerate(submission.runs):
                    key = submission.name, number
                    if key in self._tasks or key not in live or not wanted & set(runs):
                        continue
                    retried = submission.retried(number)
                    ours = {
                        run
                        for run in wanted & set(runs)
                        if run not in rows or rows[run].finished == retried.get(run)
                    }
                    if ours:
                        self._tasks[key] = _Task(submission, number, ours)
        known = {run for task in self._tasks.values() for run in task.left}
        known |= {run.run_id for bundle, _ in self._held for run in bundle.runs}
        return known & wanted

    def _push(self, table: RunTable) -> None:
        """Submit what is held, as few arrays as the cluster takes.

        Raises:
            ValueError: SLURM refuses even a single job, while none of ours is there to end.
        """
        size = queue.most_tasks() if self._held else 0
        while self._held:
            spec = self._held[0][1]
            part = [job for job, its in self._held[:size] if its is spec]
            try:
                made = submit(table.folder.parent, part, spec, self.cluster)
            except TooManyError:
                if len(part) > 1:
                    size = len(part) // 2
                    continue
                if self._tasks or self._are_ending():
                    return
                raise
            del self._held[: len(part)]
            self._names.add(made.name)
            for number, runs in enumerate(made.runs):
                self._tasks[made.name, number] = _Task(made, number, set(runs))

    def _is_new(self, row: StoredRun | None) -> bool:
        """Whether a record is there, and not one that the run had before it was submitted."""
        return row is not None and row != self._before.get(row.run_id)

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
        self._asked = time.monotonic()
        for name in {task.submission.folder for task in self._tasks.values()}:
            kept = load(name)
            if kept is not None and kept.cancelled:
                raise StoppedError("its jobs were cancelled")
        told = queue.seen()
        live = _live(told)
        if told is None or live is None:
            self._silence(reporter)
            return
        self._answered = time.monotonic()
        for key, task in list(self._tasks.items()):
            if key in live:
                task.missing = 0
                self._tell_stuck(live[key], reporter)
            else:
                task.missing += 1
            if task.missing >= _PATIENCE:
                self._bury(table, task, told)
                del self._tasks[key]
        self._push(table)

    def _silence(self, reporter: Reporter) -> None:
        """Nothing can be said of any job now; results may come all the same."""
        silent = time.monotonic() - self._answered
        if silent > _DEAF_S:
            raise ValueError(f"SLURM has not answered for {silent / 60:.0f} minutes (squeue fails)")
        self._tell(
            "SLURM does not answer now (squeue fails); results are still waited for", reporter
        )

    def _tell_stuck(self, job: queue.Queued, reporter: Reporter) -> None:
        if job.stuck:
            self._tell(
                f"SLURM's job {job.job} waits for a reason of its own: {job.stuck}", reporter
            )

    def _tell(self, text: str, reporter: Reporter) -> None:
        kind = text.rpartition(":")[2]
        if kind not in self._told:
            self._told.add(kind)
            reporter.note(text)

    def _bury(self, table: RunTable, task: _Task, told: list[queue.Queued]) -> None:
        """Record the runs of a job that has died; those that it had ended are there."""
        rows = table.read()
        gone = [run for run in task.left if not self._is_new(rows.get(run))]
        if not gone:
            return
        job = task.submission.job(task.number)
        states = {known.job: known.state for known in told} | queue.accounted([job])
        how = f" ({states[job]})" if job in states else ""
        said = last_words(task.submission.logs(task.number))
        why = f"SLURM's job {job} ended{how} without a result: {said}"
        table.publish([_failed(self._configs[run], why) for run in gone])


def _live(told: list[queue.Queued] | None) -> dict[tuple[str, int], queue.Queued] | None:
    """Return the tasks that have not ended, by the name of their array and their number."""
    if told is None:
        return None
    return {(job.name, job.task): job for job in told if not job.ended}


def _failed(config: RunConfig, why: str) -> StoredRun:
    from sweeps.worker import failed, versions

    return store(failed(config, why, 0.0), versions())
