"""Read anybody's table of runs and bring it into one canonical form.

Canonical columns, one row per run: group, size, x (x2 for a second
hyperparameter), seed, loss. A diverged run has loss NaN; a run that failed for
reasons of its own (a full disk, a killed job) says nothing about the
hyperparameter and is only counted.
"""

import difflib
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.axes import axes_of
from analysis.grids import point_columns

READABLE = (".csv", ".parquet", ".jsonl", ".json")
STATUSES = ("done", "diverged", "failed")


class IfThere(str):
    """A default column name: a table that lacks the column is one without."""


SEED = IfThere("seed")
STATUS = IfThere("status")


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table of runs; the file's ending names its format.

    Args:
        path: A .csv or .parquet file, or .jsonl / .json with one JSON object
            per line.

    Returns:
        The table as it is in the file, at least one row.

    Raises:
        ValueError: the file is missing, has another ending, cannot be parsed,
            or holds no row.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in READABLE:
        raise ValueError(
            f"a table of runs must end in one of {READABLE}, got {path.name!r}; "
            "export the table to one of these"
        )
    if not path.is_file():
        raise ValueError(f"a table of runs must be an existing file, got {str(path)!r}")
    try:
        df = _parse(path, ending)
    except ValueError as error:  # pandas' and arrow's parser errors are ValueErrors
        raise ValueError(f"could not read {str(path)!r} as {ending}: {error}") from error
    if df.empty:
        raise ValueError(f"a table of runs needs at least one row, got none in {str(path)!r}")
    return df


def _parse(path: Path, ending: str) -> pd.DataFrame:
    if ending == ".csv":
        return pd.read_csv(path)
    if ending == ".parquet":
        return pd.read_parquet(path)
    # Not pandas' reader: it takes ids that look like dates for dates and rounds floats.
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("each line must be one JSON object")
    return pd.DataFrame(rows)


def tidy(
    df: pd.DataFrame,
    *,
    x: str | Sequence[str],
    y: str,
    size: str,
    seed: str | None = None,
    group: str | None = None,
    status: str | None = None,
    linear: Collection[str] = (),
    maximise: bool = False,
) -> pd.DataFrame:
    """Validate a table of runs and return its canonical form.

    A missing column is an error, but for a name given as an `IfThere`.

    Args:
        df: One row per run.
        x: Column of the hyperparameter, or columns of several; positive numbers.
        y: Column of the metric. NaN, inf or missing: diverged.
        size: Column of the model size; positive numbers.
        seed: Column of the seed, integers; None: every run has seed 0.
        group: Column that separates landscapes (an optimizer); None: one group "".
        status: Column with "done", "diverged" or "failed"; None: every run is
            "done", or "diverged" where the metric is not finite.
        linear: Columns of `x` whose scale is linear: any numbers.
        maximise: Whether higher is better, as for an accuracy.

    Returns:
        Columns group, size, x (and x2 and so on), seed, loss (the metric, or its negative),
        sorted by all but the last; `.attrs["num_failed"]` counts the rows with status "failed".

    Raises:
        ValueError: a column is missing or of the wrong type, or one run (same
            group, size, x, seed) is there twice with different results.
    """
    seed, status, axes = _if_there(df, seed), _if_there(df, status), axes_of(x, linear)
    columns = dict(zip(point_columns(len(axes)), axes, strict=True))
    wanted = [*(axis.name for axis in axes), y, size, seed, group, status]
    require_columns(df, [c for c in wanted if c is not None])
    named = [c for c in wanted if c is not None]
    twice = sorted({c for c in named if named.count(c) > 1})
    if twice:
        raise ValueError(f"a column can be named for one thing only, got {twice[0]!r} for several")
    if df.empty:
        raise ValueError("a table of runs needs at least one row, got none")
    state = _status(df, status)
    kept = df[state != "failed"]
    places = {
        key: axis.snap((_finite if axis.linear else _positive)(kept, axis.name).to_numpy())
        for key, axis in columns.items()
    }
    out = pd.DataFrame(
        {
            "group": "" if group is None else kept[group].astype(str).astype(object),
            "size": _size(kept, size),
            **places,
            "seed": _seed(kept, seed),
            "loss": _loss(kept, y, state[state != "failed"]) * (-1 if maximise else 1),
        },
        index=kept.index,
    )
    given = {"group": group, "size": size, "seed": seed, "loss": y}
    given |= {key: axis.name for key, axis in columns.items()}
    names = {key: str(name) for key, name in given.items() if name is not None}
    run = ["group", "size", *columns, "seed"]
    out = _collapse(out, run, kept, names).sort_values(run, ignore_index=True)
    out.attrs["num_failed"] = int((state == "failed").sum())
    return out


