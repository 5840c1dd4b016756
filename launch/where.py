"""Where a command trains: on this machine, in this process, or on a cluster."""

import argparse
from pathlib import Path
from typing import Any

from launch.commands import UsageError


class StoppedError(Exception):
    """Somebody cancelled the jobs, in another shell; the message says so."""


def where_of(options: argparse.Namespace, folder: Path) -> tuple[str, Any]:
    """Return where to train, and for SLURM the cluster that --cluster names.

    What is not said is as the study was trained last; a new one is trained on this machine.

    Raises:
        ValueError: there is no such profile, or an option does not fit.
    """
    from launch.cluster import load_cluster, remembered

    last = remembered(folder)
    where = options.on or ("slurm" if last is not None else "local")
    if where != "slurm" and options.cluster is not None and not options.dry_run:
        raise UsageError(f"--cluster is for --on slurm, got {options.cluster} without it")
    if where != "local" and options.workers is not None:
        raise UsageError("--workers is for --on local: a cluster's profile has parallelism")
    if options.dry_run and options.on not in (None, "slurm"):
        raise UsageError(f"--dry-run is for --on slurm, got --on {options.on}")
    if where != "slurm" and not options.dry_run:
        return where, None
    if options.cluster is not None:
        return where, load_cluster(options.cluster)
    return where, last


def cluster_of(options: argparse.Namespace, study: Any) -> Any:
    """Return the cluster that jobs go to: --cluster, or the experiment's own if it says anything,
    or the one that the study was on last."""
    from sweeps.cluster import ClusterConfig

    _, chosen = where_of(options, study.folder)
    own = study.experiment.cluster
    if options.cluster is None and own != ClusterConfig():
        return own
    return chosen or own


def runner_of(options: argparse.Namespace, study: Any) -> Any:
    """Return what trains, and note in the study where that is."""
    from launch.cluster import remember

    where, _ = where_of(options, study.folder)
    compute = study.experiment.compute
    if where == "slurm":
        from launch.slurm import SlurmRunner

        cluster = cluster_of(options, study)
        runner = SlurmRunner(cluster, compute)
        remember(study.folder, cluster)
        return runner
    remember(study.folder, None)
    if where == "debug":
        from sweeps.inprocess import InProcessRunner

        return InProcessRunner(compute)
    from sweeps.runner import LocalRunner

    return LocalRunner(options.workers, compute)
