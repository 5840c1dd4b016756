"""From a table of runs to a verdict: hyperparameters over sizes, and the star of radii.

The rule is rule.judge; this file adds what belongs to a sweep: grid edges, the
smallest size as the place of tuning, and the runs that would decide.
"""

import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import words
from analysis.assemble import (
    Cells,
    Fixed,
    assemble,
    constant,
    fixed_axes,
    losses_by_cell,
    num_seeds,
    setting,
)
from analysis.axes import Axis, Bounds, axes_of
from analysis.drift import fit_drift
from analysis.grids import Point, find, point_columns
from analysis.landscapes import Landscape, build_landscapes, smooth_noise
from analysis.load import SEED, STATUS, require_columns, tidy
from analysis.next_runs import beyond_the_edges, more_seeds
from analysis.result import NextRun, Status, Verdict
from analysis.rule import Judgement, judge

Setting = float | Sequence[float] | Mapping[str, float]
_MOST_CELLS = 100_000
DEFAULT_EPSILON = 0.005
"""Share of the best loss that matters, where no absolute epsilon is given."""


def verdict(
    df: pd.DataFrame,
    *,
    transferred: Setting | None = None,
    epsilon: float | None = None,
    x: str | Sequence[str] = "stepsize",
    y: str = "val_loss",
    size: str = "width",
    seed: str | None = SEED,
    group: str | None = None,
    status: str | None = STATUS,
    fixed: Fixed = None,
    level: float = 0.05,
    linear: Collection[str] = (),
    bounds: Bounds | None = None,
    num_planned: int | None = None,
    maximise: bool = False,
) -> Verdict:
    """Judge whether one setting may be used at every size of the table.

    A run diverged where its status says so, or where `y` is missing or not
    finite.

    Args:
        df: One row per run, one group.
        transferred: The value to judge, or one for each column of `x`, by name or in that order:
            a grid point of some size; where it was not run the verdict is open. None: the grid
            argmin of the smallest size.
        epsilon: Difference of `y` that matters; None: 0.5 % of the best `y`
            at the smallest size, which must then not be 0.
        x: Column of the hyperparameter, or two columns of hyperparameters that were varied
            together.
        y, size, seed, group, status: Column names, as in load.tidy. The
            default seed and status columns may be missing: then every run has
            seed 0, and only `y` tells which runs diverged.
        fixed: What did not vary: a mapping, or names of constant columns.
        level: Chance of a wrong claim; halve it at each further look.
        linear: Columns of `x` whose scale is linear, as a momentum's; others are logarithmic.
        bounds: Least and largest value that a column of `x` may have at all, such as stepsize 1
            of a constrained optimizer: an optimum there is at no grid's edge.
        num_planned: Cells of the whole grid, sizes x values of `x`, where what came out decided
            which of them were run. "does not transfer" is then corrected for all of them, as
            they may be run after a look at these; "transfers" presumes that none of the others
            is the best of its size.
        maximise: Whether higher `y` is better, as for an accuracy.

    Raises:
        ValueError: a column is missing or malformed, the table holds several
            groups, `transferred` was run at no size, a column of `fixed`
            is not constant, or a grid point lies beyond its bounds.
    """
    axes = axes_of(x, linear, bounds)
    if len(axes) > 2:
        raise ValueError(f"x must be one column or two, got {len(axes)}: {[a.name for a in axes]}")
    columns: dict[str, Any] = {"y": y, "size": size, "seed": seed, "status": status}
    table = tidy(df, x=x, linear=linear, group=group, maximise=maximise, **columns)
    name = _one_group(table, group)
    _require_few(table, axes, size)
    notes = _load_notes(table, y, maximise)
    epsilon, note = _epsilon(table, epsilon, axes)
    notes += note
    given = _point(transferred, axes)
    found = build_landscapes(table, axes, epsilon=epsilon, prefer=given)
    if given is None:
        given, note = _tuned(found[0], size)
        notes += note
        found = build_landscapes(table, axes, epsilon=epsilon, prefer=given)
    at = _on_grid(found, given, size)

    cells = _cells(table, axes)
    others = (num_planned or 0) - len(found)
    judgement = _judge(cells, at, epsilon, level, found, notes, max(0, others))
    ruling, text = _rule_sweep(judgement, found, at, size, y)
    if num_planned is not None and len(cells) < num_planned:
        part = f"{len(cells)} of {num_planned} cells of the grid were run"
        presumed = "; that no other is better is presumed" if ruling == "transfers" else ""
        notes.append(part + presumed)
    runs: tuple[NextRun, ...] = ()
    if ruling == "undecided":
        for k, axis in enumerate(axes):
            text += words.plain_drift(fit_drift(found, k), axis, size)
        runs = beyond_the_edges(found) + more_seeds(judgement, cells, axes, at)
    return assemble(
        judgement, cells, at, axes, found,
        status=ruling, reason=text, group=name, hyperparameter=", ".join(a.name for a in axes),
        metric=y, size_name=size, next_runs=runs, fixed=fixed_axes(df, fixed), notes=tuple(notes),
        maximise=maximise,
    )  # fmt: skip


