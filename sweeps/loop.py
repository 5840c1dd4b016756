"""Tune, sweep, vary the radii and check: the computing half of the loop, from Python."""

from collections.abc import Sequence
from pathlib import Path

from sweeps.adaptive import Settled, needed, require_judge
from sweeps.driver import sole_driver
from sweeps.experiment import Experiment
from sweeps.plan import PlannedRun, Purpose
from sweeps.progress import Reporter
from sweeps.runner import LocalRunner, Runner
from sweeps.study import DEFAULT_ROOT, Study
from sweeps.table import StoredRun
from sweeps.tune import Tuned

_TITLES: dict[Purpose, str] = {
    "sweep": "sweep stepsizes",
    "radii": "vary radii",
    "check": "train the size not swept",
}


def run(
    experiment: Experiment,
    folder: Path | None = None,
    *,
    runner: Runner | None = None,
    reporter: Reporter | None = None,
    retry_failed: bool = False,
    settled: Settled | None = None,
) -> Study:
    """Carry out an experiment up to its complete run table.

    Args:
        experiment: What to do, from `load_experiment` or made in Python.
        folder: The study's folder; by default studies/<experiment name>.
        runner: Trains the runs; by default processes on this machine.
        reporter: Told about progress.
        retry_failed: Train failed runs once more.
        settled: Says whether a part of an arm's sweep decides its verdict; for adaptive sweeps.

    Returns:
        The study; `to_frame` and `Study.table` give its results.

    Raises:
        ValueError: the folder holds another experiment; or the sweep is adaptive without
            `settled`.
        RuntimeError: a run of the tuning failed.
    """
    require_judge(experiment, settled)
    study = Study.create(folder or DEFAULT_ROOT / experiment.name, experiment)
    reporter = reporter or Reporter()
    with sole_driver(study.folder):
        if runner is not None:
            complete(study, runner, reporter, retry_failed, settled=settled)
            return study
        with LocalRunner(compute=experiment.compute) as local:
            complete(study, local, reporter, retry_failed, settled=settled)
    return study


def complete(
    study: Study,
    runner: Runner,
    reporter: Reporter,
    retry_failed: bool = False,
    purposes: Sequence[Purpose] = ("sweep", "radii", "check"),
    settled: Settled | None = None,
) -> dict[str, Tuned]:
    """Tune, then train the planned runs of these purposes that are needed and the table lacks."""
    require_judge(study.experiment, settled)
    tuned = study.tune(runner, reporter, retry_failed)
    done = set[str]()
    # What is needed may grow with what came out.
    while new := [
        run
        for run in needed(study, tuned, settled)
        if run.purpose in purposes and run.config.run_id not in done
    ]:
        stage(study, new, runner, reporter, retry_failed)
        done |= {run.config.run_id for run in new}
    study.table.merge()
    return tuned


def stage(
    study: Study,
    planned: Sequence[PlannedRun],
    runner: Runner,
    reporter: Reporter,
    retry_failed: bool = False,
) -> dict[str, StoredRun]:
    """Train runs, whatever they are for, together: no worker waits at the end of each purpose."""
    rows = study.table.read()
    known = sum(run.config.run_id in rows for run in planned)
    purposes = {run.purpose for run in planned}
    title = ", ".join(text for purpose, text in _TITLES.items() if purpose in purposes)
    reporter.stage(title, len(planned), known)
    return study.ensure([run.config for run in planned], runner, reporter, retry_failed)
