"""Tuning on fabricated losses: a table that stands for the run table and what trains into it."""

import math
import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from sweeps.database import Database
from sweeps.experiment import Experiment
from sweeps.table import StoredRun
from sweeps.tune import Tuned, tune_arms, tuning_of
from tests.helpers import Notes, fabricate, tiny_experiment
from transfer.config import RunConfig, ScionConfig

BEST = {"stepsize": 2.0**-3, "hidden": 2.0**1, "output": 2.0**2}
SEARCH = {"stepsize": [-7, 1], "hidden": [-3, 2], "output": [-2, 6]}


class Interrupted(Exception):
    """Stands for a kill."""


def bowl(config: RunConfig) -> StoredRun:
    """A quadratic in the logarithms, and a little noise that follows from the seed."""
    optimizer = config.optimizer
    values = {"stepsize": optimizer.stepsize}
    if isinstance(optimizer, ScionConfig):
        values |= {role: optimizer.roles[role].radius for role in ("hidden", "output")}
    loss = sum((math.log2(v) - math.log2(BEST[k])) ** 2 for k, v in values.items())
    return fabricate(config, 1.0 + 0.01 * loss + 1e-4 * (config.seed % 7))


class Table:
    """Trains what is asked for, at once, and counts it.

    Args:
        make: Returns the record of a run.
        calls: So many trainings, then it is interrupted.
    """

    background = False

    def __init__(self, make: Callable[[RunConfig], StoredRun] = bowl, calls: int = 10**9) -> None:
        self.make, self.left = make, calls
        self.rows: dict[str, StoredRun] = {}
        self.trained = 0

    def train(self, configs: Sequence[RunConfig]) -> dict[str, StoredRun]:
        missing = {c.run_id: c for c in configs if c.run_id not in self.rows}
        if missing:
            self._count()
        self.trained += len(missing)
        self.rows |= {key: self.make(config) for key, config in missing.items()}
        return dict(self.rows)

    def submit(self, configs: Sequence[RunConfig]) -> None:
        raise AssertionError("this table trains while one waits")

    def wait(self, run_ids: Collection[str]) -> dict[str, StoredRun]:
        raise AssertionError("this table trains while one waits")

    def killed(self) -> "Table":
        """Return the table after its driver died: records stay."""
        after = type(self)(self.make)
        after.rows = dict(self.rows)
        return after

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted


class Cluster(Table):
    """Trains in the background: runs end one or a few at a time, in an order drawn by chance.

    Those under way are gone when its driver is killed.

    Args:
        make: Returns the record of a run.
        calls: So many submissions and waits, then it is interrupted.
        seed: Of the order.
    """

    background = True

    def __init__(
        self, make: Callable[[RunConfig], StoredRun] = bowl, calls: int = 10**9, seed: int = 0
    ) -> None:
        super().__init__(make, calls)
        self.chance = random.Random(seed)
        self.under_way: dict[str, RunConfig] = {}
        self.submitted: list[int] = []
        """Number of runs of each submission."""
        self.most = 0
        """Most runs that were under way together."""

    def submit(self, configs: Sequence[RunConfig]) -> None:
        self._count()
        for config in configs:
            assert config.run_id not in self.under_way, "submitted twice"
            assert config.run_id not in self.rows, "submitted, though it is there"
            self.under_way[config.run_id] = config
        self.submitted.append(len(configs))
        self.most = max(self.most, len(self.under_way))

    def wait(self, run_ids: Collection[str]) -> dict[str, StoredRun]:
        self._count()
        assert run_ids and set(run_ids) <= self.under_way.keys(), "waits for what never comes"
        # Others may end as well, and be seen by chance.
        ended = {self.chance.choice(sorted(run_ids))}
        ended |= {key for key in sorted(self.under_way) if self.chance.random() < 0.1}
        for key in sorted(ended):
            self.rows[key] = self.make(self.under_way.pop(key))
            self.trained += 1
        return dict(self.rows)


def experiment(**changes: Any) -> Experiment:
    plain = {"tune.trials": 16, "tune.batch": 4, "tune.seeds": [101, 102]}
    return tiny_experiment({**plain, "arms.scion.search": SEARCH, **changes})


def tune(
    folder: Path,
    table: Table,
    what: Experiment | None = None,
    arm: str = "scion",
    *,
    replay: bool = False,
    database: Database | None = None,
) -> tuple[Tuned, Notes]:
    notes = Notes()
    what = what or experiment()
    options: dict[str, Any] = {"replay": replay, "database": database}
    steps = tuning_of(folder, what, arm, trainer=table, reporter=notes, **options)
    return tune_arms({arm: steps}, table.wait)[arm], notes