def radii_verdict(
    df_main: pd.DataFrame,
    df_star: pd.DataFrame | None,
    *,
    transferred: float,
    epsilon: float,
    comparators: Sequence[str] = ("radius_input", "radius_hidden", "radius_output"),
    x: str = "stepsize",
    y: str = "val_loss",
    size: str = "width",
    seed: str | None = SEED,
    group: str | None = None,
    status: str | None = STATUS,
    fixed: Fixed = None,
    level: float = 0.05,
) -> Verdict:
    """Judge the radii by the rule for stepsizes: a star of other radii at every size.

    Comparators are pairs of (radii, stepsize): with other radii another
    stepsize may be best. The reference is the main sweep's cell at the
    transferred stepsize, paired by seed.

    Args:
        df_main: The main sweep, one group, one setting of the radii.
        df_star: Runs with other radii; None or empty: "not tested".
        transferred: The transferred stepsize, a grid point of the main sweep.
        epsilon: Difference of `y` that matters.
        comparators: Columns of the radii.
        x, y, size, seed, group, status, fixed, level: As in `verdict`.

    Raises:
        ValueError: as in `verdict`; or the main sweep's radii are not constant,
            or the star holds sizes that the main sweep lacks.
    """
    names: dict[str, Any] = {"y": y, "size": size, "seed": seed, "status": status}
    tested = df_star is not None and not df_star.empty
    axes = axes_of([*comparators, x] if tested else [x])
    require_columns(df_main, [a.name for a in axes])
    home = constant(df_main, [a.name for a in axes[:-1]], "the main sweep")
    table = tidy(df_main, x=x, group=group, **names)
    curves = build_landscapes(table, axes[-1:], epsilon=epsilon, prefer=(transferred,))
    reference: Point = (*home, *_on_grid(curves, (transferred,), size, everywhere=True))
    common: dict[str, Any] = dict(
        group=_one_group(table, group), hyperparameter=", ".join(comparators), metric=y,
        size_name=size, fixed=fixed_axes(df_main, fixed),
    )  # fmt: skip
    star = _star_cells(df_star, axes, home, **names) if df_star is not None and tested else {}
    if not star:
        return _not_tested(axes, reference, epsilon, level, common)

    notes = _load_notes(table, y)
    cells = _with_reference(star, table, reference, size, notes)
    judgement = _judge(cells, reference, epsilon, level, curves, notes)
    notes.append("radii are compared at the star's points only; its ends are not taken for edges")
    ruling, text = _rule_radii(judgement, axes, reference, size, y)
    runs = more_seeds(judgement, cells, axes, reference) if ruling == "undecided" else ()
    return assemble(
        judgement, cells, reference, axes, (),
        status=ruling, reason=text, next_runs=runs, notes=tuple(notes), **common,
    )  # fmt: skip


