"""What a command is about: an experiment from a preset, a file or a study, and its study."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.commands import DEFAULT_PRESET, PROG
from launch.fields import override


def experiment_of(options: argparse.Namespace) -> Any:
    """Load the experiment that was named and replace the fields that were given."""
    from sweeps.reading import load_experiment, with_family

    experiment = load_experiment(options.source or DEFAULT_PRESET)
    if getattr(options, "family", None) is not None:
        experiment = with_family(experiment, options.family)
    if getattr(options, "device", None) is not None:
        compute = replace(experiment.compute, device=options.device)
        experiment = replace(experiment, compute=compute)
    if not options.fields_given:
        return experiment
    from sweeps.study import reload

    return reload(override(type(experiment), experiment, options.fields_given))


def named_study(options: argparse.Namespace) -> tuple[Path, Any]:
    """Return the folder of the study that the command is about, and its experiment."""
    from sweeps.study import DEFAULT_ROOT

    experiment = experiment_of(options)
    named = Path(options.source) if options.source and Path(options.source).is_dir() else None
    study = getattr(options, "study", None)
    return Path(study) if study else named or DEFAULT_ROOT / experiment.name, experiment


def study_of(options: argparse.Namespace, *, preview: bool = False) -> Any:
    """Make or open the study that the command is about; a preview writes nothing."""
    from sweeps.study import Study

    return (Study.preview if preview else Study.create)(*named_study(options))


def existing_study(options: argparse.Namespace) -> Any:
    """Open the study of a command that trains nothing; it is never created."""
    from sweeps.study import Study

    if options.study and not options.source:
        return Study.open(Path(options.study))
    return study_named(options.source or DEFAULT_PRESET, options.study)


def study_named(source: str, folder_given: str | None = None) -> Any:
    """Open the study of a preset, a file or a folder, which is there."""
    from sweeps.reading import load_experiment
    from sweeps.study import DEFAULT_ROOT, Study

    experiment = load_experiment(source)
    named = Path(source) if Path(source).is_dir() else DEFAULT_ROOT / experiment.name
    folder = Path(folder_given) if folder_given else named
    if not folder.is_dir():
        raise ValueError(f"no study in {folder} yet: {PROG} run {shlex.quote(source)}")
    study = Study.open(folder)
    study.require_same(experiment)
    return study


def train_with(recipe: Path, experiment: Any, factor: int) -> str:
    """Return the command that trains at a larger size than those swept."""
    sweep = experiment.sweep
    flag, size = sweep.axis.replace("_", "-"), factor * sweep.sizes[-1]
    return f"{PROG} train --recipe {quoted(recipe)} --{flag} {size}"


def quoted(path: Path) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(str(path))
