"""Where a command trains: on this machine, in this process, or on a cluster."""

import argparse
from pathlib import Path
from typing import Any

from launch.commands import UsageError


class StoppedError(Exception):
    """Somebody cancelled the jobs, in another shell; the message says so."""


def where_of(options: argparse.Namespace, folder: Path, experiment: Any) -> tuple[str, Any]:
    """Return where to train, and for SLURM what the cluster is asked for.

    What is not said is as the study was trained last; a new one is trained on this machine. The
    cluster is the profile of --cluster, or the one that a field on the command line changes, or
    the last one, or the experiment's own.

    Args:
        options: Of the command line.
        folder: The study's; it need not be there.
        experiment: With the fields of the command line.

    Raises:
        ValueError: there is no such profile, or an option does not fit.
    """
    from launch.cluster import load_cluster, remembered

    last = remembered(folder)
    where = options.on or ("slurm" if last is not None else "local")
    if options.dry_run:
        if options.on not in (None, "slurm"):
            raise UsageError(f"--dry-run is for --on slurm, got --on {options.on}")
        where = "slurm"
    if where != "slurm" and options.cluster is not None:
        raise UsageError(f"--cluster is for --on slurm, got {options.cluster} without it")
    if where != "local" and options.workers is not None:
        raise UsageError("--workers is for --on local: a cluster's profile has parallelism")
    if where != "slurm":
        return where, None
    if options.cluster is not None:
        return where, load_cluster(options.cluster)
    given = any(word.startswith("--cluster.") for word in options.fields_given)
    return where, experiment.cluster if given or last is None else last


def runner_of(options: argparse.Namespace, folder: Path, experiment: Any) -> Any:
    """Return what trains; nothing is started or written.

    Raises:
        ValueError: as `where_of`; or there is no SLURM here, or jobs of the study are in its queue
            and are not to be waited for.
    """
    where, cluster = where_of(options, folder, experiment)
    if where == "slurm":
        from launch.slurm import SlurmRunner

        return SlurmRunner(cluster, experiment.compute)
    _require_no_jobs(folder)
    if where == "debug":
        from sweeps.inprocess import InProcessRunner

        return InProcessRunner(experiment.compute)
    from sweeps.runner import LocalRunner

    return LocalRunner(options.workers, experiment.compute)


def _require_no_jobs(folder: Path) -> None:
    """Raise ValueError if SLURM trains a study that is to be trained here."""
    if not (folder / "jobs").is_dir():
        return
    from launch import queue
    from launch.ledger import submissions

    names = {submission.name for submission in submissions(folder)}
    jobs = sum(job.name in names and job.works for job in queue.seen() or [])
    if jobs:
        raise ValueError(
            f"{jobs} jobs of {folder} are in SLURM's queue: wait for them with --on slurm, or "
            f"cancel them first"
        )
