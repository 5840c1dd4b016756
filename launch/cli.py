"""The command line: `lmo-transfer COMMAND [EXPERIMENT] [options] [--section.field VALUE]`.

Heavy packages are imported inside the functions that need them: help and lists answer at once.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable

from launch import inspecting, training, watching
from launch.commands import (
    BAD_INPUT,
    COMMANDS,
    DONE,
    FAILED_RUNS,
    INTERNAL,
    INTERRUPTED,
    PROG,
    UsageError,
    overview,
    parser,
    print_error,
    split_source,
)


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
    if not COMMANDS[name].fields:
        rest = [_number(word) for word in rest]
    options, fields = parser(name).parse_known_args(rest)
    options.source, options.fields_given, options.given = source, fields, rest
    if fields and not COMMANDS[name].fields:
        raise UsageError(f"{name} does not take {' '.join(fields)!r}: see {PROG} {name} --help")
    _check_workers(getattr(options, "workers", None))
    return _HANDLERS[name](options)


def _check_workers(number: int | None) -> None:
    """Raise UsageError unless every worker has a core: with fewer all are slower together."""
    if number is None:
        return
    from sweeps.runner import num_cores

    if not 1 <= number <= num_cores():
        cores = f"the cores that this command may use ({num_cores()})"
        raise UsageError(f"--workers must be at least 1 and at most {cores}, got {number}")


def _number(word: str) -> str:
    """Keep argparse from taking -inf and -1e-3 for options: with a space they are values."""
    try:
        return f" {word}" if word.startswith("-") and float(word) is not None else word
    except ValueError:
        return word


_HANDLERS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": training.run,
    "tune": training.tune,
    "sweep": training.sweep,
    "verdict": inspecting.verdict,
    "plot": inspecting.plot,
    "report": inspecting.report,
    "export": inspecting.export,
    "train": training.train,
    "resume": training.resume,
    "status": watching.status,
    "logs": watching.logs,
    "cancel": watching.cancel,
    "coordcheck": inspecting.coordcheck,
    "norms": inspecting.norms,
    "describe": inspecting.describe,
    "roles": inspecting.roles,
    "list": inspecting.studies,
    "presets": inspecting.presets,
    "show": inspecting.show,
    "tokenize": inspecting.tokenize,
}
assert _HANDLERS.keys() == COMMANDS.keys(), "every command has a help and a handler"


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
