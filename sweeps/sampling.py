"""Tuning by Optuna's sampler: trials are asked, their runs trained, the results told.

Every ask is a function of the study's seed, the trial's number and what was told before: the
sampler is made anew for each. Going through the tuning again with an empty storage therefore gives
the same trials, and the run table already holds their runs.

With a runner that trains while we wait, trials are asked in batches, and each batch is told in the
order of its numbers. With one that trains in the background as many trials as a batch has are
always under way, and `asked.py` keeps what each was told before.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.asked import AskedFile
from sweeps.experiment import ArmConfig, Experiment
from sweeps.progress import Reporter
from sweeps.storage import TOLD, in_memory, open_database, open_journal, settings_of
from sweeps.trials import Settings, Steps, Trials
from transfer.config import ScionConfig
from transfer.seeds import derived_seed

if TYPE_CHECKING:
    import optuna

    from sweeps.database import Database

    Frozen = optuna.trial.FrozenTrial

_STEPSIZE_STEP = 1.0
_RADIUS_STEP = 0.5
"""Radii are tried on half octaves, stepsizes on the octaves of the sweep's grid, so the tuned
setting is itself a cell of the sweep and needs no rounding."""


def sample(
    folder: Path,
    trials: Trials,
    config: ArmConfig,
    reporter: Reporter,
    *,
    replay: bool,
    database: "Database | None",
) -> Steps[list[Settings]]:
    """Tune an arm and return the settings of all its trials, in order; pauses to wait for runs.

    Args:
        folder: Where journals and `asked` files are.
        trials: The arm's trials; trains them.
        config: The arm.
        reporter: Told about progress.
        replay: Go through the tuning in memory and write nothing.
        database: Where Optuna keeps the trials; None: in a journal.

    Raises:
        FailedTrialError: a run failed.
        DatabaseError: the database cannot be reached, or refuses.
        LookupError: runs are missing and nothing may be trained.
    """
    import optuna

    # Of a database that fails Optuna warns besides raising.
    quiet = optuna.logging.WARNING if database is None else optuna.logging.ERROR
    optuna.logging.set_verbosity(quiet)
    asked = AskedFile(folder / f"{trials.arm}.asked.jsonl", trials.experiment.tune.batch)
    if replay:
        return (
            yield from _Tuning(in_memory(trials, config), trials, config, asked, reporter).run()
        )
    note = asked.repair()
    if note:
        reporter.note(note)
    if database is None:
        study = open_journal(folder, trials, config, asked, reporter)
        return (yield from _Tuning(study, trials, config, asked, reporter).run())
    with database.faults():
        study = open_database(database, folder, trials, config, asked, reporter)
        return (yield from _Tuning(study, trials, config, asked, reporter).run())


class _Tuning:
    """One pass through the tuning of an arm, from whatever its study knows already."""

    def __init__(
        self,
        study: "optuna.Study",
        trials: Trials,
        config: ArmConfig,
        asked: AskedFile,
        reporter: Reporter,
    ) -> None:
        self.study, self.trials, self.config = study, trials, config
        self.asked, self.reporter = asked, reporter
        self.plan = trials.experiment.tune
        self._counted: set[int] = set()
        """Trials whose runs the reporter knows of."""

    def run(self) -> Steps[list[Settings]]:
        """Ask, train and tell until every trial is told."""
        seeds, told = len(self.plan.seeds), len(self._told())
        if _given(self.config) is None:
            self.reporter.note(
                f"arm {self.trials.arm}: its given settings lie outside its search and are not "
                "tried first"
            )
        title = f"tune {self.trials.arm}: {self.plan.trials} trials"
        self.reporter.stage(title, self.plan.trials * seeds, told * seeds)
        if self.trials.background:
            yield from self._as_they_come()
        else:
            self._in_batches()
        return [settings_of(trial) for trial in self._all()]

    # --- one after another ---

    def _in_batches(self) -> None:
        """Ask each trial when all is told that it is to know, and tell the last ones too."""
        for number in range(self._num_asked(), self.plan.trials):
            self._bring(self.asked.before(number))
            self._ask(number)
        self._bring(range(self.plan.trials))

    def _bring(self, numbers: Collection[int]) -> None:
        """Have these trials told, in the order of their numbers."""
        due = [trial for trial in self._open() if trial.number in numbers]
        if not all(self._done(trial) for trial in due):
            # Whatever else was asked is trained beside them.
            settings = [settings_of(trial) for trial in self._uncounted()]
            self.reporter.advance(self.trials.num_given(settings))
            self.trials.train([settings_of(trial) for trial in self._open()])
        for trial in due:
            self._tell(trial)

    def _done(self, trial: "Frozen") -> bool:
        settings = settings_of(trial)
        return self.trials.known(settings) and not self.trials.failed(settings)

    # --- as results arrive ---

    def _as_they_come(self) -> Steps[None]:
        """Keep a batch of trials under way; tell each that ended, and ask another for it."""
        self._go_on()
        while True:
            ended = [t for t in self._open() if self.trials.known(settings_of(t))]
            if any(self.trials.failed(settings_of(trial)) for trial in ended):
                yield from self._give_up()
            self._refill(ended)
            if not self._open():
                return
            self._submit()
            if not any(self.trials.known(settings_of(trial)) for trial in self._open()):
                yield from self._wait()

    def _go_on(self) -> None:
        """Ask what a driver that was killed had written down, and retry what had failed."""
        while self._num_asked() < self.plan.trials:
            number = self._num_asked()
            if self.asked.told(number) is None:
                break
            self._bring(self.asked.before(number))
            self._ask(number)
        failed = [s for t in self._open() if self.trials.failed(s := settings_of(t))]
        if failed:
            self.trials.train(failed)
            for settings in failed:
                self.trials.value(settings)

    def _refill(self, ended: "list[Frozen]") -> None:
        """Tell these trials and ask as many new ones as have room beside those under way."""
        first = self._num_asked()
        room = self.plan.batch - (len(self._open()) - len(ended))
        new = range(first, min(first + room, self.plan.trials))
        if new:
            # First of all: once anything is told, or asked, it must be known what was told.
            self.asked.append(new, self._told() | {trial.number for trial in ended})
        for trial in ended:
            self._tell(trial)
        for number in new:
            self._ask(number)

    def _submit(self) -> None:
        """Begin what was asked, in one go: the runner packs it."""
        settings = [settings_of(trial) for trial in self._uncounted()]
        if settings:
            self.reporter.advance(self.trials.num_given(settings))
            self.trials.submit(settings)

    def _wait(self) -> Steps[None]:
        waited = [s for t in self._open() if not self.trials.known(s := settings_of(t))]
        yield from self.trials.wait(waited)

    def _give_up(self) -> Steps[None]:
        """A run failed: wait for those under way, which are paid for, and say so."""
        while not all(self.trials.known(settings_of(trial)) for trial in self._open()):
            yield from self._wait()
        for trial in self._open():
            self.trials.value(settings_of(trial))

    # --- Optuna's study ---

    def _num_asked(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    def _all(self) -> "list[Frozen]":
        """Trials of the plan; the study may have more."""
        return self.study.get_trials(deepcopy=False)[: self.plan.trials]

    def _open(self) -> "list[Frozen]":
        return [trial for trial in self._all() if not trial.state.is_finished()]

    def _told(self) -> set[int]:
        trials = self.study.get_trials(deepcopy=False)
        return {trial.number for trial in trials if trial.state.is_finished()}

    def _uncounted(self) -> "list[Frozen]":
        """Return the open trials that the reporter was not told of, once each."""
        new = [trial for trial in self._open() if trial.number not in self._counted]
        self._counted |= {trial.number for trial in new}
        return new

    def _tell(self, trial: "Frozen") -> None:
        value = self.trials.value(settings_of(trial))
        if trial.number not in self._counted:
            self._counted.add(trial.number)
            self.reporter.advance(len(self.plan.seeds))
        self.study.tell(trial.number, value)

    def _ask(self, number: int) -> None:
        experiment, told = self.trials.experiment, self.asked.told(number)
        self.study.sampler = _sampler(self.plan.sampler, experiment, number)
        given = _given(self.config)
        if number == 0 and given is not None:
            self.study.enqueue_trial(given)
        trial = self.study.ask(fixed_distributions=_space(self.config))
        assert trial.number == number, f"trial {trial.number} was asked for as {number}"
        if told is not None:
            trial.set_user_attr(TOLD, sorted(told))


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


def _sampler(name: str, experiment: Experiment, number: int) -> "optuna.samplers.BaseSampler":
    """Make a sampler for one trial; every argument is stated, so defaults cannot drift."""
    import optuna

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
