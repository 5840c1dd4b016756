"""Tuning at the smallest size: the best setting of every arm.

An arm that tunes its stepsize alone is enumerated; others are sampled by Optuna (`sampling.py`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sweeps.errors import FailedTrialError, NotTunedError
from sweeps.experiment import ArmConfig, Experiment
from sweeps.plan import with_settings
from sweeps.progress import Reporter
from sweeps.sampling import sample
from sweeps.table import StoredRun
from sweeps.trials import Settings, Steps, Trainer, Trials
from transfer.config import OptimizerConfig, RunConfig

if TYPE_CHECKING:
    from sweeps.database import Database


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """The best setting found for one arm."""

    arm: str
    optimizer: OptimizerConfig
    settings: Settings
    """Tuned values by name: stepsize, or a role for its radius."""
    value: float | None
    """Mean validation loss over the tuning seeds; None when nothing was tuned."""
    method: str
    num_trials: int
    run_ids: tuple[str, ...]
    """Runs of the best trial."""
    tried: tuple[RunConfig, ...] = ()
    """All runs of the tuning."""
    on_edge: tuple[str, ...] = ()
    """Tuned settings at an end of their search range: a wider range may hold a better one."""


def tune_arms(
    arms: Mapping[str, Steps[Tuned]], wait: Callable[[set[str]], dict[str, StoredRun]]
) -> dict[str, Tuned]:
    """Tune several arms side by side: while one waits for its runs, the others go on.

    Args:
        arms: The tuning of each, not begun.
        wait: Begins what was submitted and returns the table once it has one more of these runs.

    Raises:
        FailedTrialError: a run failed; of the first such arm, when the others are tuned.
    """
    tuned, waiting = dict[str, Tuned](), dict[str, set[str]]()
    failure: FailedTrialError | None = None
    rows, due = dict[str, StoredRun](), list(arms)
    try:
        while due:
            for arm in due:
                try:
                    waiting[arm] = arms[arm].send(rows) if arm in waiting else next(arms[arm])
                    continue
                except StopIteration as ended:
                    tuned[arm] = ended.value
                except FailedTrialError as error:
                    failure = failure or error
                waiting.pop(arm, None)
            if waiting:
                rows = wait(set().union(*waiting.values()))
            due = [arm for arm, run_ids in waiting.items() if run_ids & rows.keys()]
            assert due or not waiting, "what ended is waited for by nobody"
    finally:
        for steps in arms.values():
            steps.close()
    if failure is not None:
        raise failure
    return {arm: tuned[arm] for arm in arms}


def tuning_of(
    folder: Path,
    experiment: Experiment,
    arm: str,
    *,
    trainer: Trainer,
    reporter: Reporter,
    replay: bool = False,
    database: "Database | None" = None,
) -> Steps[Tuned]:
    """Tune one arm and return its best setting; pauses where it waits for runs.

    Args:
        folder: Where the journals are.
        experiment: What to tune.
        arm: Name of the arm.
        trainer: Trains runs and returns the table.
        reporter: Told about progress.
        replay: Go through the tuning in memory and write nothing, for readers beside a driver.
        database: Where Optuna keeps its trials; None: in a journal.

    Raises:
        FailedTrialError: a run failed, or every trial diverged.
        NotTunedError: runs are missing and nothing may be trained.
        DatabaseError: the database cannot be reached, or refuses.
    """
    config = experiment.arms[arm]
    if not config.search:
        return Tuned(
            arm=arm,
            optimizer=config.optimizer,
            settings={},
            value=None,
            method="as given",
            num_trials=0,
            run_ids=(),
        )
    trials = Trials(experiment, arm, trainer)
    try:
        if set(config.search) == {"stepsize"}:
            settings, method = (yield from _enumerate(trials, config, reporter)), "grid"
        else:
            settings = yield from sample(
                folder, trials, config, reporter, replay=replay, database=database
            )
            method = experiment.tune.sampler
        values = [trials.value(s) for s in settings]
    except LookupError as error:
        raise NotTunedError(str(error), tuple(trials.asked.values())) from error
    except FailedTrialError as error:
        error.asked = tuple(trials.asked.values())
        raise
    best = int(np.argmin(values))
    if not math.isfinite(values[best]):
        raise FailedTrialError(f"arm {arm!r}: every trial diverged; lower search.stepsize")
    return Tuned(
        arm=arm,
        optimizer=with_settings(config.optimizer, settings[best]),
        settings=settings[best],
        value=values[best],
        method=method,
        num_trials=len(settings),
        run_ids=tuple(c.run_id for c in trials.configs(settings[best])),
        tried=tuple(c for s in settings for c in trials.configs(s)),
        on_edge=tuple(
            name
            for name, value in settings[best].items()
            if math.log2(value) in config.search[name]
        ),
    )


def _enumerate(trials: Trials, config: ArmConfig, reporter: Reporter) -> Steps[list[Settings]]:
    low, high = config.search["stepsize"]
    settings = [{"stepsize": 2.0**k} for k in range(int(low), int(high) + 1)]
    num_runs = len(settings) * len(trials.experiment.tune.seeds)
    title = f"tune {trials.arm}: {len(settings)} stepsizes"
    reporter.stage(title, num_runs, trials.num_given(settings))
    if not trials.background:
        trials.train(settings)
        return settings
    failed = [s for s in settings if trials.failed(s)]
    if failed:
        trials.train(failed)  # once more, if that is asked for
    trials.submit(settings)
    while missing := [s for s in settings if not trials.known(s)]:
        yield from trials.wait(missing)
    return settings
