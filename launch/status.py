"""Where a study stands: the run table, what was submitted, and SLURM's queue, put together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from launch import queue
from launch.ledger import Submission, submissions
from launch.plan import ArmPlan, arm_plan
from sweeps.driver import driver_of
from sweeps.pace import Pace
from sweeps.plan import Purpose
from sweeps.study import Study
from sweeps.table import StoredRun
from transfer.config import RunConfig

State = Literal["done", "running", "queued", "to do", "diverged", "failed"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, slots=True)
class Row:
    """The runs of one stage and size, over all arms."""

    stage: Purpose
    size: int
    counts: Mapping[State, int]
    tuned: bool
    """Whether its runs are known; else only how many there will be, as their arm is not tuned."""

    @property
    def total(self) -> int:
        """Number of its runs."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job in SLURM's queue with runs of the study that have no result yet."""

    job: str
    state: str
    reason: str
    runs: int
    seconds: float
    """Expected from its start to its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """All that `lmo-transfer status` shows."""

    axis: str
    rows: tuple[Row, ...]
    jobs: tuple[OpenJob, ...]
    answers: bool
    """Whether SLURM answered, if something was submitted to it."""
    failures: tuple[tuple[str, str], ...]
    """Run id and error."""
    driver: str | None
    """Which command is at work on it."""
    gpus: int
    """Of a job; 0: hours are those of processes."""
    hours_used: float
    hours_left: float | None
    """Of runs that are missing; None where no run like them was timed."""
    open_runs: int
    """Runs without a result, and failed ones."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        rows = [
            {"stage": r.stage, self.axis: r.size, "tuned": r.tuned, **r.counts} for r in self.rows
        ]
        jobs = [
            {"job": j.job, "state": j.state, "reason": j.reason, "runs": j.runs} for j in self.jobs
        ]
        failures = [{"run": run, "error": error} for run, error in self.failures]
        unit = "gpu_hours" if self.gpus else "hours"
        left = None if self.hours_left is None else round(self.hours_left, 6)
        return {
            "stages": rows,
            "driver": self.driver,
            "jobs": jobs,
            "slurm_answers": self.answers,
            "failed": failures,
            f"{unit}_used": round(self.hours_used, 6),
            f"{unit}_left": left,
        }


def status_of(study: Study) -> Status:
    """Find out where a study stands; changes nothing."""
    # The queue first: what leaves it after that is in the table.
    made = submissions(study.folder)
    told = queue.seen() if made else []
    if told is None:
        told = queue.seen_by_accounting()
    live = {(job.name, job.task): job for job in told or [] if not job.ended}
    under_way = _under_way(made, live)
    plans = [arm_plan(study, arm) for arm in study.experiment.arms]
    rows = study.table.read()
    gpus = max((s.gpus for s in made), default=0)
    open_runs = missing(plans, rows)
    return Status(
        axis=study.experiment.sweep.axis,
        rows=tuple(_rows(study, plans, rows, under_way)),
        jobs=tuple(_jobs(made, live, rows)),
        answers=told is not None,
        failures=tuple(f for f in _failures(plans, rows) if f[0] not in under_way),
        driver=driver_of(study.folder),
        gpus=gpus,
        hours_used=_hours_used(made, plans, rows),
        hours_left=_hours_left(study, open_runs, rows, gpus),
        open_runs=len(open_runs),
    )


def _under_way(
    made: Sequence[Submission],
    live: Mapping[tuple[str, int], queue.Queued],
) -> dict[str, State]:
    """Return the runs that jobs in the queue have."""
    return {
        run: "queued" if live[s.name, task].waits else "running"
        for s in made
        for task, runs in enumerate(s.runs)
        if (s.name, task) in live
        for run in runs
    }


def _rows(
    study: Study,
    plans: Sequence[ArmPlan],
    rows: Mapping[str, StoredRun],
    under_way: Mapping[str, State],
) -> list[Row]:
    axis, found = study.experiment.sweep.axis, dict[tuple[Purpose, int], Counter[State]]()
    guessed = set[tuple[Purpose, int]]()
    for purpose in get_args(Purpose):
        for plan in plans:
            for run, known in plan.of(purpose):
                key = purpose, getattr(run, axis)
                state = _state(run.run_id, rows, under_way) if known else "to do"
                found.setdefault(key, Counter())[state] += 1
                if plan.tuned is None and purpose != "tune":
                    guessed.add(key)
    return [
        Row(*key, {state: counts[state] for state in STATES}, key not in guessed)
        for key, counts in found.items()
    ]


def _state(run: str, rows: Mapping[str, StoredRun], under_way: Mapping[str, State]) -> State:
    stored = rows.get(run)
    if stored is not None and stored.status != "failed":
        return "done" if stored.status == "done" else "diverged"
    if run in under_way:
        return under_way[run]
    return "to do" if stored is None else "failed"


def _jobs(
    made: Sequence[Submission],
    live: Mapping[tuple[str, int], queue.Queued],
    rows: Mapping[str, StoredRun],
) -> list[OpenJob]:
    jobs = []
    for s in made:
        for task, runs in enumerate(s.runs):
            job = live.get((s.name, task))
            left = sum(run not in rows or rows[run].status == "failed" for run in runs)
            if job is not None:
                jobs.append(OpenJob(job.job, job.state, job.reason, left, s.seconds[task]))
    return jobs


def missing(
    plans: Sequence[ArmPlan],
    rows: Mapping[str, StoredRun],
    purposes: Sequence[Purpose] = get_args(Purpose),
) -> list[RunConfig]:
    """Return the runs without a result, failed ones included; arms may share runs."""
    found: list[RunConfig] = []
    seen: set[str] = set()
    for plan in plans:
        for purpose in purposes:
            for run, known in plan.of(purpose):
                stored = rows.get(run.run_id) if known else None
                if stored is not None and stored.status != "failed":
                    continue
                if not (known and run.run_id in seen):
                    found.append(run)
                if known:
                    seen.add(run.run_id)
    return found


def _failures(plans: Sequence[ArmPlan], rows: Mapping[str, StoredRun]) -> list[tuple[str, str]]:
    purposes = get_args(Purpose)
    wanted = {run.config.run_id for p in plans for purpose in purposes for run in p.of(purpose)}
    failed = (row for run, row in rows.items() if run in wanted and row.status == "failed")
    return [(row.run_id, row.error or "no reason given") for row in failed]


def _hours_used(
    made: Sequence[Submission], plans: Sequence[ArmPlan], rows: Mapping[str, StoredRun]
) -> float:
    """Return what jobs took, as SLURM accounts for them; without accounting, what runs took."""
    gpus = {s.array: max(1, s.gpus) for s in made if s.array}
    took = queue.elapsed_s(gpus)
    if took:
        return sum(s * gpus.get(job.partition("_")[0], 1) for job, s in took.items()) / 3600
    most = max(gpus.values(), default=1)
    return sum((row.wall_s + row.compile_s) * most for row in rows.values()) / 3600


def _hours_left(
    study: Study, runs: Sequence[RunConfig], rows: Mapping[str, StoredRun], gpus: int
) -> float | None:
    pace = Pace(rows.values(), study.experiment.compute.device)
    total = 0.0
    for run in runs:
        seconds = pace.seconds(run)
        if seconds is None:
            return None
        total += seconds
    return total * max(1, gpus) / 3600
