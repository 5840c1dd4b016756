"""Put a verdict together: cells out of a table, numbers into rows."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.axes import Axis
from analysis.drift import fit_drift
from analysis.grids import Point, tied
from analysis.landscapes import Landscape
from analysis.load import require_columns
from analysis.result import Comparison, SizeRow, Verdict, finite
from analysis.rule import Cell, Judgement, SizeJudgement, t_quantile

Cells = dict[tuple[float, Point], dict[int, float]]
_FLAT = 5
"""So many near-optimal values are a flat basin: as many as a parabola sees."""
Fixed = Mapping[str, Any] | Sequence[str] | None


def losses_by_cell(table: pd.DataFrame, by: list[str]) -> dict[tuple[Any, ...], dict[int, float]]:
    """Group a canonical table's losses: by the columns `by`, then by seed."""
    cells: dict[tuple[Any, ...], dict[int, float]] = {}
    columns = [table[c].tolist() for c in by]
    keys = zip(*columns, strict=True)
    for key, r, loss in zip(keys, table["seed"].tolist(), table["loss"].tolist(), strict=True):
        cells.setdefault(key, {})[r] = loss
    return cells


def constant(df: pd.DataFrame, columns: Sequence[str], what: str) -> Point:
    """Return the one value that each column has throughout.

    Raises:
        ValueError: a column is empty, varies, or holds no finite number.
    """
    for column in columns:
        if df[column].isna().all():
            raise ValueError(
                f"{what} must have one value of {column!r}, got an empty column; "
                "leave it out of `comparators`"
            )
        values = df[column].unique().tolist()
        if len(values) != 1:
            raise ValueError(f"{what} must have one value of {column!r}, got {values[:5]}")
        if not isinstance(values[0], numbers.Real) or not math.isfinite(values[0]):
            raise ValueError(f"column {column!r} must hold finite numbers, got {values[0]!r}")
    return tuple(float(df[column].iloc[0]) for column in columns)


def fixed_axes(df: pd.DataFrame, fixed: Fixed) -> dict[str, Any]:
    """Return what did not vary, by name; `fixed` as in claims.verdict."""
    if fixed is None:
        return {}
    if isinstance(fixed, Mapping):
        return dict(fixed)
    require_columns(df, list(fixed))
    out: dict[str, Any] = {}
    for column in fixed:
        values = df[column].unique().tolist()
        if len(values) != 1:
            raise ValueError(f"fixed column {column!r} is not constant, got {values[:5]}")
        out[column] = values[0]
    return out


def num_seeds(judgement: Judgement[Point]) -> int:
    """Return the fewest paired seeds of any cell that was compared."""
    return min((c.num_pairs for c in judgement.cells if c.num_pairs), default=0)


def assemble(
    judgement: Judgement[Point],
    cells: Cells,
    reference: Point,
    axes: Sequence[Axis],
    landscapes: Sequence[Landscape],
    maximise: bool = False,
    **rest: Any,
) -> Verdict:
    """Join a judgement and the landscapes it belongs to; `rest` are the verdict's other fields."""
    by_size, sign = {c.size: c for c in landscapes}, -1 if maximise else 1
    rows = tuple(
        _row(j, cells, reference, axes, by_size.get(j.size), sign) for j in judgement.sizes
    )
    sets = [set(c.near_optimal) for c in landscapes]
    drifts = {a.name: fit_drift(landscapes, k) for k, a in enumerate(axes)} if landscapes else {}
    return Verdict(
        axes=tuple(axes),
        transferred=setting(reference, axes),
        epsilon=judgement.epsilon,
        num_seeds=num_seeds(judgement),
        level=judgement.level,
        rows=rows,
        comparisons=tuple(_comparison(c, axes, judgement.level) for c in judgement.cells),
        drifts={name: drift for name, drift in drifts.items() if drift is not None},
        near_optimal=tuple(setting(p, axes) for p in sorted(set.intersection(*sets)))
        if sets
        else (),
        maximise=maximise,
        **rest,
    )


