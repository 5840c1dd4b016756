"""What the command line prints about results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sweeps.tune import Tuned

if TYPE_CHECKING:
    from analysis import Axis, Drift, SizeRow, Verdict
    from launch.pipeline import Finished


_MAX_NEXT = 3
"""Suggested runs shown; all are in verdict.json."""


def power_of_two(value: float | None) -> str:
    """Write a positive number as a power of two, the exponent to a hundredth if it is not whole."""
    import math

    if value is None or value <= 0:
        return "-"
    return f"2^{round(math.log2(value), 2):g}"


def number(value: float | None, digits: int = 4) -> str:
    """Write a number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def print_tuned(console: Console, tuned: Mapping[str, Tuned]) -> None:
    """Print the tuned settings of every arm."""
    table = Table(title="tuned at the smallest size", title_justify="left")
    for head, justify in (("arm", "left"), ("setting", "left"), ("loss", "right")):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    table.add_column("how", justify="left")
    for arm, result in tuned.items():
        settings = ", ".join(
            f"{'stepsize' if name == 'stepsize' else name + ' radius'} {power_of_two(value)}"
            for name, value in sorted(result.settings.items(), key=lambda i: i[0] != "stepsize")
        )
        how = result.method if not result.num_trials else f"{result.method}, {result.num_trials}"
        table.add_row(arm, settings or "as given", number(result.value), how)
    console.print(table)
    for arm, result in tuned.items():
        for name in result.on_edge:
            console.print(
                f"note: {arm}: {name} is at an end of its search range: a wider "
                f"arms.{arm}.search.{name} may hold a better one",
                markup=False,
            )


def print_verdicts(
    console: Console, verdicts: Mapping[str, Mapping[str, "Verdict"]], *, of_study: bool = True
) -> None:
    """Print the verdict of every arm or group: a table of sizes, then its sentences."""
    from analysis.words import axes_text, interaction, law, near_optimal

    for name, claims in verdicts.items():
        main = next(iter(claims.values()))
        console.print()
        console.print(_verdict_table(name, main))
        for claim, verdict in claims.items():
            console.print(f"{claim}: {verdict.status}. {verdict.reason}", markup=False)
            for note in verdict.notes:
                console.print(f"  note: {note}", markup=False)
            _print_next_runs(console, verdict, of_study)
        for axis in main.axes:
            if axis.name in main.drifts and not all(row.flat for row in main.rows):
                drift = main.drifts[axis.name]
                line = law(drift, axis, main.size_name, main.rows[0].size)
                console.print(f"drift of the optimum: {_drift(drift, axis)}: {line}", markup=False)
        console.print(near_optimal(main), markup=False)
        if together := interaction(main.rows, main.axes, main.size_name):
            console.print(together, markup=False)
        if main.fixed:
            console.print(f"holds for: {axes_text(main.fixed)}", markup=False)


def _print_next_runs(console: Console, verdict: "Verdict", of_study: bool) -> None:
    from analysis.words import more_seeds, setting

    for run in verdict.next_runs[:_MAX_NEXT]:
        moved = {k: v for k, v in run.comparator.items() if v != verdict.transferred[k]}
        console.print(
            f"  would decide it: {more_seeds(run.more_seeds)} at {verdict.size_name} "
            f"{run.size:.12g}, {setting(moved, verdict.axes) or 'the transferred setting'}",
            markup=False,
        )
    if len(verdict.next_runs) > _MAX_NEXT:
        where = "in verdict.json" if of_study else "with --json"
        console.print(f"  and {len(verdict.next_runs) - _MAX_NEXT} more {where}", markup=False)
    if verdict.next_runs and of_study:
        console.print(
            "  more seeds everywhere: add numbers to --sweep.seeds (halves the level)", markup=False
        )


def _drift(drift: "Drift", axis: "Axis") -> str:
    digits = "+.3g" if axis.linear else "+.2f"
    text = f"{drift.slope:{digits}} {'' if axis.linear else 'octaves '}per doubling"
    if drift.low is None or drift.high is None:
        return text
    text += f" (95 % interval {drift.low:{digits}} … {drift.high:{digits}}"
    if drift.left_out_low is not None and drift.left_out_high is not None:
        text += f"; without any one size {drift.left_out_low:{digits}} … "
        text += f"{drift.left_out_high:{digits}}"
    return text + ")"