def _not_tested(
    axes: Sequence[Axis], at: Point, epsilon: float, level: float, common: dict[str, Any]
) -> Verdict:
    return Verdict(
        status="not tested",
        reason="Radii: not tested (the table holds no runs with other radii).",
        axes=tuple(axes),
        transferred=setting(at, axes),
        epsilon=epsilon,
        level=level,
        num_seeds=0,
        **common,
    )


def _rule_radii(
    judgement: Judgement[Point], axes: Sequence[Axis], reference: Point, size: str, y: str
) -> tuple[Status, str]:
    if len(judgement.sizes) < 2 and judgement.status != "does not transfer":
        return "undecided", words.one_size(size)
    seeds = num_seeds(judgement)
    return judgement.status, words.reason(judgement, axes, reference, size, y, seeds)


def _rule_sweep(
    judgement: Judgement[Point], found: Sequence[Landscape], at: Point, size: str, y: str
) -> tuple[Status, str]:
    """Add the grid's edges to what the bounds say."""
    small, axes = found[0], found[0].axes
    if len(found) < 2:
        return "undecided", words.one_size(size)
    if small.censored and small.best == at:
        return "undecided", words.not_tuned(small, size)
    edges = [c for c in found if c.censored]
    if edges and judgement.status != "does not transfer":
        return "undecided", words.at_edge(edges, judgement, at, axes, size)
    seeds = num_seeds(judgement)
    return judgement.status, words.reason(judgement, axes, at, size, y, seeds)


def _judge(
    cells: Cells,
    reference: Point,
    epsilon: float,
    level: float,
    found: Sequence[Landscape],
    notes: list[str],
    num_cells: int = 0,
) -> Judgement[Point]:
    noise = None
    if max(len(losses) for losses in cells.values()) == 1:
        noise = smooth_noise(found, epsilon)
        notes.append(
            "one seed: the noise is the scatter of the losses about parabolas, not measured"
            if noise.df
            else "one seed and too few grid points near the optimum: the noise is unknown"
        )
    result = judge(cells, reference, epsilon, level=level, noise=noise, num_cells=num_cells)
    alone = sum(c.num_pairs == 0 for c in result.cells)
    if alone:
        notes.append(f"{alone} cells share no seed with the transferred setting")
    return result


def _require_few(table: pd.DataFrame, axes: Sequence[Axis], size: str) -> None:
    """Raise ValueError for a table that would take minutes: a sweep has a grid."""
    cells = len(table[["size", *point_columns(len(axes))]].drop_duplicates())
    if cells > _MOST_CELLS:
        names = " x ".join([size, *(a.name for a in axes)])
        raise ValueError(
            f"{names} must have at most {_MOST_CELLS} different values together, got {cells}: "
            f"round {axes[0].name} to a grid, or judge a part of the table"
        )


def _one_group(table: pd.DataFrame, column: str | None) -> str:
    names = sorted(set(table["group"]))
    if len(names) != 1:
        raise ValueError(
            f"a verdict needs exactly one group, got {names or 'no finished run'} in column "
            f"{column!r}; filter the table first"
        )
    return str(names[0])


def _load_notes(table: pd.DataFrame, y: str, maximise: bool = False) -> list[str]:
    failed = table.attrs["num_failed"]
    notes = [f"{failed} failed runs left out"] if failed else []
    if "acc" in y.lower() and not maximise:
        notes.append(f"lower {y} is taken as better; if higher is, say maximise")
    return notes


def _epsilon(
    table: pd.DataFrame, epsilon: float | None, axes: Sequence[Axis]
) -> tuple[float, list[str]]:
    if epsilon is not None:
        if not (epsilon > 0 and math.isfinite(epsilon)):
            raise ValueError(f"epsilon must be a positive loss difference, got {epsilon}")
        return epsilon, []
    small = table[table["size"] == table["size"].min()]
    best = float(small.groupby(point_columns(len(axes)))["loss"].mean().min())
    if not math.isfinite(best):
        raise ValueError("epsilon must be given: every run at the smallest size diverged")
    if not best:
        raise ValueError("epsilon must be given where the best loss is 0: half a percent of it is")
    return DEFAULT_EPSILON * abs(best), ["epsilon is 0.5 % of the best at the smallest size"]


