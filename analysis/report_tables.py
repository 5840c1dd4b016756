"""The tables of a report: groups side by side, sizes, and every setting."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.axes import Axis
from analysis.landscapes import Landscape
from analysis.page import Cell, Column, Table
from analysis.panels import Panel
from analysis.result import SizeRow, Verdict
from analysis.words import octaves, setting

_MOST_CELLS = 600
"""Rows of all tables of cells together; of more the page has the best of every size."""
_MOST_SIZES = 100
_DIVERGED = Cell("diverged", 1e308)


def comparison(firsts: Mapping[str, Verdict]) -> Table:
    """Return the groups side by side."""
    names = ("sizes", "verdict", "transferred")
    columns = [Column("group", numeric=False), *(Column(n, numeric=False) for n in names)]
    columns += map(Column, ("ε", "largest regret / ε", "best at the largest size"))
    columns += [Column("transferred there"), Column("drift per doubling")]
    columns += [Column("drift's 95 % interval", numeric=False)]
    rows = [
        [
            Cell(name),
            Cell(_span(v)),
            Cell.status(v.status),
            Cell(setting(v.transferred, v.axes)),
            Cell(f"{v.epsilon:.4g}", v.epsilon),
            _worst(v),
            *_largest(v),
            *_drift_cells(v),
        ]
        for name, v in firsts.items()
    ]
    return Table(title="The groups side by side", columns=columns, rows=rows)


def _span(v: Verdict) -> str:
    return f"{v.size_name} {v.rows[0].size:.12g} to {v.rows[-1].size:.12g}" if v.rows else "-"


def _worst(v: Verdict) -> Cell:
    if any(row.transferred == "diverged" for row in v.rows):
        return _DIVERGED
    regrets = [row.regret / v.epsilon for row in v.rows if row.regret is not None]
    return Cell.number(max(regrets, default=None), 2)


def _largest(v: Verdict) -> list[Cell]:
    if not v.rows:
        return [Cell.dash(), Cell.dash()]
    digits, row = digits_for(v.epsilon), v.rows[-1]
    return [
        Cell.number(row.best_loss, digits),
        _at_transferred(row, row.loss_at_transferred, digits),
    ]


def _at_transferred(row: SizeRow, value: float | None, digits: int) -> Cell:
    """Write what only a run of the transferred setting can tell."""
    if row.transferred == "diverged":
        return _DIVERGED
    return (
        Cell("not run", missing=True)
        if row.transferred == "not run"
        else Cell.number(value, digits)
    )


def _drift_cells(v: Verdict) -> list[Cell]:
    drift, axis = v.drift, v.axes[0]
    if drift is None:
        return [Cell.dash(), Cell.dash()]
    slope = Cell(octaves(drift.slope, axis), drift.slope)
    if drift.low is None or drift.high is None:
        return [slope, Cell.dash()]
    return [slope, Cell(f"{octaves(drift.low, axis)} to {octaves(drift.high, axis)}", drift.low)]


def digits_for(epsilon: float) -> int:
    """Return how many decimals show differences that matter, four at least."""
    return max(4, 1 - math.floor(math.log10(epsilon)))


def size_table(name: str, v: Verdict) -> Table:
    """Return what a verdict says of every size."""
    sure = f"({100 * (1 - v.level):g} %)"
    rows = v.rows
    if len(rows) > _MOST_SIZES:
        rows = tuple(
            rows[i] for i in np.linspace(0, len(rows) - 1, _MOST_SIZES).round().astype(int)
        )
    return Table(
        title=f"{name + ', ' if name else ''}transferred {setting(v.transferred, v.axes)}; "
        f"ε {v.epsilon:.4g}",
        columns=[
            Column(v.size_name),
            *(Column(f"best {a.name}") for a in v.axes),
            Column(f"best {v.metric}"),
            *map(Column, ("transferred", "regret", f"at least {sure}", f"at most {sure}")),
            *(Column(f"optimum{_of(a, v)}") for a in v.axes),
            *(Column(f"its 95 % interval{_of(a, v)}", numeric=False) for a in v.axes),
            *map(Column, ("runs", "diverged")),
        ],
        rows=[_size_row(row, v) for row in rows],
        note=f"{len(rows)} of {len(v.rows)} sizes." if len(rows) < len(v.rows) else "",
    )


def _of(axis: Axis, v: Verdict) -> str:
    return f" of {axis.name}" if len(v.axes) > 1 else ""


def _size_row(row: SizeRow, v: Verdict) -> list[Cell]:
    best, digits = row.best or {}, digits_for(v.epsilon)
    lower = None if row.regret_lower is None else max(0.0, row.regret_lower)
    return [
        Cell(f"{row.size:.12g}", row.size),
        *(_value(best.get(a.name), a) for a in v.axes),
        Cell.number(row.best_loss, digits),
        _at_transferred(row, row.loss_at_transferred, digits),
        _at_transferred(row, row.regret, digits),
        Cell.number(lower, digits),
        Cell.number(row.regret_upper, digits),
        *(_optimum(row, a) for a in v.axes),
        *(_interval(row, a) for a in v.axes),
        Cell(str(row.num_runs), row.num_runs),
        Cell(str(row.num_diverged), row.num_diverged),
    ]


def _value(value: float | None, axis: Axis) -> Cell:
    return Cell.dash() if value is None else Cell(axis.text(value), value)


def _place(value: float, axis: Axis) -> str:
    """Write a value between grid points, as a power of two and as it is."""
    if axis.linear:
        return f"{value:.4g}"
    return f"2^{float(axis.forward(value)) + 0.0:.2f} ({value:.3g})"


def _optimum(row: SizeRow, axis: Axis) -> Cell:
    value = (row.optimum or {}).get(axis.name)
    if value is None:
        return Cell.dash()
    if row.flat:
        near = [point[axis.name] for point in row.near_optimal]
        return Cell(f"{axis.text(min(near))} to {axis.text(max(near))} (flat)", value)
    beyond = {"below": "≤ ", "above": "≥ ", "alone": "? "}.get(row.censored.get(axis.name, ""), "")
    return Cell(beyond + (axis.text(value) if beyond else _place(value, axis)), value)


def _interval(row: SizeRow, axis: Axis) -> Cell:
    low, high = row.optimum_low.get(axis.name), row.optimum_high.get(axis.name)
    if row.flat or (low is None and high is None):
        return Cell.dash()
    ends = ["beyond the grid" if end is None else f"{end:.4g}" for end in (low, high)]
    return Cell(" to ".join(ends), low if low is not None else -1e308)


def cell_tables(panels: Sequence[Panel]) -> list[Table]:
    """Return every cell of the landscapes, or the best of each size where they are many."""
    number = sum(len(c.mean) for p in panels for c in p.landscapes)
    if number <= _MOST_CELLS:
        return [_cells(p, None) for p in panels]
    most = _MOST_CELLS // sum(len(p.landscapes) for p in panels)
    return [_cells(p, most) for p in panels] if most else []


def _cells(panel: Panel, most: int | None) -> Table:
    shapes = sorted(panel.landscapes, key=lambda c: c.size)
    number = sum(len(c.mean) for c in shapes)
    digits = digits_for(panel.verdict.epsilon) if panel.verdict else 4
    rows = [
        [
            Cell(f"{c.size:.12g}", c.size),
            *(Cell(a.text(v), v) for a, v in zip(c.axes, c.points[i].tolist(), strict=True)),
            *_losses(c, i, panel.negated, digits),
            Cell(str(int(c.num_seeds[i])), float(c.num_seeds[i])),
            Cell(str(int(c.num_diverged[i])), float(c.num_diverged[i])),
        ]
        for c in shapes
        for i in _best(c, most)
    ]
    names = ("mean", "lowest", "highest", "runs", "diverged")
    columns = [Column(panel.size_name), *(Column(a.name) for a in panel.axes), *map(Column, names)]
    return Table(
        title=f"{panel.title + ': ' if panel.title else ''}{panel.metric} of every setting",
        columns=columns,
        rows=rows,
        note=f"{len(rows)} of {number} settings: the best of every size."
        if len(rows) < number
        else "",
    )


def _losses(c: Landscape, i: int, negated: bool, digits: int) -> list[Cell]:
    """The mean, lowest and highest metric of a cell."""
    if c.num_diverged[i]:
        return [_DIVERGED, Cell.dash(), Cell.dash()]
    found = (
        [-v[i] for v in (c.mean, c.high, c.low)] if negated else [c.mean[i], c.low[i], c.high[i]]
    )
    return [Cell.number(float(v), digits) for v in found]


def _best(c: Landscape, most: int | None) -> list[int]:
    """Cells of one size in the grid's order, the best of them where there are too many."""
    if most is None or len(c.mean) <= most:
        return list(range(len(c.mean)))
    losses = np.where(np.isfinite(c.mean), c.mean, math.inf)
    return sorted(np.argsort(losses, kind="stable")[:most].tolist())
