"""Hyperparameters on a linear scale, such as a momentum: 0 and negative values, plain numbers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims import verdict
from analysis.panels import panels_of
from analysis.plots import plot_curves
from analysis.result import Verdict
from analysis.scaling_plot import plot_scaling
from analysis.words import law

GRID = np.arange(-0.4, 0.95, 0.1)


def _sweep(optima: tuple[float, ...], grid: np.ndarray = GRID) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "width": 32 * 2**i,
            "beta": b,
            "seed": r,
            "val_loss": 0.6 + 0.5 * (b - optimum) ** 2 + rng.normal(0, 0.0005),
        }
        for i, optimum in enumerate(optima)
        for b in grid
        for r in range(3)
    )


def _judged(df: pd.DataFrame, **changes: Any) -> Verdict:
    return verdict(df, **{"x": "beta", "linear": ["beta"], "epsilon": 0.004, **changes})


def test_zero_and_negative_values_are_judged() -> None:
    v = _judged(_sweep((0.0,) * 4), transferred=0.0)
    assert v.status == "transfers" and v.reason.startswith("Beta 0 is within")
    for row in v.rows:
        assert row.optimum is not None and row.optimum["beta"] == pytest.approx(0.0, abs=0.02)
        assert row.best == {"beta": 0.0}
    with pytest.raises(ValueError, match="must hold positive numbers, got -0.4"):
        _judged(_sweep((0.0,) * 4), linear=())


def test_the_drift_is_in_units() -> None:
    v = _judged(_sweep((0.1, 0.25, 0.4, 0.55)))
    assert v.status == "does not transfer" and v.drift is not None
    assert v.drift.slope == pytest.approx(0.15, abs=0.005)
    text = law(v.drift, v.axes[0], "width", 32)
    assert text.startswith("best beta = 0.09") and text.endswith("+ 0.151 log2(width / 32)")


def test_edges_are_as_far_apart_as_the_grid() -> None:
    df = _sweep((1.0,) * 3, GRID[:8])  # -0.4 to 0.3
    (first, *_) = _judged(df, transferred=0.0, epsilon=5.0).next_runs
    assert first.comparator["beta"] == pytest.approx(0.4)
    kept = _judged(df, transferred=0.0, epsilon=5.0, bounds={"beta": (None, 0.35)}).next_runs
    assert kept[0].comparator["beta"] == pytest.approx(0.35)
    bounded = _judged(df, bounds={"beta": (-1.0, df["beta"].max())})
    assert bounded.status == "transfers" and not any(row.censored for row in bounded.rows)


def test_figures_have_plain_numbers() -> None:
    df = _sweep((0.1, 0.2, 0.3))
    v = _judged(df)
    shown = panels_of(df, {"": v})
    ax = plot_curves(shown).axes[0]
    ax.figure.draw_without_rendering()
    assert all("2^" not in t.get_text() for t in ax.get_xticklabels())
    assert "drift +0.101 per doubling [+0.09" in ax.get_title()
    plot_scaling(shown).draw_without_rendering()
