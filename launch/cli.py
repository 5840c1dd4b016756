"""The command line: `lmo-transfer COMMAND [EXPERIMENT] [options] [--section.field VALUE]`.

Heavy packages are imported inside the functions that need them: help and lists answer at once.
"""

import argparse
import io
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.commands import (
    COMMANDS,
    DEFAULT_PRESET,
    PROG,
    UsageError,
    overview,
    parser,
    print_error,
    split_source,
)
from launch.fields import override

DONE, INTERNAL, BAD_INPUT, FAILED_RUNS, INTERRUPTED = 0, 1, 2, 5, 130

Arguments = argparse.Namespace


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1, 2, 5 or 130 (see docs/cli.md)."""
    given = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 is no reason to fail
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return DONE
    if given[0] == "--version":
        from importlib import metadata

        print(f"{PROG} {metadata.version(PROG)}")
        return DONE
    try:
        return _dispatch(given[0], given[1:])
    except SystemExit as leaving:  # argparse's help; tyro's boxes
        return leaving.code if isinstance(leaving.code, int) else BAD_INPUT
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our output left early
        return DONE
    except Exception as error:
        return _explain(error)


def _dispatch(name: str, rest: list[str]) -> int:
    if name not in COMMANDS:
        from transfer.config import unknown

        raise UsageError(unknown("command", name, COMMANDS))
    source, rest = split_source(name, rest)
    options, fields = parser(name).parse_known_args(rest)
    options.source, options.fields_given = source, fields
    if fields and not COMMANDS[name].fields:
        raise UsageError(f"{name} does not take {' '.join(fields)!r}: see {PROG} {name} --help")
    workers = getattr(options, "workers", None)
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    return _HANDLERS[name](options)


def _explain(error: Exception) -> int:
    """Turn an error into one line and an exit code; only what we did not foresee is shown whole."""
    from launch.pipeline import IncompleteError
    from sweeps.errors import FailedTrialError

    debug = bool(os.environ.get("LMO_TRANSFER_DEBUG"))
    if isinstance(error, FailedTrialError):
        print_error(str(error))
        return FAILED_RUNS
    if isinstance(error, OSError) and not debug:
        where = f"{error.filename}: " if error.filename else ""
        print_error(f"{where}{error.strerror or error}")
        return BAD_INPUT
    if isinstance(error, (ValueError, IncompleteError)) and not debug:
        print_error(str(error))
        return BAD_INPUT
    traceback.print_exception(error)
    return INTERNAL


# --- the experiment and its study ------------------------------------------------------------


def _experiment(options: Arguments) -> Any:
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


def _study(options: Arguments) -> Any:
    """Make or open the study that the command is about."""
    from sweeps.study import DEFAULT_ROOT, Study

    experiment = _experiment(options)
    named = Path(options.source) if options.source and Path(options.source).is_dir() else None
    study = getattr(options, "study", None)
    folder = Path(study) if study else named or DEFAULT_ROOT / experiment.name
    return Study.create(folder, experiment)


def _existing_study(options: Arguments) -> Any:
    """Open the study of a command that trains nothing; it is never created."""
    from sweeps.reading import load_experiment
    from sweeps.study import DEFAULT_ROOT, Study

    source = options.source or DEFAULT_PRESET
    if options.study and not options.source:
        return Study.open(Path(options.study))
    experiment = load_experiment(source)
    named = Path(source) if Path(source).is_dir() else DEFAULT_ROOT / experiment.name
    folder = Path(options.study) if options.study else named
    if not folder.is_dir():
        raise ValueError(f"no study in {folder} yet: {PROG} run {shlex.quote(source)}")
    study = Study.open(folder)
    study.require_same(experiment)
    return study


# --- commands that train ---------------------------------------------------------------------


def _run(options: Arguments) -> int:
    return _work(options, _study(options), _finish_everything)


def _resume(options: Arguments) -> int:
    if not options.source or not Path(options.source).is_dir():
        raise UsageError("resume needs the folder of a study: see " + f"{PROG} list")
    return _run(options)


def _sweep(options: Arguments) -> int:
    return _work(options, _study(options), _finish_sweep)


def _tune(options: Arguments) -> int:
    return _work(options, _study(options), _finish_tuning)


def _work(options: Arguments, study: Any, finish: Callable[..., int]) -> int:
    """Do a command that may train, with progress; Ctrl-C says how to go on."""
    from launch.console import ConsoleReporter, make_console
    from sweeps.driver import sole_driver
    from sweeps.runner import LocalRunner

    console = make_console()
    resume = f"finished runs are kept. Go on with: {PROG} resume {_quoted(study.folder)}"
    try:
        compute = study.experiment.compute
        with sole_driver(study.folder), LocalRunner(options.workers, compute) as runner:
            study.clean()
            reporter = ConsoleReporter(console, study.experiment.sweep.axis)
            return finish(options, study, console, runner, reporter)
    except (KeyboardInterrupt, OSError) as error:
        if interrupted(error):
            console.print(f"\ninterrupted; {resume}", markup=False)
            return INTERRUPTED
        assert isinstance(error, OSError)
        print_error(f"{error.filename or study.folder}: {error.strerror or error}; {resume}")
        return BAD_INPUT
    finally:
        for problem in study.table.problems:
            console.print(f"note: {problem}", markup=False)


def _finish_tuning(options: Arguments, study: Any, console: Any, runner: Any, reporter: Any) -> int:
    from launch import report

    with reporter:
        tuned = study.tune(runner, reporter, options.retry_failed)
    report.print_tuned(console, tuned)
    report.print_next(console, f"{PROG} sweep {_quoted(study.folder)}")
    return DONE


def _finish_sweep(options: Arguments, study: Any, console: Any, runner: Any, reporter: Any) -> int:
    from launch import pipeline, report
    from sweeps.loop import complete

    with reporter:
        complete(
            study,
            runner,
            reporter,
            options.retry_failed,
            purposes=("sweep", "radii"),
            settled=pipeline.settled,
        )
    done = pipeline.finished(study)
    report.print_tuned(console, done.tuned)
    report.print_files(console, pipeline.write_tables(done))
    report.print_next(console, f"{PROG} verdict {_quoted(study.folder)}")
    return _exit_code(console, done)


def _finish_everything(
    options: Arguments, study: Any, console: Any, runner: Any, reporter: Any
) -> int:
    from launch import figures, pipeline, report
    from sweeps.loop import complete

    with reporter:
        complete(study, runner, reporter, options.retry_failed, settled=pipeline.settled)
    done = pipeline.finished(study, need_check=True)
    files = pipeline.write_tables(done)
    verdicts = pipeline.judge(done)
    files.append(pipeline.write_verdicts(done, verdicts))
    files += figures.draw(done, verdicts)
    recipe = pipeline.export_recipe(done, verdicts, None, done.results / "recipe.json")
    files += [recipe] if recipe else []
    report.print_tuned(console, done.tuned)
    report.print_verdicts(console, verdicts)
    report.print_check(console, done)
    report.print_files(console, files)
    if recipe:
        report.print_next(console, _train_with(recipe, study.experiment, 4))
    return _exit_code(console, done)


def _train_with(recipe: Path, experiment: Any, factor: int) -> str:
    """Return the command that trains at a larger size than those swept."""
    sweep = experiment.sweep
    flag, size = sweep.axis.replace("_", "-"), factor * sweep.sizes[-1]
    return f"{PROG} train --recipe {_quoted(recipe)} --{flag} {size}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _exit_code(console: Any, done: Any) -> int:
    failed = done.num_failed()
    if not failed:
        return DONE
    first = done.frame[done.frame["status"] == "failed"].iloc[0]
    console.print(
        f"{failed} runs failed, the first ({first['run_id']}) with: {first['error']}\n"
        f"try them again with: {PROG} resume {_quoted(done.study.folder)} --retry-failed",
        markup=False,
    )
    return FAILED_RUNS


def _train(options: Arguments) -> int:
    from launch.train import train_recipe

    return train_recipe(options)


# --- commands that train nothing -------------------------------------------------------------


def _verdict(options: Arguments) -> int:
    import json

    from launch import pipeline, report
    from launch.console import make_console

    done = pipeline.finished(_existing_study(options))
    verdicts = pipeline.judge(done)
    if options.json:
        print(json.dumps(pipeline.verdicts_to_dict(done, verdicts), indent=2))
        pipeline.write_verdicts(done, verdicts)
    else:
        console = make_console()
        report.print_verdicts(console, verdicts)  # before writing: a folder may be read-only
        report.print_files(console, [pipeline.write_verdicts(done, verdicts)])
        report.print_next(console, f"{PROG} plot {_quoted(done.study.folder)}")
    if not options.exit_code:
        return DONE
    first = next(iter(verdicts.values()))["stepsize"].status
    return {"transfers": 0, "does not transfer": 3}.get(first, 4)


def _plot(options: Arguments) -> int:
    from launch import figures, pipeline, report
    from launch.console import make_console

    done = pipeline.finished(_existing_study(options))
    console = make_console()
    report.print_files(console, figures.draw(done, pipeline.judge(done)))
    report.print_next(console, f"{PROG} export {_quoted(done.study.folder)}")
    return DONE


def _export(options: Arguments) -> int:
    from launch import pipeline, report
    from launch.console import make_console

    done = pipeline.finished(_existing_study(options))
    path = Path(options.output) if options.output else done.results / "recipe.json"
    recipe = pipeline.export_recipe(done, pipeline.judge(done), options.arm, path)
    if recipe is None:
        raise ValueError("no arm of this study has radii: there is nothing to hand over")
    console = make_console()
    report.print_files(console, [recipe])
    report.print_next(console, _train_with(recipe, done.study.experiment, 2))
    return DONE


def _coordcheck(options: Arguments) -> int:
    from launch.coordcheck import check_experiment

    return check_experiment(options, _experiment(options))


def _describe(options: Arguments) -> int:
    from launch.describe import print_costs

    print_costs(_experiment(options), as_json=options.json)
    return DONE


def _roles(options: Arguments) -> int:
    from launch.roles import print_roles

    print_roles(_experiment(options))
    return DONE


def _list(options: Arguments) -> int:
    from launch.listing import print_studies

    print_studies(Path(options.root))
    return DONE


def _presets(options: Arguments) -> int:
    from sweeps.reading import list_presets, load_experiment

    for name in list_presets():
        print(f"{name:<29}{load_experiment(name).summary}")
    print(f"\nprint one in full: {PROG} show {list_presets()[0]}")
    return DONE


def _show(options: Arguments) -> int:
    from sweeps.reading import experiment_to_dict, load_experiment

    source = options.source or DEFAULT_PRESET
    if options.fields:
        experiment = load_experiment(source)
        override(type(experiment), experiment, ["--help"])
    import tomli_w

    print(tomli_w.dumps(experiment_to_dict(_experiment(options))), end="")
    return DONE


def _tokenize(options: Arguments) -> int:
    from launch.tokenize import tokenize

    return tokenize(options)


_HANDLERS: dict[str, Callable[[Arguments], int]] = {
    "run": _run,
    "tune": _tune,
    "sweep": _sweep,
    "verdict": _verdict,
    "plot": _plot,
    "export": _export,
    "train": _train,
    "resume": _resume,
    "coordcheck": _coordcheck,
    "describe": _describe,
    "roles": _roles,
    "list": _list,
    "presets": _presets,
    "show": _show,
    "tokenize": _tokenize,
}
assert _HANDLERS.keys() == COMMANDS.keys(), "every command has a help and a handler"


def interrupted(error: BaseException) -> bool:
    """Whether an error is Ctrl-C, or was raised while something was tidied up after it.

    Optuna's journal, interrupted while it takes its lock, does not find the lock's file.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
