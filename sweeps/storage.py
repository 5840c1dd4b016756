"""Where Optuna keeps an arm's trials: a journal file, a database on request, or memory.

All are disposable. What cannot be read, or contradicts the run table or the file of what was asked,
is set aside or deleted, and the caller goes through the tuning again into a new one.
"""

import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.asked import AskedFile, name_aside
from sweeps.experiment import ArmConfig
from sweeps.progress import Reporter
from sweeps.trials import Settings, Trials
from transfer.config import canonical_json
from transfer.files import replace_file

if TYPE_CHECKING:
    import optuna

    from sweeps.database import Database

TOLD = "told"
"""Attribute of a trial that was asked asynchronously: the trials told before it."""
_ID = "storage-id"
"""File that keeps the studies of two folders apart in one database."""


def settings_of(trial: "optuna.trial.FrozenTrial") -> Settings:
    """Return what a trial stands for; Optuna has its logarithms."""
    return {name: float(2.0**value) for name, value in trial.params.items()}


def in_memory(trials: Trials, config: ArmConfig) -> "optuna.Study":
    """Make an empty study that leaves no trace."""
    return _load(None, trials.arm, trials, config)


def open_journal(
    folder: Path, trials: Trials, config: ArmConfig, asked: AskedFile, reporter: Reporter
) -> "optuna.Study":
    """Open the arm's journal; one that cannot be used is set aside, with a note."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = folder / f"{trials.arm}.journal"
    folder.mkdir(parents=True, exist_ok=True)
    # A killed driver leaves its lock, and there is one driver: ours.
    for stale in folder.glob(path.name + ".lock*"):
        stale.unlink(missing_ok=True)

    def load() -> "optuna.Study":
        storage = JournalStorage(JournalFileBackend(str(path)))
        return _load(storage, trials.arm, trials, config)

    if path.exists():
        try:
            if not path.read_bytes().endswith(b"\n"):
                raise ValueError("its last line is cut off")
            study = load()
            _require_consistent(study, trials, config, asked)
            return study
        except Exception as error:  # a torn journal raises whatever its parser meets
            aside = name_aside(path)
            path.rename(aside)
            if not asked.damage:  # that was said already, and led to this
                reporter.note(
                    f"tuning journal {path.name} is unusable ({error}): set aside as {aside.name} "
                    "and rebuilt from the run table"
                )
    return load()


def open_database(
    database: "Database",
    folder: Path,
    trials: Trials,
    config: ArmConfig,
    asked: AskedFile,
    reporter: Reporter,
) -> "optuna.Study":
    """Open the arm's study in a database; one that cannot be used is deleted there, with a note.

    Raises:
        DatabaseError: the database cannot be reached, or refuses.
    """
    import optuna

    storage = database.storage()
    name = f"lmo-transfer/{trials.experiment.name}/{trials.arm}/{_folder_id(folder)}"

    def load() -> "optuna.Study":
        return _load(storage, name, trials, config)

    try:
        study = load()
        _require_consistent(study, trials, config, asked)
        return study
    except Exception as error:
        if database.is_fault(error):
            raise
        optuna.delete_study(study_name=name, storage=storage)
        if not asked.damage:
            reporter.note(
                f"study {name} in {database.shown} is unusable ({error}): deleted there and "
                "rebuilt from the run table"
            )
    return load()


def _folder_id(folder: Path) -> str:
    """Return what tells this folder's studies from others of the name; made when first asked."""
    path = folder / _ID
    found = path.read_text("utf-8", "replace").strip() if path.exists() else ""
    if len(found) == 8 and found.isalnum():
        return found
    fresh = uuid.uuid4().hex[:8]
    replace_file(path, lambda temporary: temporary.write_text(fresh + "\n", "utf-8"))
    return fresh


def _load(storage: Any, name: str, trials: Trials, config: ArmConfig) -> "optuna.Study":
    import optuna

    study = optuna.create_study(
        storage=storage, study_name=name, direction="minimize", load_if_exists=True
    )
    if not study.get_trials(deepcopy=False) and "plan" not in study.user_attrs:
        study.set_user_attr("plan", _plan(trials, config))
    return study


def _plan(trials: Trials, config: ArmConfig) -> str:
    """Everything that the asks depend on, but the number of trials, which may grow."""
    tune = replace(trials.experiment.tune, trials=trials.experiment.tune.batch)
    return canonical_json({"search": config.search, "tune": asdict(tune)})


def _require_consistent(
    study: "optuna.Study", trials: Trials, config: ArmConfig, asked: AskedFile
) -> None:
    """Raise ValueError unless going through the tuning again would end at this study."""
    if study.user_attrs.get("plan") != _plan(trials, config):
        raise ValueError("it was made for another search")
    there = study.get_trials(deepcopy=False)
    for trial in there:
        if set(trial.params) != set(config.search):
            raise ValueError(f"trial {trial.number} was cut off while it was asked for")
        if trial.state.is_finished():
            settings = settings_of(trial)
            if not trials.known(settings) or trials.value(settings) != trial.value:
                raise ValueError(f"trial {trial.number} is not what the run table says")
        told = trial.user_attrs.get(TOLD)
        # Without the attribute it was asked in a batch, or its driver was killed right there.
        if told is not None and frozenset(told) != asked.told(trial.number):
            raise ValueError(f"trial {trial.number} is not what {asked.path.name} says")
    told_now = {trial.number for trial in there if trial.state.is_finished()}
    if not told_now <= asked.before(len(there)):
        raise ValueError(f"it was told more than {asked.path.name} says")
