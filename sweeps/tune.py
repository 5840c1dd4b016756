"""Tuning at the smallest size: Optuna asks a batch, the runs are trained, Optuna is told.

Every ask is a function of the study's seed, the trial's number and what was told before: the
sampler is made anew for each. Replaying the loop on an empty journal therefore gives the same
trials, and the run table already holds their runs. So the journal is disposable: whenever it
cannot be read, or contradicts the table, it is set aside and the loop fills a new one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeps.errors import FailedTrialError
from sweeps.experiment import ArmConfig, Experiment
from sweeps.plan import run_config, with_settings
from sweeps.progress import Reporter
from sweeps.table import StoredRun
from transfer.config import OptimizerConfig, RunConfig, ScionConfig, canonical_json

if TYPE_CHECKING:
    import optuna

Evaluate = Callable[[Sequence[RunConfig]], dict[str, StoredRun]]

_STEPSIZE_STEP = 1.0
_RADIUS_STEP = 0.5
"""Radii are tried on half octaves, stepsizes on the octaves of the sweep's grid, so the tuned
setting is itself a cell of the sweep and needs no rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """The best setting found for one arm."""

    arm: str
    optimizer: OptimizerConfig
    settings: dict[str, float]
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
    folder: Path | None, experiment: Experiment, arm: str, *, evaluate: Evaluate, reporter: Reporter
) -> Tuned:
    """Tune one arm and return its best setting.

    Args:
        folder: Where the journals are; None replays the tuning in memory and touches none, for
            readers beside a driver.
        experiment: What to tune.
        arm: Name of the arm.
        evaluate: Trains runs and returns the table.
        reporter: Told about progress.

    Raises:
        FailedTrialError: a run failed, or every trial diverged.
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
    trials = _Trials(experiment, arm, evaluate)
    if set(config.search) == {"stepsize"}:
        settings, method = _enumerate(trials, config, reporter), "grid"
    else:
        settings, method = _sample(folder, trials, config, reporter), experiment.tune.sampler
    values = [trials.value(s) for s in settings]
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


class _Trials:
    """Values of settings, by way of the run table."""

    def __init__(self, experiment: Experiment, arm: str, evaluate: Evaluate) -> None:
        self.experiment = experiment
        self.arm = arm
        self._evaluate = evaluate
        self.rows: dict[str, StoredRun] = evaluate([])

    def configs(self, settings: dict[str, float]) -> list[RunConfig]:
        """Return the runs of one setting, one a seed."""
        optimizer = with_settings(self.experiment.arms[self.arm].optimizer, settings)
        return [
            run_config(
                self.experiment,
                self.arm,
                optimizer,
                size=self.experiment.sweep.sizes[0],
                seed=seed,
            )
            for seed in self.experiment.tune.seeds
        ]

    def train(self, settings: Sequence[dict[str, float]]) -> None:
        """Bring the runs of these settings into the table."""
        self.rows = self._evaluate([c for s in settings for c in self.configs(s)])

    def num_given(self, settings: Sequence[dict[str, float]]) -> int:
        """Count the runs that need no training: repeated ones, and those in the table."""
        ids = [c.run_id for s in settings for c in self.configs(s)]
        return len(ids) - len(set(ids) - self.rows.keys())

    def known(self, settings: dict[str, float]) -> bool:
        """Whether the table has the runs of this setting."""
        return all(c.run_id in self.rows for c in self.configs(settings))

    def value(self, settings: dict[str, float]) -> float:
        """Mean validation loss over the seeds; infinite if one diverged."""
        runs = [self.rows[c.run_id] for c in self.configs(settings)]
        for run in runs:
            if run.status == "failed":
                raise FailedTrialError(f"run {run.run_id} of the tuning failed: {run.error}")
        if any(run.status != "done" for run in runs):
            return math.inf
        return math.fsum(r.val_loss for r in runs if r.val_loss is not None) / len(runs)


def _enumerate(trials: _Trials, config: ArmConfig, reporter: Reporter) -> list[dict[str, float]]:
    low, high = config.search["stepsize"]
    settings = [{"stepsize": 2.0**k} for k in range(int(low), int(high) + 1)]
    num_runs = len(settings) * len(trials.experiment.tune.seeds)
    known = sum(trials.known(s) for s in settings) * len(trials.experiment.tune.seeds)
    reporter.stage(f"tune {trials.arm}: {len(settings)} stepsizes", num_runs, known)
    trials.train(settings)
    return settings


# --- Optuna ----------------------------------------------------------------------------------


def _sample(
    folder: Path | None, trials: _Trials, config: ArmConfig, reporter: Reporter
) -> list[dict[str, float]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = trials.experiment.tune
    if folder is None:
        study = _load(None, trials, config)
    else:
        study = _open_journal(folder / f"{trials.arm}.journal", trials, config, reporter)
    told = sum(t.state.is_finished() for t in study.get_trials(deepcopy=False))
    seeds = len(plan.seeds)
    if _given(config) is None:
        reporter.note(
            f"arm {trials.arm}: its given settings lie outside its search and are not tried first"
        )
    reporter.stage(f"tune {trials.arm}: {plan.trials} trials", plan.trials * seeds, told * seeds)
    for end in range(plan.batch, plan.trials + 1, plan.batch):
        while len(study.get_trials(deepcopy=False)) < end:
            _ask(study, trials, config)
        batch = study.get_trials(deepcopy=False)[end - plan.batch : end]
        open_trials = [t for t in batch if not t.state.is_finished()]
        if open_trials:
            settings = [_settings(t) for t in open_trials]
            reporter.advance(trials.num_given(settings))
            trials.train(settings)
        for trial in open_trials:
            study.tell(trial.number, trials.value(_settings(trial)))
    return [_settings(t) for t in study.get_trials(deepcopy=False)[: plan.trials]]


def _space(config: ArmConfig) -> dict[str, Any]:
    """Log2 of every tuned setting."""
    from optuna.distributions import FloatDistribution

    return {
        name: FloatDistribution(low, high, step=_step(name))
        for name, (low, high) in sorted(config.search.items())
    }


def _given(config: ArmConfig) -> dict[str, float] | None:
    """Log2 of the settings that the arm came with, the first to be tried; None if off the grid."""
    given = {"stepsize": config.optimizer.stepsize}
    if isinstance(config.optimizer, ScionConfig):
        given |= {role: rule.radius for role, rule in config.optimizer.roles.items()}
    logs = {name: math.log2(given[name]) for name in config.search}
    on_grid = all(
        low <= logs[name] <= high and (logs[name] / _step(name)).is_integer()
        for name, (low, high) in config.search.items()
    )
    return logs if on_grid else None


def _step(name: str) -> float:
    return _STEPSIZE_STEP if name == "stepsize" else _RADIUS_STEP


def _settings(trial: "optuna.trial.FrozenTrial") -> dict[str, float]:
    return {name: float(2.0**value) for name, value in trial.params.items()}


def _ask(study: "optuna.Study", trials: _Trials, config: ArmConfig) -> None:
    number = len(study.get_trials(deepcopy=False))
    study.sampler = _sampler(trials.experiment.tune.sampler, trials.experiment, number)
    given = _given(config)
    if number == 0 and given is not None:
        study.enqueue_trial(given)
    study.ask(fixed_distributions=_space(config))


def _sampler(name: str, experiment: Experiment, number: int) -> "optuna.samplers.BaseSampler":
    """Make a sampler for one trial; every argument is stated, so defaults cannot drift."""
    import optuna

    from transfer.seeds import derived_seed

    seed = derived_seed("sampler", experiment.tune.sampler_seed, number)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        n_startup_trials=10,
        n_ei_candidates=24,
        seed=seed,
        multivariate=True,
        group=False,
        constant_liar=True,
    )


def _open_journal(
    path: Path, trials: _Trials, config: ArmConfig, reporter: Reporter
) -> "optuna.Study":
    """Open the arm's study; what cannot be used is set aside, and the caller refills a new one."""
    from optuna.storages.journal import JournalFileBackend

    path.parent.mkdir(parents=True, exist_ok=True)
    # A killed driver leaves its lock, and there is one driver: ours.
    for stale in path.parent.glob(path.name + ".lock*"):
        stale.unlink(missing_ok=True)
    if path.exists():
        try:
            if not path.read_bytes().endswith(b"\n"):
                raise ValueError("its last line is cut off")
            study = _load(JournalFileBackend(str(path)), trials, config)
            _require_consistent(study, trials, config)
            return study
        except Exception as error:  # a torn journal raises whatever its parser meets
            aside = path.with_name(f"{path.name}.set-aside-{len(list(path.parent.iterdir()))}")
            path.rename(aside)
            reporter.note(
                f"tuning journal {path.name} is unusable ({error}): set aside as {aside.name} and "
                "rebuilt from the run table"
            )
    return _load(JournalFileBackend(str(path)), trials, config)


def _load(backend: Any, trials: _Trials, config: ArmConfig) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage

    study = optuna.create_study(
        storage=None if backend is None else JournalStorage(backend),
        study_name=trials.arm,
        direction="minimize",
        load_if_exists=True,
    )
    if not study.get_trials(deepcopy=False) and "plan" not in study.user_attrs:
        study.set_user_attr("plan", _plan(trials, config))
    return study


def _plan(trials: _Trials, config: ArmConfig) -> str:
    """Everything that the asks depend on, but the number of trials, which may grow."""
    tune = replace(trials.experiment.tune, trials=trials.experiment.tune.batch)
    return canonical_json({"search": config.search, "tune": asdict(tune)})


def _require_consistent(study: "optuna.Study", trials: _Trials, config: ArmConfig) -> None:
    if study.user_attrs.get("plan") != _plan(trials, config):
        raise ValueError("it was made for another search")
    for trial in study.get_trials(deepcopy=False):
        if set(trial.params) != set(config.search):
            raise ValueError(f"trial {trial.number} was cut off while it was asked for")
        if trial.state.is_finished():
            settings = _settings(trial)
            if not trials.known(settings) or trials.value(settings) != trial.value:
                raise ValueError(f"trial {trial.number} is not what the run table says")
