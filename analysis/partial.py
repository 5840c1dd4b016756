"""Whether the part of a sweep that was run decides as the whole grid would."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.result import Verdict
from analysis.rule import BASIN


def settles(v: Verdict, df: pd.DataFrame, grid: Sequence[float]) -> bool:
    """Return whether the rest of a grid would leave a verdict as it is.

    If losses only grow beyond what was run, the rest cannot be better. It changes the noise, and
    with it the bounds of what was run, only as far as it lies in a basin (`analysis.rule`). So an
    undecided verdict stays so where every basin was run as a whole and holds the transferred
    setting: more seeds may decide it, more stepsizes cannot. Nor can they where the smallest size,
    which must have been run whole, is not tuned.

    Args:
        v: Verdict on the part, by one hyperparameter, that counts all cells of the grid
            (`num_planned`).
        df: The part's runs, one row each. A diverged run has no loss, or one that is not finite;
            one whose `status` is failed is left out.
        grid: All values of the hyperparameter, among them those that were run.
    """
    smallest = v.rows[0]
    not_tuned = smallest.censored and smallest.best == v.transferred
    if v.status != "undecided" or not_tuned:
        return True
    if "status" in df:
        df = df[df["status"] != "failed"]
    (axis,), sign = v.axes, -1 if v.maximise else 1
    # With one seed the noise is read off the curve, which more points show better.
    return v.num_seeds > 1 and all(
        _whole(
            (sign * runs[v.metric].astype(float)).groupby(runs[axis.name]).agg(_mean),
            grid,
            v.transferred[axis.name],
            v.epsilon,
        )
        for _, runs in df.groupby(v.size_name)
    )


def _mean(losses: "pd.Series[float]") -> float:
    mean = float(losses.mean(skipna=False))
    return mean if math.isfinite(mean) else math.inf


def _whole(means: "pd.Series[float]", grid: Sequence[float], at: float, epsilon: float) -> bool:
    """Whether a size was run beyond its basin, or to the grid's end, and has `at` in its basin."""
    reach = means.min() + BASIN * epsilon
    ends = means.index.min(), means.index.max()
    held = means[np.isclose(means.index, at) & (means <= reach)]
    beyond = (end in (min(grid), max(grid)) or means[end] > reach for end in ends)
    return len(held) > 0 and all(beyond)
