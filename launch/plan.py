"""Which runs a study consists of, as far as that can be told before it is tuned."""

from dataclasses import dataclass
from typing import NamedTuple

from launch.pipeline import settled
from sweeps.adaptive import needed
from sweeps.errors import FailedTrialError, NotTunedError
from sweeps.plan import PlannedRun, Purpose, runs_around
from sweeps.study import Study
from sweeps.tune import Tuned
from transfer.config import RunConfig


class Expected(NamedTuple):
    """A run that will be trained."""

    config: RunConfig
    known: bool
    """Whether it is this one, or only one that is as long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmPlan:
    """The runs of one arm."""

    arm: str
    tuned: Tuned | None
    """Its best setting; None until it is tuned."""
    tuning: tuple[RunConfig, ...]
    """Runs of its tuning that were asked for so far."""
    tuning_runs: int
    """Most runs that its tuning takes."""
    later: tuple[PlannedRun, ...]
    """Sweep, star and check: around the tuned setting, or as many and as long around the given one
    where that is not known yet."""

    def of(self, purpose: Purpose) -> list[Expected]:
        """Return the runs for one purpose, for the tuning as many as it takes at most."""
        known = self.tuned is not None
        if purpose != "tune":
            return [Expected(run.config, known) for run in self.later if run.purpose == purpose]
        # Those that were not asked for yet are of the same size, so they cost the same.
        missing = 0 if known else self.tuning_runs - len(self.tuning)
        asked = [Expected(run, True) for run in self.tuning]
        return asked + [Expected(run, False) for run in self.tuning[:1] * missing]


def arm_plan(study: Study, arm: str) -> ArmPlan:
    """Return what an arm's runs are, from the run table alone.

    Args:
        study: It may be a preview, whose folder is not there.
        arm: Name of the arm.
    """
    experiment, config = study.experiment, study.experiment.arms[arm]
    try:
        tuned = study.tuned(arm)
        asked = tuned.tried
    except (NotTunedError, FailedTrialError) as error:
        tuned, asked = None, error.asked
    if tuned is None:
        later = runs_around(experiment, {arm: config.optimizer})
    else:
        later = needed(study, {arm: tuned}, settled if experiment.sweep.adaptive else None)
    trials = 0
    if config.search:
        low, high = config.search["stepsize"]
        trials = experiment.tune.trials if len(config.search) > 1 else int(high - low) + 1
    return ArmPlan(
        arm=arm,
        tuned=tuned,
        tuning=tuple({run.run_id: run for run in asked}.values()),
        tuning_runs=trials * len(experiment.tune.seeds),
        later=tuple(later),
    )