def setting(point: Point, axes: Sequence[Axis]) -> dict[str, float]:
    """Name the values of a point."""
    return dict(zip((a.name for a in axes), point, strict=True))


def _row(
    j: SizeJudgement[Point],
    cells: Cells,
    reference: Point,
    axes: Sequence[Axis],
    landscape: Landscape | None,
    sign: int,
) -> SizeRow:
    ours = {s: list(losses.values()) for (w, s), losses in cells.items() if w == j.size}
    means = {s: float(np.mean(v)) for s, v in ours.items()}
    alive = {s: m for s, m in means.items() if math.isfinite(m)}
    # On ties the landscape's argmin or else the reference.
    first = landscape.best if landscape is not None and landscape.best else reference
    lowest = min(alive.values(), default=math.inf)
    ties = [s for s, m in alive.items() if m <= tied(lowest)]
    best = first if first in ties else next(iter(ties), None)
    unit = abs(alive[best]) if best is not None else 0.0
    share, lower, upper = (
        v / unit if v is not None and unit else None for v in (j.regret, j.lower, j.upper)
    )
    return SizeRow(
        size=j.size,
        best=None if best is None else setting(best, axes),
        best_loss=None if best is None else sign * alive[best],
        loss_at_transferred=finite(sign * means.get(reference, math.nan)),
        transferred="diverged" if j.reference_diverged else "not run" if j.untested else "done",
        regret=j.regret,
        regret_lower=j.lower,
        regret_upper=j.upper,
        binding=None if j.binding is None else setting(j.binding, axes),
        num_diverged=sum(not math.isfinite(v) for values in ours.values() for v in values),
        num_runs=sum(map(len, ours.values())),
        regret_share=share,
        regret_share_lower=lower,
        regret_share_upper=upper,
        **_optimum(landscape, axes),
    )


def _optimum(landscape: Landscape | None, axes: Sequence[Axis]) -> dict[str, Any]:
    """Return what a row says of the optimum, in the hyperparameters' own units."""
    if landscape is None or landscape.best is None:
        return {"optimum": None, "optimum_low": {}, "optimum_high": {}, "censored": {},
                "near_optimal": ()}  # fmt: skip
    found = landscape.optimum

    def back(places: Point) -> dict[str, float | None]:
        ends = zip(axes, places, strict=True)
        return {a.name: a.back(t) if math.isfinite(t) else None for a, t in ends}

    return {
        "optimum": back(found.at),
        "optimum_low": back(found.low),
        "optimum_high": back(found.high),
        "censored": {axes[k].name: side for k, side in landscape.censored.items()},
        "near_optimal": tuple(setting(p, axes) for p in landscape.near_optimal),
        "region": found.region,
        "tilt": found.tilt,
        "flat": _is_flat(landscape),
    }


def _is_flat(c: Landscape) -> bool:
    if len(c.axes) > 1 or c.censored or len(c.near_optimal) < _FLAT:
        return False
    near = np.isin(c.points[:, 0], [p[0] for p in c.near_optimal])
    return int(np.abs(np.diff(near.astype(int), prepend=0, append=0)).sum()) == 2


def _comparison(cell: Cell[Point], axes: Sequence[Axis], level: float) -> Comparison:
    known = cell.difference is not None
    half = None
    if cell.std_error is not None:
        half = t_quantile(cell.df, 1 - level) * cell.std_error
    mean = -cell.difference if cell.difference is not None else None
    return Comparison(
        size=cell.size,
        comparator=setting(cell.comparator, axes),
        difference=mean,
        low=mean - half if mean is not None and half is not None else None,
        high=mean + half if mean is not None and half is not None else None,
        num_pairs=cell.num_pairs if known else 0,
        num_diverged=cell.num_diverged,
    )