def require_columns(df: pd.DataFrame, wanted: Sequence[str]) -> None:
    """Raise a ValueError that names a missing column and the nearest one there is."""
    there = [str(c) for c in df.columns]
    for name in wanted:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"the table has no column {name!r}{hint} Columns: {', '.join(there)}")


def _if_there(df: pd.DataFrame, column: str | None) -> str | None:
    return None if isinstance(column, IfThere) and column not in df.columns else column


def _status(df: pd.DataFrame, status: str | None) -> "pd.Series[str]":
    if status is None:
        return pd.Series("done", index=df.index)
    state = df[status].astype(str)
    unknown = sorted(set(state) - set(STATUSES))
    if unknown:
        raise ValueError(f"column {status!r} must hold one of {STATUSES}, got {unknown[0]!r}")
    return state


def _numbers(df: pd.DataFrame, column: str) -> "pd.Series[float]":
    try:
        return pd.to_numeric(df[column]).astype(float)
    except (ValueError, TypeError) as error:
        raise ValueError(f"column {column!r} must hold numbers: {error}") from None


def _finite(df: pd.DataFrame, column: str, least: float = -math.inf) -> "pd.Series[float]":
    values = _numbers(df, column)
    bad = ~(np.isfinite(values) & (values > least))
    if bad.any():
        what = "finite" if least < 0 else "positive"
        raise ValueError(
            f"column {column!r} must hold {what} numbers, got {values[bad].iloc[0]} "
            f"in row {values.index[bad][0]!r} ({int(bad.sum())} such rows)"
        )
    return values


def _positive(df: pd.DataFrame, column: str) -> "pd.Series[float]":
    return _finite(df, column, 0.0)


def _size(df: pd.DataFrame, column: str) -> pd.Series:
    values = _positive(df, column)
    return values.astype("int64") if (values == values.round()).all() else values


def _seed(df: pd.DataFrame, column: str | None) -> "pd.Series[int]":
    if column is None:
        return pd.Series(0, index=df.index, dtype="int64")
    values = _numbers(df, column)
    bad = ~(np.isfinite(values) & (values == values.round()))
    if bad.any():
        raise ValueError(f"column {column!r} must hold integers, got {values[bad].iloc[0]}")
    return values.astype("int64")


def _loss(df: pd.DataFrame, column: str, state: "pd.Series[str]") -> "pd.Series[float]":
    values = _numbers(df, column)
    return values.where(np.isfinite(values) & (state != "diverged"))


def _collapse(
    out: pd.DataFrame, key: list[str], given: pd.DataFrame, names: dict[str, str]
) -> pd.DataFrame:
    """Drop exact copies of a run; two results for one run are an error.

    Args:
        out: Canonical rows, not yet sorted.
        key: The columns that tell runs apart.
        given: The rows they come from, of the same index.
        names: What the canonical columns are called there.
    """
    unique = out.drop_duplicates()
    twice = unique[unique.duplicated(key, keep=False)]
    if twice.empty:
        return unique
    same = twice[(twice[key] == twice.iloc[0][key]).all(axis=1)]
    run = ", ".join(f"{names[k]} {same.iloc[0][k]}" for k in key if k in names)
    rows = given.loc[same.index]
    differ = [str(c) for c in rows.columns if rows[c].astype(str).nunique() > 1]
    differ = [c for c in differ if c != names["loss"]]
    hint = f"they differ in {', '.join(differ[:6])}: " if differ else ""
    raise ValueError(
        f"one run has {len(same)} different results {same['loss'].tolist()}: {run}; {hint}"
        "filter the table, name a seed column, or name the column that separates the groups"
    )
