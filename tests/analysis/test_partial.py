"""When the rest of a grid would leave a verdict as it is."""

import math
from typing import Any

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
