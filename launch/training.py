"""Commands that may train: progress, interruption, and what is printed at the end."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.commands import BAD_INPUT, DONE, FAILED_RUNS, INTERRUPTED, PROG, UsageError, print_error
from launch.sources import named_study, quoted, study_of, train_with
from launch.where import StoppedError, runner_of


def run(options: argparse.Namespace) -> int:
    """Do the whole loop."""
    return _work(options, _finish_everything)


def resume(options: argparse.Namespace) -> int:
    """Go on with the study in a folder."""
    if not options.source or not Path(options.source).is_dir():
        raise UsageError("resume needs the folder of a study: see " + f"{PROG} list")
    return run(options)


def sweep(options: argparse.Namespace) -> int:
    """Tune if needed, and sweep."""
    return _work(options, _finish_sweep)


def tune(options: argparse.Namespace) -> int:
    """Tune every arm."""
    return _work(options, _finish_tuning)


def train(options: argparse.Namespace) -> int:
    """Train with a recipe."""
    from launch.train_recipe import train_recipe

    return train_recipe(options)


def _work(options: argparse.Namespace, finish: Callable[..., int]) -> int:
    """Do a command that may train, with progress; Ctrl-C says how to go on."""
    if options.dry_run:
        from launch.dryrun import print_plan

        print_plan(options, {_finish_tuning: "tune", _finish_sweep: "sweep"}.get(finish, "run"))
        return DONE
    runner = runner_of(options, *named_study(options))  # before a folder is made
    study = study_of(options)
    from launch.cluster import remember
    from launch.console import ConsoleReporter, make_console
    from sweeps.driver import sole_driver

    console = make_console()
    resume = f"finished runs are kept. Go on with: {PROG} resume {quoted(study.folder)}"
    try:
        with sole_driver(study.folder), runner:
            remember(study.folder, getattr(runner, "cluster", None))
            study.clean()
            reporter = ConsoleReporter(console, study.experiment.sweep.axis)
            return finish(options, study, console, runner, reporter)
    except (KeyboardInterrupt, OSError, StoppedError) as error:
        if isinstance(error, StoppedError):
            console.print(f"stopped: {error}; {resume}", markup=False)
            return INTERRUPTED
        if interrupted(error):
            console.print(f"\ninterrupted; {resume}", markup=False)
            return INTERRUPTED
        assert isinstance(error, OSError)
        print_error(f"{error.filename or study.folder}: {error.strerror or error}; {resume}")
        return BAD_INPUT
    finally:
        for problem in study.table.problems:
            console.print(f"note: {problem}", markup=False)


def _finish_tuning(
    options: argparse.Namespace, study: Any, console: Any, runner: Any, reporter: Any
) -> int:
    from launch import printing

    with reporter:
        tuned = study.tune(runner, reporter, options.retry_failed)
    printing.print_tuned(console, tuned)
    printing.print_next(console, f"{PROG} sweep {quoted(study.folder)}")
    return DONE


def _finish_sweep(
    options: argparse.Namespace, study: Any, console: Any, runner: Any, reporter: Any
) -> int:
    from launch import pipeline, printing
    from sweeps.loop import complete

    with reporter:
        tuned = complete(
            study,
            runner,
            reporter,
            options.retry_failed,
            purposes=("sweep", "radii"),
            settled=pipeline.settled,
        )
    done = pipeline.finished(study, tuned=tuned)
    printing.print_tuned(console, done.tuned)
    printing.print_files(console, pipeline.write_tables(done))
    printing.print_next(console, f"{PROG} verdict {quoted(study.folder)}")
    return _exit_code(console, done)


def _finish_everything(
    options: argparse.Namespace, study: Any, console: Any, runner: Any, reporter: Any
) -> int:
    from launch import figures, pipeline, printing, report
    from sweeps.loop import complete

    with reporter:
        tuned = complete(study, runner, reporter, options.retry_failed, settled=pipeline.settled)
    done = pipeline.finished(study, need_check=True, tuned=tuned)
    files = pipeline.write_tables(done)
    verdicts = pipeline.judge(done)
    files.append(pipeline.write_verdicts(done, verdicts))
    files += figures.draw(done, verdicts)
    recipe = pipeline.export_recipe(done, verdicts, None, done.results / "recipe.json")
    files += [recipe] if recipe else []
    files.append(
        report.write(report.page_of_studies([(done, verdicts)]), done.results / report.FILE)
    )
    printing.print_tuned(console, done.tuned)
    printing.print_verdicts(console, verdicts)
    printing.print_check(console, done)
    printing.print_files(console, files)
    if recipe:
        printing.print_next(console, train_with(recipe, study.experiment, 4))
    return _exit_code(console, done)


def _exit_code(console: Any, done: Any) -> int:
    failed = done.num_failed()
    if not failed:
        return DONE
    first = done.frame[done.frame["status"] == "failed"].iloc[0]
    console.print(
        f"{failed} runs failed, the first ({first['run_id']}) with: {first['error']}\n"
        f"try them again with: {PROG} resume {quoted(done.study.folder)} --retry-failed",
        markup=False,
    )
    return FAILED_RUNS


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
