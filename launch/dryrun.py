"""`--dry-run`: the jobs that SLURM would get, what they contain, and the script."""

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launch.sources import study_of
from launch.where import where_of

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.cluster import ClusterConfig
    from sweeps.packing import Bundle
    from sweeps.plan import Purpose
    from transfer.config import RunConfig


_LATER: "dict[str, tuple[str, tuple[Purpose, ...]]]" = {
    "sweep": ("sweep and radii", ("sweep", "radii")),
    "run": ("sweep, radii and check", ("sweep", "radii", "check")),
}
"""What comes after the tuning, by command."""


def print_plan(options: argparse.Namespace, command: str) -> None:
    """Print the plan of the runs that a study lacks, by stage.

    Args:
        options: Of the command line.
        command: run, sweep or tune.

    Raises:
        ValueError: as the command itself would, but for what only SLURM can refuse.
    """
    from launch.cluster import mismatches
    from launch.console import make_console
    from launch.estimates import bundles, pace_of
    from launch.ledger import array_folder
    from launch.plan import arm_plan
    from launch.status import missing
    from launch.submitting import script

    study, console = study_of(options, preview=True), make_console()
    _, cluster = where_of(options, study.folder, study.experiment)
    compute, rows = study.experiment.compute, study.table.read()
    plans = [arm_plan(study, arm) for arm in study.experiment.arms]
    pace = pace_of(rows.values(), compute)
    stages = {f"tune {', '.join(study.experiment.arms)}": missing(plans, rows, ("tune",))}
    if command != "tune":
        title, purposes = _LATER[command]
        stages[title] = missing(plans, rows, purposes)
    if not options.retry_failed:
        for title, runs in stages.items():
            stages[title] = [run for run in runs if run.run_id not in rows]
    console.print(f"{study.folder}: nothing is submitted; this is what would be", markup=False)
    packed = {}
    for title, runs in stages.items():
        packed[title] = bundles(runs, pace, compute, cluster)
        _print_stage(console, title, packed[title], cluster, study.experiment.sweep.axis)
    if any(plan.tuned is None for plan in plans):
        console.print(
            "Trials that Optuna proposes are submitted as results arrive, tune.batch at a time, "
            "so they are more arrays than that. The sweep goes around what the tuning finds: its "
            "jobs are as many and as long for any stepsize.",
            soft_wrap=True,
        )
    if study.experiment.sweep.adaptive and command != "tune" and stages[title]:
        console.print(
            "With sweep.adaptive that is the most that it takes: it comes in parts, and ends where "
            "more stepsizes would not change a verdict.",
            soft_wrap=True,
        )
    known = sum(pace.is_known(run) for runs in stages.values() for run in runs)
    total = sum(map(len, stages.values()))
    if total:
        console.print(
            f"times: {known} of {total} runs from the run table, the others guessed from their "
            "operations",
            markup=False,
        )
    for line in mismatches(cluster, compute.device):
        console.print(line, markup=False, soft_wrap=True)
    most = max((len(jobs) for jobs in packed.values()), default=0)
    if most:
        folder = array_folder(study.folder.resolve(), "DATE")
        console.print("\nscript of the largest array, DATE standing for the end of its name:\n")
        print(script(folder, folder.name, most, cluster))


def _print_stage(
    console: "Console",
    title: str,
    jobs: "Sequence[Bundle]",
    cluster: "ClusterConfig",
    axis: str,
) -> None:
    from rich.table import Table

    from launch.estimates import START_S

    if not jobs:
        console.print(f"\n{title}: nothing is missing", markup=False)
        return
    each = [job.seconds + START_S for job in jobs]
    together = max(max(each), sum(each) / cluster.parallelism)
    unit, number = ("GPU hours", cluster.gpus) if cluster.gpus else ("hours of jobs", 1)
    runs = sum(len(job.runs) for job in jobs)
    table = Table(title=f"{title}: {runs} runs in {_jobs(len(jobs))}", title_justify="left")
    for head in ("task", "runs", axis.replace("_", " ") + " x runs", "minutes"):
        table.add_column(head, justify="left" if " x " in head else "right")
    for task, (job, seconds) in enumerate(zip(jobs, each, strict=True)):
        contents = _contents(job.runs, axis)
        table.add_row(str(task), str(len(job.runs)), contents, f"{seconds / 60:.1f}")
    console.print()
    console.print(table)
    at_once = _jobs(min(len(jobs), cluster.parallelism))
    console.print(
        f"about {together / 60:.1f} minutes, {at_once} at a time; "
        f"{sum(each) * number / 3600:.2f} {unit}",
        markup=False,
    )
    limit = 60 * cluster.time_min - cluster.signal_delay_s
    if each[0] > limit * (cluster.requeues + 1):
        console.print(
            f"note: the longest job needs {each[0] / limit:.1f} times its limit "
            f"(cluster.time_min = {cluster.time_min}), but goes on only cluster.requeues = "
            f"{cluster.requeues} times",
            markup=False,
        )


def _jobs(number: int) -> str:
    return f"{number} job{'' if number == 1 else 's'}"


def _contents(runs: "Sequence[RunConfig]", axis: str) -> str:
    """Return such as `256 x 36, 512 x 4`."""
    counts = Counter(getattr(run, axis) for run in runs)
    return ", ".join(f"{size} x {number}" for size, number in sorted(counts.items()))
