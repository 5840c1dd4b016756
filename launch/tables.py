"""Verdicts on a table of runs that was not made here."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from launch.commands import DONE, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from analysis import Panel, Verdict

FLAGS = ("x", "linear", "bounds", "y", "size", "seed", "group", "epsilon", "transferred", "level",
         "maximise")  # fmt: skip
"""Options of `verdict` that say what a table holds; a study knows it."""


def is_table(source: str | None) -> bool:
    """Whether a source is a table of runs: other files are experiments, and so are folders."""
    from analysis.load import READABLE

    return source is not None and Path(source).suffix.lower() in READABLE


def require_no_flags(options: argparse.Namespace) -> None:
    """Raise UsageError for an option that only a table needs."""
    for name in (*FLAGS, "figures"):
        if getattr(options, name, None) is not None:
            raise UsageError(f"--{name} is for a table of runs (FILE.csv): a study knows its own")


def judge_table(options: argparse.Namespace) -> int:
    """Judge a table and print what came out."""
    from launch import printing
    from launch.console import make_console

    (table, found), console = judged_table(options), make_console()
    # Printed before anything is written: a folder may be read-only.
    if options.json:
        groups = {name: verdict.to_dict() for name, verdict in found.items()}
        print(json.dumps({"table": options.source, "groups": groups}, indent=2))
    else:
        for name, verdict in found.items():
            claims = {verdict.hyperparameter: verdict}
            printing.print_verdicts(console, {name: claims}, of_study=False)
    if options.figures:
        files = _drawn(options, table, found)
        if not options.json:
            printing.print_files(console, files)
    return exit_code(next(iter(found.values())).status) if options.exit_code else DONE


def judged_table(options: argparse.Namespace) -> "tuple[pd.DataFrame, dict[str, Verdict]]":
    """Read a table and judge its groups."""
    from analysis import read_table, verdicts

    if options.study:
        raise UsageError(f"--study is for studies, and {options.source} is a table of runs")
    named = {name: getattr(options, name) for name in FLAGS if getattr(options, name) is not None}
    if options.bounds:
        named["bounds"] = _bounds(options.bounds)
    table = read_table(options.source)
    return table, verdicts(table, **named)


def panels_of_table(
    options: argparse.Namespace, table: "pd.DataFrame", found: "dict[str, Verdict]"
) -> "list[Panel]":
    """Return the landscapes of a judged table's groups."""
    from analysis import panels_of

    named = {name: getattr(options, name) for name in ("group", "seed")}
    return panels_of(table, found, **{k: v for k, v in named.items() if v is not None})


def _drawn(
    options: argparse.Namespace, table: "pd.DataFrame", found: "dict[str, Verdict]"
) -> list[Path]:
    """Draw the table and return the files."""
    from analysis import plot_curves, plot_scaling, plot_surface, save

    shown = panels_of_table(options, table, found)
    folder = Path(options.figures)
    if len(shown[0].axes) == 1:
        files = save(plot_curves(shown), folder / "curves")
    else:
        files = [
            path
            for index, panel in enumerate(shown)
            for path in save(plot_surface(panel), folder / f"surface{index + 1 if index else ''}")
        ]
    return files + save(plot_scaling(shown), folder / "scaling")


def _bounds(given: list[list[str]]) -> dict[str, tuple[float, float]]:
    """Read `COLUMN LOW HIGH` as often as it was given; -inf and inf are no bounds."""
    found: dict[str, tuple[float, float]] = {}
    for column, low, high in given:
        if column in found:
            raise UsageError(f"--bounds must be given once for a column, got {column} twice")
        try:
            found[column] = (float(low), float(high))
        except ValueError:
            raise UsageError(
                f"--bounds must be a column and two numbers, got {column} {low} {high}"
            ) from None
    return found


def exit_code(status: str) -> int:
    """Return what --exit-code tells."""
    return {"transfers": DONE, "does not transfer": 3}.get(status, 4)
