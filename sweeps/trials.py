"""Trials of one arm's tuning: their runs, and their values by way of the run table."""

import math
from collections.abc import Collection, Generator, Sequence
from typing import Protocol, TypeVar

from sweeps.errors import FailedTrialError
from sweeps.experiment import Experiment
from sweeps.plan import run_config, with_settings
from sweeps.table import StoredRun
from transfer.config import RunConfig

Settings = dict[str, float]
"""Tuned values by name: stepsize, or a role for its radius."""

_T = TypeVar("_T")
Steps = Generator[set[str], dict[str, StoredRun], _T]
"""Work that pauses where it waits for runs in the background: it yields their ids, goes on with the
table once that has one more of them, and returns its result."""


class Trainer(Protocol):
    """Brings the runs of the tuning into the run table."""

    @property
    def background(self) -> bool:
        """Whether it has `submit` and `wait`."""

    def train(self, configs: Sequence[RunConfig]) -> dict[str, StoredRun]:
        """Return the table once it has these runs.

        Raises:
            LookupError: some are missing and nothing may be trained.
        """

    def submit(self, configs: Sequence[RunConfig]) -> None:
        """Begin runs that the table lacks, at the next `wait` at the latest."""

    def wait(self, run_ids: Collection[str]) -> dict[str, StoredRun]:
        """Return the table once it has one more of these submitted runs, or several."""


class Trials:
    """What the table says of an arm's settings; made anew for each tuning.

    Attributes:
        rows: The table as it was read last.
        asked: Runs of every setting that was asked for, by run id.
    """

    def __init__(self, experiment: Experiment, arm: str, trainer: Trainer) -> None:
        self.experiment = experiment
        self.arm = arm
        self.background = trainer.background
        self._trainer = trainer
        self._begun: set[str] = set()
        """Runs that were submitted."""
        self.rows: dict[str, StoredRun] = trainer.train([])
        self.asked: dict[str, RunConfig] = {}

    def configs(self, settings: Settings) -> list[RunConfig]:
        """Return the runs of one setting, one a seed."""
        optimizer = with_settings(self.experiment.arms[self.arm].optimizer, settings)
        runs = [
            run_config(
                self.experiment,
                self.arm,
                optimizer,
                size=self.experiment.sweep.sizes[0],
                seed=seed,
            )
            for seed in self.experiment.tune.seeds
        ]
        self.asked.update((run.run_id, run) for run in runs)
        return runs

    # --- training ---

    def train(self, settings: Sequence[Settings]) -> None:
        """Bring the runs of these settings into the table."""
        self.rows = self._trainer.train([c for s in settings for c in self.configs(s)])

    def submit(self, settings: Sequence[Settings]) -> None:
        """Begin the runs of these settings, those that were not begun yet, all at once."""
        wanted = {c.run_id: c for s in settings for c in self.configs(s)}
        new = [c for run_id, c in wanted.items() if not self._there(run_id)]
        if new:
            self._trainer.submit(new)
            self._begun |= {config.run_id for config in new}

    def wait(self, settings: Sequence[Settings]) -> Steps[None]:
        """Pause until at least one more run of these settings, which were begun, has ended."""
        wanted = {c.run_id for s in settings for c in self.configs(s)}
        self.rows = yield wanted - self.rows.keys()

    # --- what is known ---

    def num_given(self, settings: Sequence[Settings]) -> int:
        """Count the runs that need no training: repeated, in the table, or begun before."""
        ids = [c.run_id for s in settings for c in self.configs(s)]
        return len(ids) - sum(not self._there(run_id) for run_id in set(ids))

    def _there(self, run_id: str) -> bool:
        return run_id in self.rows or run_id in self._begun

    def known(self, settings: Settings) -> bool:
        """Whether the table has the runs of this setting."""
        return all(c.run_id in self.rows for c in self.configs(settings))

    def failed(self, settings: Settings) -> bool:
        """Whether a run of this setting failed."""
        runs = [self.rows.get(c.run_id) for c in self.configs(settings)]
        return any(run is not None and run.status == "failed" for run in runs)

    def value(self, settings: Settings) -> float:
        """Mean validation loss over the seeds; infinite if one diverged.

        Raises:
            FailedTrialError: a run failed.
        """
        runs = [self.rows[c.run_id] for c in self.configs(settings)]
        for run in runs:
            if run.status == "failed":
                raise FailedTrialError(f"run {run.run_id} of the tuning failed: {run.error}")
        if any(run.status != "done" for run in runs):
            return math.inf
        return math.fsum(r.val_loss for r in runs if r.val_loss is not None) / len(runs)
