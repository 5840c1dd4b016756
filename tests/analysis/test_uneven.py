"""Verdicts on tables with gaps, ties, few seeds, and any number of sizes."""

import numpy as np
import pandas as pd
import pytest

from analysis.words import near_optimal
from tests.analysis.test_claims import at, judged, sweep


def test_where_the_transferred_value_was_not_run_the_verdict_is_open() -> None:
    df = sweep((-3.0,) * 4)
    gone = at(df, 64, 2**-3) | at(df, 256, 2**-3)
    v = judged(df[~gone])
    assert v.status == "undecided"
    assert v.reason.startswith("There is no run with stepsize 2^-3 at width 64, 256.")
    asked = {(n.size, n.comparator["stepsize"], n.more_seeds) for n in v.next_runs}
    assert {(64, 2**-3, 3), (256, 2**-3, 3)} <= asked
    row = v.rows[1]
    assert row.loss_at_transferred is None and row.regret is None and row.best_loss is not None
    # What the other sizes show counts all the same.
    drifting = sweep((-3.0, -3.0, -5.0, -5.0))
    assert judged(drifting[~at(drifting, 256, 2**-3)]).status == "does not transfer"


def test_the_transferred_value_may_be_missing_at_the_smallest_size() -> None:
    df = sweep((-3.0,) * 3)
    v = judged(df[~at(df, 32, 2**-3)])
    assert v.status == "undecided" and "no run with stepsize 2^-3 at width 32" in v.reason


def test_an_edge_and_a_missing_run_are_both_named() -> None:
    df = sweep((-3.0, 2.0, -3.0))
    text = judged(df[~at(df, 128, 2**-3) & ((df["width"] != 64) | (df["stepsize"] < 2**-2))]).reason
    assert "At width 64 the best stepsize, 2^-3, is the largest of the grid" in text
    assert text.endswith("There is no run with stepsize 2^-3 at width 128.") and "noise" not in text


def test_an_optimum_beside_the_edge_may_lie_beyond_it() -> None:
    v = judged(sweep((-3.0, -3.0), grid=range(-4, 1), sigma=0.02, curvature=0.002))
    assert any(row.optimum_low["stepsize"] is None for row in v.rows if not row.censored)


def test_grids_may_differ_between_sizes() -> None:
    df = sweep((-3.0,) * 4)
    odd = np.log2(df["stepsize"]) % 2 == 1
    v = judged(df[(df["width"] < 128) | odd])
    assert v.status == "transfers" and [row.num_runs for row in v.rows] == [24, 24, 12, 12]


@pytest.mark.parametrize("sizes", [2, 40])
def test_any_number_of_sizes_from_two(sizes: int) -> None:
    v = judged(sweep((-3.0,) * sizes))
    assert v.status == "transfers" and len(v.rows) == sizes
    moved = judged(sweep((-3.0,) * (sizes - 1) + (-5.0,)))
    assert moved.status == "does not transfer"


def test_one_seed_says_that_the_noise_is_not_measured() -> None:
    v = judged(sweep((-3.0,) * 4, seeds=1))
    assert any(note.startswith("one seed") for note in v.notes) and v.num_seeds == 1
    # Four cells that scatter tell nothing, and nothing is claimed.
    rough = sweep((-3.0,) * 2, seeds=1, grid=range(-4, -1), sigma=0.02)
    assert judged(rough).status == "undecided"


def test_rounded_losses_tie_at_the_transferred_value() -> None:
    df = sweep((-3.0,) * 4, sigma=0.0, curvature=0.0002)
    df["val_loss"] = df["val_loss"].round(2)
    v = judged(df)
    assert v.status == "transfers" and all(row.regret == 0.0 for row in v.rows)
    assert all(
        {"stepsize": 2**-3} in row.near_optimal and len(row.near_optimal) > 3 for row in v.rows
    )


def test_a_flat_basin_is_a_set_and_no_point() -> None:
    v = judged(sweep((-3.0,) * 3, sigma=0.0002, curvature=0.0005))
    assert all(row.flat for row in v.rows)
    assert near_optimal(v).endswith("at every width: 7 settings, stepsize 2^-6 to 1")
    steep = judged(sweep((-3.0,) * 3))
    assert not any(row.flat for row in steep.rows)
    assert near_optimal(steep) == "within epsilon of the best at every width: stepsize 2^-3"
    moved = judged(sweep((-3.0, -4.5, -6.0)))
    assert near_optimal(moved).endswith("every width: no setting")


def test_a_second_basin_counts_like_the_first() -> None:
    """Losses that fall again far from the transferred value, at the largest size below it."""
    df = sweep((-5.0,) * 3, grid=range(-8, 1))
    far = (df["stepsize"] == 0.5) & (df["width"] == 128)
    other = (df["stepsize"] == 0.5) & (df["width"] < 128)
    df.loc[far | other, "val_loss"] -= 0.01 * 16 - 0.001
    same = judged(df, 2**-5)
    assert same.status == "transfers"
    assert [p["stepsize"] for p in same.rows[-1].near_optimal] == [2**-5, 0.5]
    df.loc[far, "val_loss"] -= 0.03
    moved = judged(df, 2**-5)
    assert moved.status == "does not transfer" and "at width 128" in moved.reason.lower()
    assert moved.rows[-1].best == {"stepsize": 0.5} and moved.rows[-1].optimum is not None
    assert 2**-2 <= moved.rows[-1].optimum["stepsize"] <= 1.0


def test_a_basin_with_a_hole_is_not_flat() -> None:
    df = sweep((-3.0,) * 3, sigma=0.0002, curvature=0.0005)
    df.loc[df["stepsize"] == 2**-4, "val_loss"] += 0.2
    assert not any(row.flat for row in judged(df).rows)
    edge = judged(sweep((1.0,) * 3, sigma=0.0002, curvature=0.0001))
    assert not any(row.flat for row in edge.rows) and edge.rows[0].censored


def test_without_a_noise_an_optimum_has_no_interval() -> None:
    v = judged(sweep((-3.0,) * 3, seeds=1, grid=range(-4, -1)))
    for row in v.rows:
        assert row.optimum is not None and not row.censored
        assert row.optimum_low == {"stepsize": None} == row.optimum_high


def test_a_table_without_a_grid_is_refused() -> None:
    x = np.linspace(1.0, 2.0, 60_000)
    df = pd.DataFrame({"width": np.repeat([32, 64], x.size), "stepsize": np.tile(x, 2)})
    with pytest.raises(ValueError, match="width x stepsize must have at most 100000 .* got 120000"):
        judged(df.assign(val_loss=1.0))
