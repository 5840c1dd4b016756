"""Two hyperparameters at once: the same rule, an optimum with a region, their interaction."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims import verdict
from analysis.optimum import Region
from analysis.panels import panels_of
from analysis.plots import plot_curves
from analysis.result import Verdict
from analysis.scaling_plot import plot_scaling
from analysis.style import save
from analysis.surface_plot import plot_surface
from analysis.words import interaction

EPSILON = 0.02
X = ("lr", "radius")


def _sweep(
    optima: tuple[tuple[float, float], ...],
    *,
    tilt: float = 0.6,
    sigma: float = 0.002,
    seed: int = 0,
    first: range = range(-8, -1),
    second: range = range(-2, 4),
) -> pd.DataFrame:
    """The best log2 lr falls by `tilt` where the radius doubles."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, (at, there) in enumerate(optima):
        shared = rng.normal(0, 0.004, 3)
        for a in first:
            for b in second:
                off = a - at + tilt * (b - there)
                loss = 3 - 0.05 * i + 0.008 * off**2 + 0.004 * (b - there) ** 2
                rows += [
                    {"width": 64 * 2**i, "lr": 2.0**a, "radius": 2.0**b, "seed": r,
                     "val_loss": loss + shared[r] + rng.normal(0, sigma)}
                    for r in range(3)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def _judged(df: pd.DataFrame, **changes: Any) -> Verdict:
    return verdict(df, **{"x": X, "epsilon": EPSILON, **changes})


STILL = ((-5.0, 0.5),) * 4


def test_a_pair_that_stays_the_best_transfers() -> None:
    v = _judged(_sweep(STILL), transferred=(2**-5, 2.0))
    assert v.status == "transfers" and v.hyperparameter == "lr, radius"
    assert v.transferred == {"lr": 2**-5, "radius": 2.0}
    for row in v.rows:
        assert row.optimum is not None and row.region is not None and not row.censored
        at = np.log2([row.optimum["lr"], row.optimum["radius"]])
        np.testing.assert_allclose(at, [-5.0, 0.5], atol=0.15)
        assert row.region.holds((-5.0, 0.5)) and not row.region.holds((-6.0, 0.5))
        assert {"lr": 2**-5, "radius": 1.0} in row.near_optimal
    assert set(v.drifts) == {"lr", "radius"} and abs(v.drifts["radius"].slope) < 0.1
    assert {"lr": 2**-5, "radius": 2.0} in v.near_optimal


def test_a_drift_of_one_of_them_does_not_transfer() -> None:
    v = _judged(_sweep(tuple((-3.0 - i, 0.5) for i in range(4)), tilt=0.0), transferred=(2**-3, 1))
    assert v.status == "does not transfer"
    assert v.drifts["lr"].slope == pytest.approx(-1.0, abs=0.1)
    assert abs(v.drifts["radius"].slope) < 0.1


def test_interaction_is_said() -> None:
    v = _judged(_sweep(STILL))
    for row in v.rows:
        assert row.tilt is not None and row.tilt.low <= row.tilt.slope <= row.tilt.high
        assert row.tilt.slope == pytest.approx(-0.6, abs=0.1)
    text = interaction(v.rows, v.axes, "width")
    assert text.startswith("They interact: the best lr falls with radius, for a doubling of radius")
    none = _judged(_sweep(STILL, tilt=0.0))
    assert interaction(none.rows, none.axes, "width").startswith("No interaction is seen")
    flat = none.rows[0].tilt
    assert flat is not None and flat.low < 0 < flat.high


def test_the_edge_of_one_of_them_blocks_transfers() -> None:
    df = _sweep(((-5.0, 0.5),) * 3 + ((-5.0, 9.0),), tilt=0.0)
    v = _judged(df[df["radius"] <= 4], epsilon=1.0, transferred=(2**-5, 2.0))
    assert v.status == "undecided" and v.rows[-1].censored == {"radius": "above"}
    assert "At width 512 the best radius, 4, is the largest of the grid" in v.reason
    assert v.next_runs[0].comparator == {"lr": 2**-5, "radius": 8.0}
    assert v.rows[-1].optimum_high["radius"] is None
    bounded = _judged(
        df[df["radius"] <= 4], epsilon=1.0, transferred=(2**-5, 2.0), bounds={"radius": (None, 4)}
    )
    assert bounded.status == "transfers"


def _star(df: pd.DataFrame) -> pd.DataFrame:
    return df[(df["lr"] == 2**-5) | (df["radius"] == 2.0)]


def test_a_star_whose_centre_is_best_transfers_and_tells_no_optimum() -> None:
    v = _judged(_star(_sweep(((-5.0, 1.0),) * 4, tilt=0.0)), transferred=(2**-5, 2.0))
    assert v.status == "transfers" and v.drifts == {}
    for row in v.rows:
        assert row.region is None and row.tilt is None and not row.censored
        assert row.optimum_low == {"lr": None, "radius": None} == row.optimum_high
    assert interaction(v.rows, v.axes, "width") == ""


def test_a_star_whose_arm_is_best_is_open() -> None:
    """No other stepsize was run with radius 8, so what is best there is not known."""
    v = _judged(_star(_sweep(((-5.0, 3.0),) * 4, tilt=0.0)), transferred=(2**-5, 2.0), epsilon=1.0)
    assert v.status == "undecided"
    assert v.rows[0].best == {"lr": 2**-5, "radius": 8.0}
    assert v.rows[0].censored == {"lr": "alone", "radius": "above"}
    assert "no other lr was run beside the best setting (lr 2^-5, radius 8)" in v.reason
    assert v.reason.startswith("At width 64, 128, 256, 512 no other lr")
    asked = {(n.comparator["lr"], n.comparator["radius"]) for n in v.next_runs if n.size == 64}
    assert {(2**-6, 8.0), (2**-4, 8.0), (2**-5, 16.0)} <= asked


def test_settings_drawn_at_random_stay_open() -> None:
    rng = np.random.default_rng(0)
    points = pd.DataFrame(rng.uniform((-8, -2), (-2, 3), (40, 2)), columns=["a", "b"])
    rows = []
    for width in (64, 128, 256):
        for a, b in points.to_numpy():
            off = a + 5 + 0.6 * (b - 0.5)
            loss = 3 + 0.008 * off**2 + 0.004 * (b - 0.5) ** 2
            rows += [{"width": width, "lr": 2**a, "radius": 2**b, "seed": r,
                      "val_loss": loss + rng.normal(0, 0.0005)} for r in range(3)]  # fmt: skip
    random = pd.DataFrame(rows)
    v = _judged(random)
    assert v.status == "undecided" and "no other lr was run beside" in v.reason
    assert all(row.region is None and set(row.censored.values()) == {"alone"} for row in v.rows)
    assert v.drifts == {}
    (panel,) = panels_of(random, {"": v})
    fig = plot_surface(panel)
    fig.draw_without_rendering()
    assert len(fig.axes[0].collections[0].get_offsets()) == 40, "dots, not slivers"


def test_far_cells_do_not_bracket() -> None:
    """At width 512 radius 2 alone was run near the best stepsize; others only far away."""
    df = _sweep(((-5.0, 1.0),) * 4, tilt=0.0)
    near = (df["radius"] == 2.0) & df["lr"].between(2**-6, 2**-4)
    stray = ((df["lr"] == 2**-8) & (df["radius"] == 0.25)) | (
        (df["lr"] == 2**-2) & (df["radius"] == 8.0)
    )
    v = _judged(df[(df["width"] < 512) | near | stray], transferred=(2**-5, 2.0))
    assert v.status == "undecided" and v.rows[-1].censored == {"radius": "alone"}


def test_a_hole_in_the_grid_is_no_edge_of_it() -> None:
    df = _sweep(((-5.0, 1.0),) * 4, tilt=0.0)
    hole = (df["width"] == 512) & (df["lr"] == 2**-5) & (df["radius"] > 2)
    v = _judged(df[~hole], transferred=(2**-5, 2.0))
    assert v.status == "undecided" and v.rows[-1].censored == {"radius": "above"}
    assert "no larger radius was run beside the best setting (lr 2^-5, radius 2)" in v.reason


def test_larger_grids_are_drawn_whole() -> None:
    df = _sweep(STILL)
    small = df[(df["width"] == 512) | df["lr"].between(2**-6, 2**-4)]
    v = _judged(small, transferred=(2**-5, 2.0))
    (panel,) = panels_of(small, {"": v})
    fig = plot_surface(panel)
    fig.draw_without_rendering()
    maps = [ax for ax in fig.axes if ax.get_title()]
    assert all(ax.get_xlim() == (-8.5, -1.5) and ax.get_ylim() == (-2.5, 3.5) for ax in maps)


def test_everything_diverged_is_drawn_too() -> None:
    df = _sweep(STILL).assign(val_loss=np.nan)
    v = _judged(df, transferred=(2**-5, 2.0))
    assert v.status == "does not transfer"
    (panel,) = panels_of(df, {"": v})
    plot_surface(panel).draw_without_rendering()


def test_the_transferred_pair_is_checked() -> None:
    df = _sweep(STILL)
    for bad in (0.5, "0.5", (0.5, None), {"lr": 0.5}, (0.5, np.nan)):
        with pytest.raises(ValueError, match="one number for each of lr, radius, got "):
            _judged(df, transferred=bad)
    named = _judged(df, transferred={"radius": np.float32(2.0), "lr": 2**-5})
    assert named.transferred == {"lr": 2**-5, "radius": 2.0}
    with pytest.raises(ValueError, match="named for one thing only, got 'radius' for several"):
        _judged(df, y="radius")
    with pytest.raises(ValueError, match=r"bounds of lr must be two numbers, got \(1,\)"):
        _judged(df, bounds={"lr": (1,)})
    with pytest.raises(ValueError, match=r"transferred lr 0\.3, radius 1 must be a grid point"):
        _judged(df, transferred=(0.3, 1.0))
    with pytest.raises(ValueError, match="x must be one column or two, got 3"):
        verdict(df, x=("lr", "radius", "seed"))


def test_json_round_trip() -> None:
    v = _judged(_sweep(STILL))
    assert Verdict.from_dict(json.loads(json.dumps(v.to_dict(), allow_nan=False))) == v


def test_one_seed_is_judged_by_the_scatter_about_the_surface() -> None:
    df = _sweep(STILL)
    v = _judged(df[df["seed"] == 0], transferred=(2**-5, 2.0))
    assert v.status == "transfers" and any(n.startswith("one seed") for n in v.notes)


def test_the_region_covers() -> None:
    """Of 120 regions of nominal 95 %, at four sizes each of 30 sweeps."""
    truth, hits = (-4.8, 0.7), 0
    for seed in range(30):
        v = _judged(_sweep((truth,) * 4, seed=seed, sigma=0.004))
        hits += sum(row.region is not None and row.region.holds(truth) for row in v.rows)
    assert 108 <= hits <= 120


def test_an_ellipse() -> None:
    region = Region((1.0, -2.0), ((4.0, 0.0), (0.0, 1.0)))
    assert region.holds((2.9, -2.0)) and not region.holds((3.1, -2.0))
    assert region.holds((1.0, -1.1)) and not region.holds((1.0, -0.9))
    outline = region.outline()
    assert outline[:, 0].max() == pytest.approx(3.0, abs=0.01)
    assert outline[:, 1].min() == pytest.approx(-3.0, abs=0.01)


def test_heat_maps(tmp_path: Path) -> None:
    df = _sweep(((-5.0, 0.5),) * 3 + ((-5.0, 9.0),))
    df.loc[(df["lr"] == 2**-2) & (df["radius"] == 8.0), "val_loss"] = np.nan
    v = _judged(df, transferred=(2**-5, 2.0))
    (panel,) = panels_of(df, {"": v})
    fig = plot_surface(panel)
    fig.draw_without_rendering()
    maps = [ax for ax in fig.axes if ax.get_title()]
    assert [ax.get_title() for ax in maps] == [f"width {w}" for w in (64, 128, 256, 512)]
    rings = [ln for ax in maps for ln in ax.get_lines() if ln.get_markersize() == 12]
    assert [ln.get_xydata()[0].tolist() for ln in rings] == [[-5.0, 1.0]] * 4
    crosses = [ln for ln in maps[0].get_lines() if ln.get_marker() == "x"]
    assert [ln.get_xydata()[0].tolist() for ln in crosses] == [[-2.0, 3.0]]
    # The last size's optimum lies on the grid's edge: an arrow, and no region.
    assert [ln.get_marker() for ln in maps[3].get_lines() if ln.get_markersize() == 8] == ["^"]
    assert len([ln for ln in maps[3].get_lines() if len(ln.get_xydata()) == 200]) == 0
    assert maps[0].xaxis.get_major_formatter()(-5, 0) == "$2^{-5}$"
    files = save(fig, tmp_path / "surface"), save(plot_scaling([panel]), tmp_path / "scaling")
    assert all(path.stat().st_size > 10_000 for pair in files for path in pair)
    with pytest.raises(ValueError, match="shows 1 hyperparameters a panel, got lr, radius"):
        plot_curves([panel])