def _point(transferred: Setting | None, axes: Sequence[Axis]) -> Point | None:
    """Return a setting as one value for each axis."""
    if transferred is None:
        return None
    names, point = [a.name for a in axes], transferred
    if isinstance(point, Mapping) and set(point) == set(names):
        point = [point[name] for name in names]
    values = list(point) if isinstance(point, (list, tuple)) else [point]
    if len(values) != len(axes) or not all(
        isinstance(v, numbers.Real) and math.isfinite(v) for v in values
    ):
        raise ValueError(
            f"transferred must be one number for each of {', '.join(names)}, got {transferred!r}"
        )
    return tuple(float(v) for v in values if isinstance(v, numbers.Real))


def _tuned(smallest: Landscape, size: str) -> tuple[Point, list[str]]:
    """Return the smallest size's argmin, where no transferred setting is given."""
    if smallest.best is None:
        raise ValueError(f"every run at {size} {smallest.size:.12g} diverged: nothing to transfer")
    names = " and ".join(a.name for a in smallest.axes)
    return smallest.best, [
        f"the transferred {names} is the argmin of the smallest {size} in the same runs"
    ]


def _on_grid(
    found: Sequence[Landscape], transferred: Point, size: str, *, everywhere: bool = False
) -> Point:
    """Return the transferred setting as the table writes it."""
    axes = found[0].axes
    hits = [c.points[find(c.points, transferred, axes)] for c in found]
    missing = [f"{c.size:.12g}" for c, hit in zip(found, hits, strict=True) if not len(hit)]
    if len(missing) == len(found) or (everywhere and missing):
        named = ", ".join(f"{a.name} {v:g}" for a, v in zip(axes, transferred, strict=True))
        raise ValueError(
            f"the transferred {named} must be a grid point, it is missing at {size} "
            f"{', '.join(missing)}; the grid at {found[0].size:.12g} is {_written(found[0])}"
        )
    return tuple(next(hit[0] for hit in hits if len(hit)).tolist())


def _written(landscape: Landscape) -> str:
    """Write a grid's values, axis by axis."""
    values = [", ".join(f"{v:g}" for v in np.unique(column)) for column in landscape.points.T]
    if len(values) == 1:
        return values[0]
    return "; ".join(f"{a.name} {v}" for a, v in zip(landscape.axes, values, strict=True))


def _cells(table: pd.DataFrame, axes: Sequence[Axis]) -> Cells:
    by_key = losses_by_cell(table, ["size", *point_columns(len(axes))])
    return {(key[0], key[1:]): losses for key, losses in by_key.items()}


def _star_cells(df_star: pd.DataFrame, axes: Sequence[Axis], home: Point, **columns: Any) -> Cells:
    """Cells of the star, keyed by (size, (radii..., stepsize)); the main setting is dropped."""
    cells = _cells(tidy(df_star, x=[a.name for a in axes], **columns), axes)
    points = np.array([point[:-1] for _, point in cells])
    if not len(points):
        return {}
    main = find(points, home, axes[:-1])
    return {key: cells[key] for key, at_home in zip(cells, main, strict=True) if not at_home}


def _with_reference(
    star: Cells, table: pd.DataFrame, reference: Point, size: str, notes: list[str]
) -> Cells:
    main = {w: losses for (w, v), losses in losses_by_cell(table, ["size", "x"]).items()
            if v == reference[-1]}  # fmt: skip
    sizes = {w for w, _ in star}
    unknown = sorted(sizes - main.keys())
    if unknown:
        raise ValueError(f"the star of radii has {size} {unknown}, which the main sweep lacks")
    untested = sorted(main.keys() - sizes)
    if untested:
        notes.append(f"radii not tested at {size} {', '.join(f'{w:.12g}' for w in untested)}")
    return {**{(w, reference): main[w] for w in sizes}, **star}
