"""What the command line prints about results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sweeps.tune import Tuned

if TYPE_CHECKING:
    from analysis import Drift, SizeRow, Verdict
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
    from analysis.words import axes_text, power_law

    for name, claims in verdicts.items():
        main = next(iter(claims.values()))
        console.print()
        console.print(_verdict_table(name, main))
        for claim, verdict in claims.items():
            console.print(f"{claim}: {verdict.status}. {verdict.reason}", markup=False)
            for note in verdict.notes:
                console.print(f"  note: {note}", markup=False)
            _print_next_runs(console, verdict, of_study)
        if main.drift is not None:
            law = power_law(main.drift, main.hyperparameter, main.size_name, main.rows[0].size)
            console.print(f"drift of the optimum: {_drift(main.drift)}: {law}", markup=False)
        if main.fixed:
            console.print(f"holds for: {axes_text(main.fixed)}", markup=False)


def _print_next_runs(console: Console, verdict: "Verdict", of_study: bool) -> None:
    from analysis.words import setting

    for run in verdict.next_runs[:_MAX_NEXT]:
        moved = {k: v for k, v in run.comparator.items() if v != verdict.transferred[k]}
        console.print(
            f"  would decide it: {run.more_seeds} more seeds at {verdict.size_name} "
            f"{run.size:.12g}, {setting(moved) or 'the transferred setting'}",
            markup=False,
        )
    if len(verdict.next_runs) > _MAX_NEXT:
        where = "in verdict.json" if of_study else "with --json"
        console.print(f"  and {len(verdict.next_runs) - _MAX_NEXT} more {where}", markup=False)
    if verdict.next_runs and of_study:
        console.print(
            "  more seeds everywhere: add numbers to --sweep.seeds (halves the level)", markup=False
        )


def _drift(drift: "Drift") -> str:
    text = f"{drift.slope:+.2f} octaves per doubling"
    if drift.low is None or drift.high is None:
        return text
    text += f" (95 % interval {drift.low:+.2f} … {drift.high:+.2f}"
    if drift.left_out_low is not None and drift.left_out_high is not None:
        text += f"; without any one size {drift.left_out_low:+.2f} … {drift.left_out_high:+.2f}"
    return text + ")"


def _verdict_table(name: str, verdict: "Verdict") -> Table:
    import math

    from analysis import words

    def at(value: float | None) -> str:
        return "-" if value is None else words.number(value)

    moved = words.setting(verdict.transferred)
    title = f"transferred {moved}, epsilon {verdict.epsilon:.4g}, level {verdict.level:g}"
    table = Table(title=f"{name}, {title}" if name else title, title_justify="left")
    best = "best" if verdict.maximise else "best loss"
    for head in (verdict.size_name, "best at", best, "transferred", "regret", "at most"):
        table.add_column(head, justify="right", no_wrap=True)
    for head in ("optimum (log2)", "interval"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in verdict.rows:
        known = row.optimum_log2 is not None and row.censored is None
        beyond = {"below": "≤ ", "above": "≥ ", None: ""}[row.censored]
        edge = "-" if row.best_x is None else f"{beyond}{math.log2(row.best_x):.2f}"
        table.add_row(
            f"{row.size:.12g}",
            at(row.best_x),
            number(row.best_loss),
            number(row.loss_at_transferred),
            number(row.regret),
            number(row.regret_upper),
            number(row.optimum_log2, 2) if known else edge,
            _interval(row) if known else "-",
        )
    return table


def _interval(row: "SizeRow") -> str:
    """Write an interval; an end that lies beyond the grid is left out."""
    low, high = ("" if end is None else f"{end:.2f}" for end in (row.optimum_low, row.optimum_high))
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
        main = done.runs(arm, "sweep")
        main = main[main["stepsize"] == done.transferred(arm)]
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
