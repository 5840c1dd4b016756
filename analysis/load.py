"""Read anybody's table of runs and bring it into one canonical form.

Canonical columns, one row per run: group, size, x, seed, loss. A diverged run
has loss NaN; a run that failed for reasons of its own (a full disk, a killed
job) says nothing about the hyperparameter and is only counted.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

READABLE = (".csv", ".parquet", ".jsonl", ".json")
STATUSES = ("done", "diverged", "failed")
CANONICAL = ("group", "size", "x", "seed", "loss")


class IfThere(str):
    """A default column name: a table that lacks the column is one without."""


SEED = IfThere("seed")
STATUS = IfThere("status")

# 1e-3 written as 10 ** -3 or read back from text is one grid point.
_SAME_X = 1e-9


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
    x: str,
    y: str,
    size: str,
    seed: str | None = None,
    group: str | None = None,
    status: str | None = None,
    maximise: bool = False,
) -> pd.DataFrame:
    """Validate a table of runs and return its canonical form.

    A missing column is an error, but for a name given as an `IfThere`.

    Args:
        df: One row per run.
        x: Column of the hyperparameter; positive numbers.
        y: Column of the metric. NaN, inf or missing: diverged.
        size: Column of the model size; positive numbers.
        seed: Column of the seed, integers; None: every run has seed 0.
        group: Column that separates curves (an optimizer); None: one group "".
        status: Column with "done", "diverged" or "failed"; None: every run is
            "done", or "diverged" where the metric is not finite.
        maximise: Whether higher is better, as for an accuracy.

    Returns:
        Columns group, size, x, seed, loss (the metric, or its negative), sorted by the first four;
        `.attrs["num_failed"]` counts the rows with status "failed".

    Raises:
        ValueError: a column is missing or of the wrong type, or one run (same
            group, size, x, seed) is there twice with different results.
    """
    seed, status = _if_there(df, seed), _if_there(df, status)
    require_columns(df, [c for c in (x, y, size, seed, group, status) if c is not None])
    if df.empty:
        raise ValueError("a table of runs needs at least one row, got none")
    state = _status(df, status)
    kept = df[state != "failed"]
    out = pd.DataFrame(
        {
            "group": "" if group is None else kept[group].astype(str).astype(object),
            "size": _size(kept, size),
            "x": snap(_positive(kept, x)),
            "seed": _seed(kept, seed),
            "loss": _loss(kept, y, state[state != "failed"]) * (-1 if maximise else 1),
        },
        index=kept.index,
    )
    given = {"group": group, "size": size, "x": x, "seed": seed, "loss": y}
    names = {key: str(name) for key, name in given.items() if name is not None}
    out = _collapse(out[list(CANONICAL)], kept, names).sort_values(
        ["group", "size", "x", "seed"], ignore_index=True
    )
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


def snap(values: "pd.Series[float]") -> "pd.Series[float]":
    """Give numbers that differ by rounding only the smallest of their values."""
    unique = np.unique(values.to_numpy(dtype=float))
    if unique.size == 0:
        return values
    fresh = np.concatenate([[True], np.diff(unique) > _SAME_X * np.abs(unique[1:])])
    first = unique[fresh][np.cumsum(fresh) - 1]
    return pd.Series(
        first[np.searchsorted(unique, values.to_numpy(dtype=float))], index=values.index
    )


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


def _positive(df: pd.DataFrame, column: str) -> "pd.Series[float]":
    values = _numbers(df, column)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        raise ValueError(
            f"column {column!r} must hold positive numbers, got {values[bad].iloc[0]} "
            f"in row {values.index[bad][0]!r} ({int(bad.sum())} such rows)"
        )
    return values


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


def _collapse(out: pd.DataFrame, given: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Drop exact copies of a run; two results for one run are an error.

    Args:
        out: Canonical rows, not yet sorted.
        given: The rows they come from, of the same index.
        names: What the canonical columns are called there.
    """
    unique = out.drop_duplicates()
    key = ["group", "size", "x", "seed"]
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
