"""Tuning at the smallest size: the best setting of every arm.

An arm that tunes its stepsize alone is enumerated; others are sampled by Optuna (`sampling.py`).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sweeps.errors import FailedTrialError, NotTunedError
from sweeps.experiment import ArmConfig, Experiment
from sweeps.plan import with_settings
from sweeps.progress import Reporter
from sweeps.sampling import sample
from sweeps.trials import Settings, Trainer, Trials
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


def tune_arm(
    folder: Path,
    experiment: Experiment,
    arm: str,
    *,
    trainer: Trainer,
    reporter: Reporter,
    replay: bool = False,
    database: "Database | None" = None,
) -> Tuned:
    """Tune one arm and return its best setting.

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
            settings, method = _enumerate(trials, config, reporter), "grid"
        else:
            settings = sample(folder, trials, config, reporter, replay=replay, database=database)
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


def _enumerate(trials: Trials, config: ArmConfig, reporter: Reporter) -> list[Settings]:
    low, high = config.search["stepsize"]
    settings = [{"stepsize": 2.0**k} for k in range(int(low), int(high) + 1)]
    num_runs = len(settings) * len(trials.experiment.tune.seeds)
    known = sum(trials.known(s) for s in settings) * len(trials.experiment.tune.seeds)
    reporter.stage(f"tune {trials.arm}: {len(settings)} stepsizes", num_runs, known)
    trials.train(settings)
    return settings
