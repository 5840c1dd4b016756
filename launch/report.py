"""The report: one HTML file about a study, several studies, or a table."""

import argparse
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.commands import DONE, PROG, UsageError
from launch.figures import panels_of_study
from launch.pipeline import Finished, finished, judge
from launch.report_sections import sections_of
from launch.sources import existing_study, study_named
from launch.tables import is_table, judged_table, panels_of_table, require_no_flags
from transfer.files import replace_file

if TYPE_CHECKING:
    from analysis import Verdict
    from analysis.page import Page

    Verdicts = Mapping[str, Mapping[str, Verdict]]

FILE = "report.html"


def report(options: argparse.Namespace) -> int:
    """Write a report."""
    from launch import printing
    from launch.console import make_console

    if options.output and Path(options.output).is_dir():
        raise UsageError(f"--output must be a file, got the folder {options.output}")
    if is_table(options.source):
        if options.with_studies:
            raise UsageError("--with is for studies: name the groups of a table with --group")
        page, beside = _page_of_table(options), Path(Path(options.source).stem + ".report.html")
    else:
        require_no_flags(options)
        studies = [existing_study(options), *map(study_named, options.with_studies or ())]
        done = [finished(study) for study in studies]
        page = page_of_studies([(one, judge(one)) for one in done])
        others = "".join(f"-{one.study.experiment.name}" for one in done[1:])
        beside = done[0].results / (f"report-with{others}.html" if others else FILE)
    path = Path(options.output) if options.output else beside
    printing.print_files(make_console(), [write(page, path)])
    return DONE


def write(page: "Page", path: Path) -> Path:
    """Write a page as HTML."""
    from analysis.page import render

    text = render(page)
    return replace_file(path, lambda temporary: temporary.write_text(text, "utf-8"))


def _page_of_table(options: argparse.Namespace) -> "Page":
    from analysis.page import Section
    from analysis.report import page_of

    table, judged = judged_table(options)
    source = Path(options.source)
    made = Section(
        title="How this page was made",
        commands=[shlex.join([PROG, "report", options.source, *options.given])],
        facts=[("SHA-256 of the table", hashlib.sha256(source.read_bytes()).hexdigest())],
    )
    return page_of(
        source.name,
        {name: {v.hyperparameter: v} for name, v in judged.items()},
        panels_of_table(options, table, judged),
        subtitle=f"{len(table):,} runs from {source.name}",
        more=[made],
        foot=_foot(),
    )


def page_of_studies(studies: "Sequence[tuple[Finished, Verdicts]]") -> "Page":
    """Return the report of one study, or of several beside each other, with their verdicts."""
    from analysis.report import page_of

    names = [done.study.experiment.name for done, _ in studies]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"the studies must differ in their names, got {twice[0]!r} twice")
    judged: dict[str, Mapping[str, Verdict]] = {}
    panels, more = [], []
    for name, (done, verdicts) in zip(names, studies, strict=True):
        prefix = f"{name}: " if len(studies) > 1 else ""
        judged |= {prefix + arm: claims for arm, claims in verdicts.items()}
        panels += panels_of_study(done, verdicts, prefix)
        more += sections_of(done, verdicts, prefix)
    return page_of(
        ", ".join(names),
        judged,
        panels,
        subtitle=_subtitle([done for done, _ in studies]),
        more=more,
        foot=_foot(),
    )


def _subtitle(done: Sequence[Finished]) -> str:
    number = sum(len(one.frame) for one in done)
    seconds = sum(float(one.frame["wall_s"].sum()) for one in done)
    what = done[0].study.experiment.summary if len(done) == 1 else f"{len(done)} studies"
    return " · ".join(
        t for t in (what, f"{number:,} runs", f"{_duration(seconds)} of training") if t
    )


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    return f"{seconds / 3600:.1f} hours"


def _foot() -> str:
    from datetime import UTC, datetime
    from importlib.metadata import version

    return f"Made by lmo-transfer {version('lmo-transfer')} on {datetime.now(UTC):%Y-%m-%d}."
