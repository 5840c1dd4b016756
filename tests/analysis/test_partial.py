"""When the rest of a grid would leave a verdict as it is."""

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import settles, verdict

GRID = [2.0**k for k in range(-4, 5)]
EPSILON = 0.01


def table(losses: dict[int, dict[int, float]], seeds: int = 3, noise: float = 0.0) -> pd.DataFrame:
    """Return runs with these losses by width and log2 of the stepsize."""
    rows = [
        {
            "width": w,
            "stepsize": 2.0**k,
            "seed": seed,
            "val_loss": loss + noise * ((seed + k) % 3 - 1),
        }
        for w, cells in losses.items()
        for k, loss in cells.items()
        for seed in range(1, seeds + 1)
    ]
    return pd.DataFrame(rows)


def steep(ks: range, factor: float = 0.05) -> dict[int, float]:
    return {k: 1 + factor * k**2 for k in ks}


def asked(df: pd.DataFrame, num_planned: int = 18) -> tuple[str, bool]:
    """Return the status, and whether the rest would leave it."""
    given: dict[str, Any] = {"x": "stepsize", "transferred": 1.0, "epsilon": EPSILON}
    v = verdict(df, num_planned=num_planned, **given)
    return v.status, settles(v, df, GRID)


def test_a_decided_verdict() -> None:
    part = {8: steep(range(-4, 5)), 16: steep(range(-2, 3))}
    assert asked(table(part)) == ("transfers", True)


@pytest.mark.parametrize(
    ("at_the_ends", "settled"),
    [
        ((0.2, 0.2), True),
        ((0.2, 0.09), False),  # less than ten epsilon above the best
        ((0.09, 0.2), False),
        ((0.2, math.nan), True),  # diverged
        ((math.nan, 0.2), True),
    ],
)
def test_noise_in_a_basin(at_the_ends: tuple[float, float], settled: bool) -> None:
    below, above = at_the_ends
    larger = {-2: 1 + below, -1: 1.05, 0: 1.0, 1: 1.0, 2: 1 + above}
    df = table({8: steep(range(-4, 5)), 16: larger}, noise=0.02)
    assert asked(df) == ("undecided", settled)


def test_the_ends_of_the_grid() -> None:
    """Nothing lies beyond them."""
    larger = {k: 1 + 0.002 * k for k in range(-4, 5)}
    df = table({8: steep(range(-4, 5)), 16: larger}, noise=0.02)
    assert asked(df) == ("undecided", True)
    assert asked(df[(df.width == 8) | (df.stepsize < 16)]) == ("undecided", False)


def test_one_seed() -> None:
    """More points show the noise better."""
    larger = {-2: 1.2, -1: 1.05, 0: 1.0, 1: 0.995, 2: 1.2}
    assert asked(table({8: steep(range(-4, 5)), 16: larger}, seeds=1)) == ("undecided", False)


def test_a_smallest_size_that_is_not_tuned() -> None:
    falling = {k: 1 - 0.05 * k for k in range(-4, 1)}
    flat = {k: 1 + 0.001 * k for k in range(-2, 1)}
    df = table({8: falling, 16: flat}, noise=0.02)
    assert asked(df) == ("undecided", True)


def test_a_transferred_setting_out_of_the_basin() -> None:
    """Cells beyond may be better than that one, which has a variance of its own."""
    larger = {k: 1 + 0.05 * (k - 2) ** 2 for k in range(-2, 5)}
    df = table({8: steep(range(-4, 5)), 16: larger})
    wild = (df.width == 16) & (df.stepsize <= 1)
    df.loc[wild, "val_loss"] += np.random.default_rng(0).normal(0, 0.3, wild.sum())
    assert asked(df) == ("undecided", False)


def test_failed_runs_are_no_end_of_a_basin() -> None:
    flat = {k: 1 + 0.002 * k for k in range(-2, 3)}
    df = table({8: steep(range(-4, 5)), 16: flat}, noise=0.02)
    assert asked(df) == ("undecided", False)
    ends = (df.width == 16) & df.stepsize.isin([0.25, 4.0])
    df["val_loss"] = df["val_loss"].mask(ends)
    df["status"] = "done"
    df.loc[ends, "status"] = "failed"
    assert asked(df) == ("undecided", False)
    df.loc[ends, "status"] = "diverged"
    assert asked(df) == ("undecided", True)


def test_accuracies() -> None:
    """The higher the better."""
    larger = {-2: 1.2, -1: 1.05, 0: 1.0, 1: 1.0, 2: 1.2}
    df = table({8: steep(range(-4, 5)), 16: larger}, noise=0.02)
    df["val_loss"] = 2 - df["val_loss"]
    given: dict[str, Any] = {"x": "stepsize", "transferred": 1.0, "epsilon": EPSILON}
    v = verdict(df, num_planned=18, maximise=True, **given)
    assert v.status == "undecided" and settles(v, df, GRID)


def test_what_diverges_beyond_decides_nothing() -> None:
    """All cells of the grid count, also those that cannot be compared."""
    rng, planned, num_open = np.random.default_rng(0), 2 * 17, 0
    given: dict[str, Any] = {"x": "stepsize", "transferred": 1.0, "epsilon": EPSILON}
    better = {(8, -1): -0.02, (16, -1): -0.08}  # at the larger size by 3 epsilon
    for _ in range(30):
        rows = []
        for width, k, seed in product((8, 16), range(-4, 13), range(3)):
            loss = 1 + 0.05 * k**2 + better.get((width, k), 0.0)
            noise = 0.4 * EPSILON * rng.standard_normal()
            rows.append((width, 2.0**k, seed, loss + noise if k < 3 else math.nan))
        df = pd.DataFrame(rows, columns=["width", "stepsize", "seed", "val_loss"])
        part = df[(df.width == 8) | df.stepsize.between(2.0**-3, 2.0**3)]
        whole, begun = (verdict(d, num_planned=planned, **given) for d in (df, part))
        if settles(begun, part, [2.0**k for k in range(-4, 13)]):
            assert whole.status == begun.status
            num_open += begun.status == "undecided"
    assert num_open > 0
