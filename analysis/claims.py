"""From a table of runs to a verdict: stepsizes over sizes, and the star of radii.

The rule is rule.judge; this file adds what belongs to a sweep: grid edges, the
smallest size as the place of tuning, and the runs that would decide.
"""

import math
from collections.abc import Sequence
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
)
from analysis.curves import Curve, build_curves, fit_drift, smooth_noise
from analysis.load import SEED, STATUS, require_columns, snap, tidy
from analysis.next_runs import beyond_the_edges, more_seeds
from analysis.result import NextRun, Status, Verdict
from analysis.rule import Judgement, judge
from analysis.words import Point

DEFAULT_EPSILON = 0.005
"""Share of the best loss that matters, where no absolute epsilon is given."""


def verdict(
    df: pd.DataFrame,
    *,
    transferred: float | None = None,
    epsilon: float | None = None,
    x: str = "stepsize",
    y: str = "val_loss",
    size: str = "width",
    seed: str | None = SEED,
    group: str | None = None,
    status: str | None = STATUS,
    fixed: Fixed = None,
    level: float = 0.05,
    x_limit: float | None = None,
    num_planned: int | None = None,
    maximise: bool = False,
) -> Verdict:
    """Judge whether one value of `x` may be used at every size of the table.

    A run diverged where its status says so, or where `y` is missing or not
    finite.

    Args:
        df: One row per run, one group.
        transferred: The value to judge, a grid point of some size; where it was not run
            the verdict is open. None: the grid argmin of the smallest size.
        epsilon: Difference of `y` that matters; None: 0.5 % of the best `y`
            at the smallest size, which must then not be 0.
        x, y, size, seed, group, status: Column names, as in load.tidy. The
            default seed and status columns may be missing: then every run has
            seed 0, and only `y` tells which runs diverged.
        fixed: What did not vary: a mapping, or names of constant columns.
        level: Chance of a wrong claim; halve it at each further look.
        x_limit: Largest value of `x` that is allowed at all, such as stepsize 1
            of a constrained optimizer: an optimum there is no grid's edge.
        num_planned: Cells of the whole grid, sizes x values of `x`, where what came out decided
            which of them were run. "does not transfer" is then corrected for all of them, as
            they may be run after a look at these; "transfers" presumes that none of the others
            is the best of its size.
        maximise: Whether higher `y` is better, as for an accuracy.

    Raises:
        ValueError: a column is missing or malformed, the table holds several
            groups, `transferred` was run at no size, a column of `fixed`
            is not constant, or `x_limit` lies below a grid point.
    """
    columns: dict[str, Any] = {"x": x, "y": y, "size": size, "seed": seed, "status": status}
    table = tidy(df, group=group, maximise=maximise, **columns)
    name = _one_group(table, group)
    notes = _load_notes(table, y, maximise)
    epsilon, note = _epsilon(table, epsilon)
    notes += note
    curves = build_curves(table, epsilon=epsilon, x_limit=x_limit, prefer=transferred)
    if transferred is None:
        transferred, note = _tuned(curves[0], x, size)
        notes += note
        curves = build_curves(table, epsilon=epsilon, x_limit=x_limit, prefer=transferred)
    transferred = _on_grid(curves, transferred, x, size)

    cells: Cells = {
        (w, (v,)): losses for (w, v), losses in losses_by_cell(table, ["size", "x"]).items()
    }
    others = (num_planned or 0) - len(curves)
    judgement = _judge(cells, (transferred,), epsilon, level, curves, notes, max(0, others))
    drift = fit_drift(curves)
    ruling, text = _rule_sweep(judgement, curves, transferred, x, size, y)
    if num_planned is not None:
        part = f"{len(cells)} of {num_planned} cells of the grid were run"
        presumed = "; that no other is better is presumed" if ruling == "transfers" else ""
        notes.append(part + presumed)
    if ruling == "undecided":
        text += words.plain_drift(drift, x, size)
    runs: tuple[NextRun, ...] = ()
    if ruling == "undecided":
        runs = beyond_the_edges(curves, x, x_limit) + more_seeds(
            judgement, cells, [x], (transferred,)
        )
    at = (transferred,)
    return assemble(
        judgement, cells, at, [x], curves, drift,
        status=ruling, reason=text, group=name, hyperparameter=x, metric=y, size_name=size,
        next_runs=runs, fixed=fixed_axes(df, fixed), notes=tuple(notes), maximise=maximise,
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
    names: dict[str, Any] = {"x": x, "y": y, "size": size, "seed": seed, "status": status}
    tested = df_star is not None and not df_star.empty
    columns = [*comparators, x] if tested else [x]
    require_columns(df_main, columns)
    home = constant(df_main, columns[:-1], "the main sweep")
    table = tidy(df_main, group=group, **names)
    curves = build_curves(table, epsilon=epsilon, prefer=transferred)
    reference: Point = (*home, _on_grid(curves, transferred, x, size, everywhere=True))
    common: dict[str, Any] = dict(
        group=_one_group(table, group), hyperparameter=", ".join(comparators), metric=y,
        size_name=size, fixed=fixed_axes(df_main, fixed),
    )  # fmt: skip
    star = (
        _star_cells(df_star, comparators, home, **names) if df_star is not None and tested else {}
    )
    if not star:
        return _not_tested(dict(zip(columns, reference, strict=True)), epsilon, level, common)

    notes = _load_notes(table, y)
    cells = _with_reference(star, table, reference, size, notes)
    judgement = _judge(cells, reference, epsilon, level, curves, notes)
    notes.append("radii are compared at the star's points only; its ends are not taken for edges")
    ruling, text = _rule_radii(judgement, columns, reference, size, y)
    runs = more_seeds(judgement, cells, columns, reference) if ruling == "undecided" else ()
    return assemble(
        judgement, cells, reference, columns, (), None,
        status=ruling, reason=text, next_runs=runs, notes=tuple(notes), **common,
    )  # fmt: skip


def _not_tested(
    at: dict[str, float], epsilon: float, level: float, common: dict[str, Any]
) -> Verdict:
    return Verdict(
        status="not tested",
        reason="Radii: not tested (the table holds no runs with other radii).",
        transferred=at,
        epsilon=epsilon,
        level=level,
        num_seeds=0,
        **common,
    )


def _rule_radii(
    judgement: Judgement[Point], columns: Sequence[str], reference: Point, size: str, y: str
) -> tuple[Status, str]:
    if len(judgement.sizes) < 2 and judgement.status != "does not transfer":
        return "undecided", words.one_size(size)
    seeds = num_seeds(judgement)
    return judgement.status, words.reason(judgement, columns, reference, size, y, seeds)


def _rule_sweep(
    judgement: Judgement[Point],
    curves: Sequence[Curve],
    transferred: float,
    x: str,
    size: str,
    y: str,
) -> tuple[Status, str]:
    """Add the grid's edges to what the bounds say."""
    small = curves[0]
    if len(curves) < 2:
        return "undecided", words.one_size(size)
    if small.censored is not None and small.best_x == transferred:
        return "undecided", words.not_tuned(small, x, size)
    edges = [c for c in curves if c.censored is not None]
    if edges and judgement.status != "does not transfer":
        return "undecided", words.at_edge(edges, judgement, (transferred,), x, size)
    seeds = num_seeds(judgement)
    return judgement.status, words.reason(judgement, [x], (transferred,), size, y, seeds)


def _judge(
    cells: Cells,
    reference: Point,
    epsilon: float,
    level: float,
    curves: Sequence[Curve],
    notes: list[str],
    num_cells: int = 0,
) -> Judgement[Point]:
    noise = None
    if max(len(losses) for losses in cells.values()) == 1:
        noise = smooth_noise(curves, epsilon)
        notes.append(
            "one seed: the noise is the scatter of the curves about parabolas, not measured"
            if noise.df
            else "one seed and too few grid points near the optimum: the noise is unknown"
        )
    result = judge(cells, reference, epsilon, level=level, noise=noise, num_cells=num_cells)
    alone = sum(c.num_pairs == 0 for c in result.cells)
    if alone:
        notes.append(f"{alone} cells share no seed with the transferred setting")
    return result


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


def _epsilon(table: pd.DataFrame, epsilon: float | None) -> tuple[float, list[str]]:
    if epsilon is not None:
        if not (epsilon > 0 and math.isfinite(epsilon)):
            raise ValueError(f"epsilon must be a positive loss difference, got {epsilon}")
        return epsilon, []
    small = table[table["size"] == table["size"].min()]
    best = float(small.groupby("x")["loss"].mean().min())
    if not (best and math.isfinite(best)):
        raise ValueError(f"epsilon must be given where the best loss is 0 or missing, got {best}")
    return DEFAULT_EPSILON * abs(best), ["epsilon is 0.5 % of the best at the smallest size"]


def _tuned(curve: Curve, x: str, size: str) -> tuple[float, list[str]]:
    """Return the smallest size's argmin, where no transferred value is given."""
    if math.isnan(curve.best_x):
        raise ValueError(f"every run at {size} {curve.size:.12g} diverged: nothing to transfer")
    return curve.best_x, [
        f"the transferred {x} is the argmin of the smallest {size} in the same runs"
    ]


def _on_grid(
    curves: Sequence[Curve], transferred: float, x: str, size: str, *, everywhere: bool = False
) -> float:
    """Return the transferred value as the table writes it."""
    hits = [c.x[np.isclose(c.x, transferred, rtol=1e-9, atol=0.0)] for c in curves]
    missing = [f"{c.size:.12g}" for c, hit in zip(curves, hits, strict=True) if not hit.size]
    if len(missing) == len(curves) or (everywhere and missing):
        grid = ", ".join(f"{v:g}" for v in curves[0].x)
        raise ValueError(
            f"the transferred {x} {transferred:g} must be a grid point, it is missing at {size} "
            f"{', '.join(missing)}; the grid at {curves[0].size:.12g} is {grid}"
        )
    return float(next(hit[0] for hit in hits if hit.size))


def _star_cells(
    df_star: pd.DataFrame, comparators: Sequence[str], home: Point, *, x: str, **columns: Any
) -> Cells:
    """Cells of the star, keyed by (size, (radii..., stepsize)); the main setting is dropped."""
    require_columns(df_star, [*comparators, x])
    radii = [snap(df_star[c].astype(float)) for c in comparators]
    points = pd.Series(list(zip(*radii, strict=True)), index=df_star.index)
    away = points.map(lambda p: not np.allclose(p, home, rtol=1e-9, atol=0.0)).astype(bool)
    cells: Cells = {}
    # One setting of the radii at a time, because a canonical table knows one hyperparameter.
    for point in sorted(set(points[away])):
        table = tidy(df_star[points == point], x=x, **columns)
        for (w, v), losses in losses_by_cell(table, ["size", "x"]).items():
            cells[w, (*point, v)] = losses
    return cells


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
