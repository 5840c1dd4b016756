"""Commands about work that goes on elsewhere: status, logs, cancel."""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.commands import BAD_INPUT, DONE, PROG, print_error
from launch.sources import existing_study, quoted

if TYPE_CHECKING:
    from rich.console import Console

    from launch.status import Status

_WATCH_S = 5.0
_GONE_S = 90.0
"""So long cancelled jobs may take to leave the queue: SLURM gives them 30 s or so to end."""
_MOST_JOBS = 8
_MOST_FAILURES = 3


def status(options: argparse.Namespace) -> int:
    """Print where a study stands, once or until nothing is left to do."""
    from launch.console import make_console
    from launch.status import status_of

    study, console = existing_study(options), make_console()
    if options.json:
        print(json.dumps(status_of(study).to_dict(), indent=2))
        return DONE
    while True:
        found = status_of(study)
        if options.watch and console.is_terminal:
            console.clear()
        _print(console, study, found)
        idle = not found.jobs and found.driver is None and found.answers
        if not options.watch or not found.open_runs or idle:
            return DONE
        time.sleep(_WATCH_S)


def logs(options: argparse.Namespace) -> int:
    """Print the output of a run's job, or the last lines of jobs that gave no result."""
    from launch.ledger import submissions
    from launch.team import last_words

    study = existing_study(options)
    made, rows = submissions(study.folder), study.table.read()
    if not made:
        raise ValueError(f"nothing of {study.folder} was submitted to SLURM: there are no logs")
    if options.run is None:
        for submission in made:
            for task, runs in enumerate(submission.runs):
                without = [r for r in runs if r not in rows or rows[r].status == "failed"]
                if without:
                    name = submission.job(task) or submission.name
                    print(f"{name}  {', '.join(without)}: {last_words(submission.logs(task))}")
        return DONE
    having = [
        (submission, task)
        for submission in made
        for task, runs in enumerate(submission.runs)
        if any(run.startswith(options.run) for run in runs)
    ]
    if not having:
        raise ValueError(f"no job of {study.folder} has a run {options.run!r}")
    for submission, task in having:
        found = submission.logs(task)
        if not found:
            print(f"== job {submission.job(task) or submission.name} has not begun")
        for log in found:
            print(f"== {log}")
            print(log.read_text("utf-8", "replace"), end="")
    return DONE


def cancel(options: argparse.Namespace) -> int:
    """Cancel what is in the queue, and wait until it is gone."""
    from launch import queue
    from launch.ledger import mark_cancelled, submissions
    from sweeps.driver import driver_of

    study = existing_study(options)
    driver = driver_of(study.folder)
    made = {s.name for s in submissions(study.folder)}
    if not made:
        here = f"; {driver} trains it: stop that with Ctrl-C" if driver is not None else ""
        raise ValueError(f"nothing of {study.folder} was submitted to SLURM{here}")
    mark_cancelled(study.folder)  # first of all: whoever is at work on it submits no more
    told = queue.seen()
    if told is None:
        raise ValueError("SLURM does not answer (squeue fails): nothing was cancelled")
    jobs = [job for job in told if job.name in made and job.works]
    names = {job.name for job in jobs}
    problem = queue.cancel(sorted(names))
    if problem is not None:
        raise ValueError(f"SLURM cancels nothing: {problem}")
    left = _wait_until_gone(names, queue)
    if left:
        print_error(f"{left} jobs are still in the queue, and will leave it")
        return BAD_INPUT
    print(f"{len(jobs)} jobs cancelled; submit what is missing with: {_resume(study.folder)}")
    if driver is not None:
        print(f"a command at work on it on SLURM ({driver}) stops too")
    return DONE


def _resume(folder: Path) -> str:
    return f"{PROG} resume {quoted(folder)}"


def _wait_until_gone(names: set[str], queue: Any) -> int:
    """Return how many jobs of these names are still there after a while."""
    end = time.monotonic() + _GONE_S
    while True:
        told = queue.seen()
        left = sum(job.name in names and not job.ended for job in told or [])
        if (told is not None and not left) or time.monotonic() > end:
            return left
        time.sleep(1)


# --- what is printed -------------------------------------------------------------------------


def _print(console: "Console", study: Any, found: "Status") -> None:
    from rich.table import Table

    from launch.status import STATES

    table = Table(title=f"{study.experiment.name} in {study.folder}", title_justify="left")
    for head in ("stage", found.axis.replace("_", " "), *STATES, "of"):
        table.add_column(head, justify="left" if head == "stage" else "right")
    for row in found.rows:
        counts = [str(row.counts[state] or "-") for state in STATES]
        total = str(row.total) if row.tuned else f"about {row.total}"
        table.add_row(row.stage, str(row.size), *counts, total)
    console.print(table)
    for line in _lines(study.folder, found):
        console.print(line, markup=False)


def _lines(folder: Path, found: "Status") -> list[str]:
    lines = []
    if not all(row.tuned for row in found.rows):
        lines.append("about: sizes are swept around the tuned setting, which is not known yet")
    if not found.answers:
        lines.append("SLURM does not answer (squeue and sacct fail): what it runs is not shown")
    for job in found.jobs[:_MOST_JOBS]:
        why = f", {job.reason}" if job.state == "PENDING" else ""
        lines.append(f"job {job.job}: {job.state.lower()}{why}; {job.runs} runs to come")
    if len(found.jobs) > _MOST_JOBS:
        lines.append(f"and {len(found.jobs) - _MOST_JOBS} jobs more")
    for run, error in found.failures[:_MOST_FAILURES]:
        lines.append(f"run {run} failed: {error}")
    if found.failures:
        lines.append(
            f"{len(found.failures)} runs failed; their jobs' output: {PROG} logs {quoted(folder)} "
            f"RUN; again: {_resume(folder)} --retry-failed"
        )
    unit = "GPU hours" if found.gpus else "hours of computing"
    if found.hours_left is None:
        left = "what is left is not known before runs like it were timed"
    else:
        left = f"about {found.hours_left:.2f} left"
    lines.append(f"{unit}: {found.hours_used:.2f} used, {left}")
    if found.driver is not None:
        lines.append(f"a command is at work on it ({found.driver})")
    elif found.open_runs > len(found.failures) and not found.jobs and found.answers:
        lines.append(f"{found.open_runs} runs to go: {_resume(folder)}")
    return lines
