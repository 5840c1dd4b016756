"""Curves with a known optimum, known noise and known drift."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.axes import Axis
from analysis.drift import fit_drift
from analysis.landscapes import Landscape, build_landscapes, smooth_noise
from analysis.load import tidy

EPSILON = 0.005


def _rows(
    optima: dict[int, float],
    *,
    grid: range = range(-7, 1),
    seeds: int = 3,
    sigma: float = 0.0,
    curvature: float = 0.01,
) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "width": w,
            "stepsize": 2.0**g,
            "seed": r,
            "loss": 0.6 + curvature * (g - o) ** 2 + sigma * rng.standard_normal(),
        }
        for w, o in optima.items()
        for g in grid
        for r in range(seeds)
    )


def _curves(
    df: pd.DataFrame, *, high: float | None = None, prefer: float | None = None
) -> list[Landscape]:
    table = tidy(df, x="stepsize", y="loss", size="width", seed="seed")
    at = None if prefer is None else (prefer,)
    return build_landscapes(table, [Axis("stepsize", high=high)], epsilon=EPSILON, prefer=at)


@pytest.mark.parametrize("optimum", [-3.0, -2.7, -3.4])
def test_exact_parabola_gives_its_vertex(optimum: float) -> None:
    (c,) = _curves(_rows({32: optimum}))
    assert c.optimum.at[0] == pytest.approx(optimum, abs=1e-9)
    assert (c.optimum.low[0], c.optimum.high[0]) == pytest.approx((optimum, optimum))
    assert c.best == (2.0 ** round(optimum),)
    assert c.best_loss == pytest.approx(0.6 + 0.01 * (round(optimum) - optimum) ** 2)
    assert not c.censored


def test_means_ranges_and_near_optimal_set() -> None:
    df = pd.DataFrame(
        {
            "width": 32,
            "stepsize": [1.0, 1.0, 2.0, 2.0, 4.0, 4.0],
            "seed": [0, 1] * 3,
            "loss": [1.0, 1.2, 1.0, 1.0, 1.004, 1.006],
        }
    )
    (c,) = _curves(df)
    np.testing.assert_allclose(c.mean, [1.1, 1.0, 1.005])
    np.testing.assert_allclose(c.low, [1.0, 1.0, 1.004])
    np.testing.assert_allclose(c.high, [1.2, 1.0, 1.006])
    assert c.near_optimal in (((2.0,),), ((2.0,), (4.0,)))  # on the boundary
    assert c.loss_at((4.0,)) == pytest.approx(1.005) and math.isnan(c.loss_at((3.0,)))


def test_bootstrap_interval_covers_and_repeats() -> None:
    hits = 0
    for k in range(40):
        df = _rows({32: -2.8, 64: -2.8}, sigma=0.0)
        df["loss"] += np.random.default_rng(k).normal(0, 0.002, len(df))
        a, b = _curves(df)
        hits += a.optimum.low[0] <= -2.8 <= a.optimum.high[0]
        hits += b.optimum.low[0] <= -2.8 <= b.optimum.high[0]
    assert 70 <= hits <= 80, f"95 % intervals covered {hits} of 80"
    again = _curves(df)[0]
    assert again.optimum == a.optimum


@pytest.mark.parametrize(("optimum", "side"), [(-9.0, "below"), (2.0, "above")])
def test_argmin_on_the_edge_is_censored(optimum: float, side: str) -> None:
    (c,) = _curves(_rows({32: optimum}))
    assert c.censored == {0: side}
    assert c.optimum.at[0] == (-7.0 if side == "below" else 0.0)
    assert math.isinf(c.optimum.low[0] if side == "below" else c.optimum.high[0])


def test_cliff_brackets_the_optimum() -> None:
    df = _rows({32: 2.0})
    df.loc[(df["stepsize"] == 1.0) & (df["seed"] == 1), "loss"] = math.inf
    (c,) = _curves(df)
    assert not c.censored and c.best == (0.5,)
    assert c.num_diverged.tolist() == [0] * 7 + [1] and math.isnan(c.mean[-1])
    assert -2.0 <= c.optimum.at[0] <= 0.0


def test_wild_cells_do_not_move_the_optimum() -> None:
    df = _rows({32: -3.0})
    df.loc[df["stepsize"] >= 0.5, "loss"] = 300.0
    last = df["stepsize"] == 0.5  # the last cell that the parabola sees
    df.loc[last, "loss"] += 50.0 * df.loc[last, "seed"]
    (c,) = _curves(df)
    assert c.optimum.at[0] == pytest.approx(-3.0, abs=0.05)
    assert c.optimum.high[0] - c.optimum.low[0] < 0.1


def test_everything_diverged() -> None:
    df = _rows({32: -3.0})
    df["loss"] = math.nan
    (c,) = _curves(df)
    assert c.best is None and c.near_optimal == () and fit_drift([c]) is None


def test_drift_of_exact_optima() -> None:
    curves = _curves(_rows({32: -2.0, 64: -2.5, 128: -3.0, 256: -3.5}))
    drift = fit_drift(curves)
    assert drift is not None and drift.low is not None and drift.high is not None
    assert drift.slope == pytest.approx(-0.5)
    assert drift.excludes_zero and drift.high - drift.low < 1e-6
    assert drift.place_at(64) == pytest.approx(-2.5)


def test_drift_interval_by_hand() -> None:
    """Optima -4.9, -5.4, -6, -7: slope -0.69, residual sum 0.067, t(2) = 4.303."""
    curves = _curves(_rows({32: -4.9, 64: -5.4, 128: -6.0, 256: -7.0}, grid=range(-12, -2)))
    drift = fit_drift(curves)
    assert drift is not None and drift.low is not None and drift.high is not None
    assert drift.slope == pytest.approx(-0.69, abs=1e-6)
    assert drift.high - drift.slope == pytest.approx(4.3027 * math.sqrt(0.067 / 2 / 5), rel=0.02)
    # Without the largest size, and without the smallest.
    assert (drift.left_out_low, drift.left_out_high) == pytest.approx((-0.8, -0.55), abs=1e-6)


def test_two_sizes_have_a_slope_and_no_interval() -> None:
    drift = fit_drift(_curves(_rows({32: -2.0, 128: -3.0})))
    assert drift is not None and drift.slope == pytest.approx(-0.5)
    assert drift.low is None and drift.high is None and not drift.excludes_zero
    assert drift.left_out_low is None and drift.left_out_high is None


def test_censored_sizes_are_left_out_of_the_fit() -> None:
    drift = fit_drift(_curves(_rows({32: -2.0, 64: -3.0, 128: -9.0})))
    assert drift is not None
    assert (drift.num_sizes, drift.num_censored) == (2, 1)
    assert drift.slope == pytest.approx(-1.0)


def test_smooth_noise_finds_sigma() -> None:
    optima = {2**k: -3.0 for k in range(4, 44)}
    noise = smooth_noise(_curves(_rows(optima, seeds=1, sigma=0.002)), EPSILON)
    assert noise.df >= 40
    assert math.sqrt(noise.variance) == pytest.approx(0.002, rel=0.2)


def test_argmin_at_the_limit_is_bracketed() -> None:
    df = _rows({32: 2.0})  # falls up to the largest grid value, 1
    (c,) = _curves(df, high=1.0)
    assert not c.censored and c.best == (1.0,) and c.optimum.at[0] == 0.0
    assert math.isfinite(c.optimum.low[0]) and c.optimum.high[0] == 0.0
    assert _curves(df, high=2.0)[0].censored == {0: "above"}
    assert _curves(_rows({32: -9.0}), high=1.0)[0].censored == {0: "below"}
    with pytest.raises(
        ValueError, match=r"stepsize must lie within its bounds, -inf to 0\.5, got 1"
    ):
        _curves(df, high=0.5)
    with pytest.raises(ValueError, match="bounds of stepsize must leave room for positive numbers"):
        _curves(df, high=math.nan)


def test_ties_prefer_the_given_point_then_the_inside() -> None:
    flat = _rows({32: -3.0}, curvature=0.0)
    (c,) = _curves(flat)
    assert not c.censored and c.best == (2.0**-4,)  # the middle one of -6 ... -1
    assert _curves(flat, prefer=2.0**-2)[0].best == (2.0**-2,)
    assert _curves(flat, prefer=2.0**-7)[0].censored == {0: "below"}
    # Rounding of a mean is no difference; a loss that is better by more is no tie.
    flat.loc[flat["stepsize"] == 2.0**-7, "loss"] *= 1 - 1e-14
    assert _curves(flat)[0].best == (2.0**-4,)
    flat.loc[flat["stepsize"] == 2.0**-7, "loss"] *= 1 - 1e-9
    assert _curves(flat, prefer=2.0**-2)[0].best == (2.0**-7,)
