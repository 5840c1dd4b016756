"""Verdicts on a table of several groups, such as optimizers, each judged on its own."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims import verdict
from analysis.load import SEED, STATUS, require_columns
from analysis.result import Verdict

_NO_RADII = "radii: not tested"


def verdicts(
    df: pd.DataFrame,
    *,
    group: str | None = None,
    x: str | Sequence[str] = "stepsize",
    y: str = "val_loss",
    size: str = "width",
    seed: str | None = SEED,
    status: str | None = STATUS,
    **settings: Any,
) -> dict[str, Verdict]:
    """Judge every group of a table, in the order in which they appear.

    Args:
        df: One row per run.
        group: Column that separates them; None: one group, named "".
        x, y, size, seed, status, settings: As in `verdict`, the same for all groups. What is
            fixed are the other columns that do not vary within the group.

    Raises:
        ValueError: as `verdict`, with the group's name in front.
    """
    names: dict[str, Any] = {"x": x, "y": y, "size": size, "seed": seed, "status": status}
    require_columns(df, [] if group is None else [group])
    columns = (x,) if isinstance(x, str) else tuple(x)
    used = {name for name in (y, size, seed, status, group, *columns) if name is not None}
    found: dict[str, Verdict] = {}
    for name, rows in parts(df, group):
        fixed = [c for c in rows.columns if c not in used and _constant(rows[c])]
        try:
            one = verdict(rows, group=group, fixed=fixed, **names, **settings)
            notes = one.notes if any("radius" in c for c in columns) else (*one.notes, _NO_RADII)
            found[name] = dataclasses.replace(one, notes=notes)
        except ValueError as error:
            raise ValueError(f"{group} {name!r}: {error}" if group else str(error)) from error
    return found


def parts(df: pd.DataFrame, group: str | None) -> list[tuple[str, pd.DataFrame]]:
    """Return the groups of a table with their rows; ValueError for a row without a group."""
    if group is None:
        return [("", df)]
    if df[group].isna().any():
        raise ValueError(f"column {group!r} must name the group of every run, got a missing value")
    return [(str(name), rows) for name, rows in df.groupby(group, sort=False)]


def _constant(column: "pd.Series[Any]") -> bool:
    """Whether there is one value, and one that a verdict can hold."""
    first = column.iloc[0]
    return isinstance(first, (str, bool, int, float, np.generic)) and bool((column == first).all())