def _verdict_table(name: str, verdict: "Verdict") -> Table:
    from analysis.words import setting

    moved = setting(verdict.transferred, verdict.axes)
    title = f"transferred {moved}, epsilon {verdict.epsilon:.4g}, level {verdict.level:g}"
    table = Table(title=escape(f"{name}, {title}" if name else title), title_justify="left")
    best = "best" if verdict.maximise else "best loss"
    for head in (escape(verdict.size_name), "best at", best, "transferred", "regret", "at most"):
        table.add_column(head, justify="right", no_wrap=True)
    unit = "" if any(axis.linear for axis in verdict.axes) else " (log2)"
    for head in (f"optimum{unit}", "interval"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in verdict.rows:
        at = row.best or {}
        table.add_row(
            f"{row.size:.12g}",
            "\n".join(a.text(at[a.name]) if a.name in at else "-" for a in verdict.axes),
            number(row.best_loss),
            number(row.loss_at_transferred),
            number(row.regret),
            number(row.regret_upper),
            "\n".join(_optimum(row, a, bool(unit)) for a in verdict.axes),
            "\n".join(_interval(row, a, bool(unit)) for a in verdict.axes),
        )
    return table


def _place(value: float, axis: "Axis", as_log2: bool) -> str:
    """Write a value, as its log2 where all are."""
    return f"{float(axis.forward(value)) + 0.0:.2f}" if as_log2 else f"{value:.4g}"


def _optimum(row: "SizeRow", axis: "Axis", as_log2: bool) -> str:
    """Write an optimum; one on the grid's edge may lie beyond it."""
    if not row.optimum or axis.name not in row.optimum:
        return "-"
    if row.flat:
        values = [point[axis.name] for point in row.near_optimal]
        return " to ".join(_place(end, axis, as_log2) for end in (min(values), max(values)))
    beyond = {"below": "≤ ", "above": "≥ "}.get(row.censored.get(axis.name, ""), "")
    return beyond + _place(row.optimum[axis.name], axis, as_log2)


def _interval(row: "SizeRow", axis: "Axis", as_log2: bool) -> str:
    """Write an interval; an end that lies beyond the grid is left out."""
    if row.flat:
        return "flat"
    if axis.name in row.censored:
        return "-"
    ends = (side.get(axis.name) for side in (row.optimum_low, row.optimum_high))
    low, high = ("" if end is None else _place(end, axis, as_log2) for end in ends)
    return f"{low} … {high}".strip() if low or high else "-"


def print_check(console: Console, done: "Finished") -> None:
    """Print the losses at the size that was not swept, beside the swept ones."""
    sweep = done.study.experiment.sweep
    axis, new = sweep.axis, sweep.check_size
    if new is None:
        return
    checks, words = done.frame[done.frame["purpose"] == "check"], axis.replace("_", " ")
    table = Table(
        title=f"the tuned setting at {words} {new}, which was not swept, beside the swept ones",
        title_justify="left",
    )
    table.add_column("arm")
    for swept in sweep.sizes:
        table.add_column(f"{swept}", justify="right")
    table.add_column(f"{new} (new)", justify="right", style="bold")
    for arm in done.tuned:
        main = done.at_transferred(arm)
        losses = [_mean_loss(main[main[axis] == swept]) for swept in sweep.sizes]
        table.add_row(arm, *losses, _mean_loss(checks[checks["arm"] == arm]))
    console.print()
    console.print(table)


def _mean_loss(runs: Any) -> str:
    if len(runs) == 0 or (runs["status"] != "done").any():
        return "diverged" if (runs["status"] == "diverged").any() else "failed"
    return number(float(runs["val_loss"].mean()))


def print_files(console: Console, files: Sequence[Path]) -> None:
    """Name every file written."""
    console.print("\nwritten:")
    for path in files:
        console.print(f"  {path}", markup=False)


def print_next(console: Console, command: str) -> None:
    """Say what to run next."""
    console.print(f"\nnext: {command}", markup=False)
