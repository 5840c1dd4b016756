"""Verdicts on tables whose answer is known."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.axes import Axis
from analysis.claims import verdict
from analysis.drift import Drift
from analysis.result import Verdict
from analysis.words import plain_drift

EPSILON = 0.005
WIDTHS = (32, 64, 128, 256)


def sweep(
    optima: tuple[float, ...],
    *,
    grid: range = range(-7, 1),
    seeds: int = 3,
    sigma: float = 0.001,
    curvature: float = 0.01,
    rng_seed: int = 0,
) -> pd.DataFrame:
    """Seeds share an effect (same batches); runs add noise of their own."""
    rng = np.random.default_rng(rng_seed)
    rows = []
    for i, optimum in enumerate(optima):
        shared = rng.normal(0, 0.003, seeds)
        for g in grid:
            for r in range(seeds):
                loss = 0.6 - 0.01 * i + curvature * (g - optimum) ** 2
                rows.append(
                    {"width": 32 * 2**i, "stepsize": 2.0**g, "seed": 100 + r, "status": "done",
                     "optimizer": "scion", "depth": 3,
                     "val_loss": loss + shared[r] + rng.normal(0, sigma)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def judged(df: pd.DataFrame, transferred: float | None = 2**-3, **kwargs: Any) -> Verdict:
    return verdict(df, transferred=transferred, epsilon=EPSILON, **kwargs)


def at(df: pd.DataFrame, width: int, stepsize: float) -> "pd.Series[bool]":
    return (df["width"] == width) & (df["stepsize"] == stepsize)


def test_same_optimum_transfers() -> None:
    v = judged(sweep((-3.0, -2.9, -3.1, -3.0)), group="optimizer", fixed=("depth",))
    assert v.status == "transfers" and v.group == "scion" and v.fixed == {"depth": 3}
    assert [row.size for row in v.rows] == list(WIDTHS) and v.num_seeds == 3
    for row in v.rows:
        assert row.best == {"stepsize": 0.125} and row.regret == 0.0 and not row.censored
        assert row.regret_upper is not None and row.regret_upper <= EPSILON
        assert (row.num_runs, row.num_diverged) == (24, 0)
        assert row.best_loss is not None and row.regret_share == 0.0
        assert row.regret_share_upper == row.regret_upper / row.best_loss
    assert v.near_optimal == ({"stepsize": 0.125},) and v.next_runs == ()
    assert "every width from 32 to 256" in v.reason


def test_drifting_optimum_does_not_transfer() -> None:
    v = judged(sweep((-3.0, -3.5, -4.0, -4.5)))
    assert v.status == "does not transfer" and v.drift is not None
    assert v.drift.slope == pytest.approx(-0.5, abs=0.1)
    last = v.rows[-1]
    # The curve's values at -3 and at the best grid points -4 and -5: 0.0225 and 0.0025.
    assert last.regret == pytest.approx(0.02, abs=0.003)
    assert last.regret_lower is not None and last.regret_lower > EPSILON
    assert last.binding is not None and last.binding["stepsize"] in (2**-4, 2**-5)
    assert "width 256" in v.reason or "width 128" in v.reason


def test_transferred_diverging_somewhere_does_not_transfer() -> None:
    df = sweep((-3.0,) * 4)
    df.loc[at(df, 128, 2**-3) & (df["seed"] == 101), "status"] = "diverged"
    v = judged(df)
    assert v.status == "does not transfer" and "diverges at width 128" in v.reason
    assert v.rows[2].loss_at_transferred is None and v.rows[2].num_diverged == 1


def test_edge_blocks_transfers_but_not_its_opposite() -> None:
    flat = sweep((-3.0, -3.0, -3.0, -1.6), curvature=0.0015, sigma=0.0002, grid=range(-7, -1))
    v = judged(flat)
    assert v.status == "undecided" and v.rows[-1].censored == {"stepsize": "above"}
    assert "At width 256 the best stepsize, 2^-2, is the largest of the grid" in v.reason
    assert v.next_runs[0].size == 256 and v.next_runs[0].comparator == {"stepsize": 0.5}
    steep = judged(sweep((-3.0, -3.0, -3.0, 0.0), grid=range(-7, -1)))
    assert steep.status == "does not transfer"


def test_cliff_brackets() -> None:
    df = sweep((-3.0,) * 4, grid=range(-7, -1))
    df.loc[df["stepsize"] > 2**-3, "val_loss"] = np.nan
    assert judged(df).status == "transfers"


def test_not_tuned_at_the_smallest_size() -> None:
    v = judged(sweep((-1.0, -3.0, -4.0, -5.0), grid=range(-7, -2)))
    assert v.status == "undecided" and v.reason.startswith("Not tuned")
    assert {"size": 32, "comparator": {"stepsize": 0.25}, "more_seeds": 3} in v.to_dict()[
        "next_runs"
    ]


def test_wild_cells_block_nothing() -> None:
    df = sweep((-3.0,) * 4)
    rng = np.random.default_rng(3)
    wild = {32: (1, 1), 64: (20, 12), 128: (400, 100), 256: (3, 3)}
    for width, (mean, sd) in wild.items():
        hit = (df["width"] == width) & (df["stepsize"] >= 0.5)
        df.loc[hit, "val_loss"] = mean + sd * np.abs(rng.standard_normal(int(hit.sum())))
    assert judged(df).status == "transfers"


def test_wild_reference_does_not_transfer() -> None:
    df = sweep((-3.0, -4.0, -5.0, -6.0))
    df.loc[at(df, 256, 2**-3), "val_loss"] = [1.2, 4.0, 30.0]
    v = judged(df[(df["width"] == 32) | (df["width"] == 256)])
    assert v.status == "does not transfer"
    assert v.rows[-1].binding == {"stepsize": 2**-6}


def test_one_bad_seed_of_a_comparator_is_no_licence() -> None:
    """A cell that is wild in one seed only may still be the better one."""
    df = sweep((-3.0,) * 4)
    df.loc[at(df, 64, 2**-4), "val_loss"] = [0.55, 0.55, 2.0]
    v = judged(df)
    assert v.status == "undecided" and v.rows[1].binding == {"stepsize": 2**-4}
    assert any(n.size == 64 and n.comparator == {"stepsize": 2**-4} for n in v.next_runs)


def test_noise_leaves_it_open_and_names_runs() -> None:
    v = judged(sweep((-3.0, -3.2, -3.3, -3.45), sigma=0.006, seeds=2))
    assert v.status == "undecided" and v.next_runs
    assert all(n.more_seeds >= 1 for n in v.next_runs)
    for size in {n.size for n in v.next_runs}:
        ours = [n for n in v.next_runs if n.size == size]
        home = [n.more_seeds for n in ours if n.comparator == {"stepsize": 0.125}]
        assert home == [max(n.more_seeds for n in ours)]


def test_the_reference_gets_as_many_seeds_as_the_neediest_comparator() -> None:
    df = sweep((-3.0,) * 2, sigma=0.0, seeds=2)
    # Equally noisy, one as good as the reference and one worse: different numbers of seeds.
    for stepsize, gap in ((2**-4, 0.0), (2**-2, 0.003)):
        hit = at(df, 64, stepsize)
        home = df.loc[at(df, 64, 2**-3), "val_loss"].to_numpy()
        df.loc[hit, "val_loss"] = home + gap + np.array([-0.006, 0.006])
    runs = {n.comparator["stepsize"]: n.more_seeds for n in judged(df).next_runs}
    assert runs[2**-4] > runs[2**-2] >= 1 and runs[2**-3] == runs[2**-4]


def test_plain_drift_is_said_although_undecided() -> None:
    df = sweep((-3.0, -3.3, -3.6, -3.9), sigma=0.0015, seeds=2, curvature=0.008)
    v = judged(df)
    assert v.status == "undecided" and v.drift is not None and v.drift.excludes_zero
    assert "drifts plainly" in v.reason


@pytest.mark.parametrize(("slope", "said"), [(-0.02, False), (0.09, False), (-0.2, True)])
def test_a_drift_too_small_to_matter_is_not_said(slope: float, said: bool) -> None:
    drift = Drift(slope, 0.0, slope - 0.01, slope + 0.01, 4, 0)
    assert drift.excludes_zero
    assert ("drifts plainly" in plain_drift(drift, Axis("stepsize"), "width")) is said


def test_single_seed_says_so() -> None:
    v = judged(sweep((-3.0,) * 4, seeds=1, sigma=0.0005))
    assert v.status == "transfers" and v.num_seeds == 1
    assert any("one seed" in note for note in v.notes)
    w = judged(sweep((-3.0, -4.0, -5.0, -5.0), seeds=1, sigma=0.0005))
    assert w.status == "does not transfer"


def test_single_seed_with_too_few_points_is_undecided() -> None:
    v = judged(sweep((-3.0,) * 2, seeds=1, grid=range(-4, -1)))
    assert v.status == "undecided" and v.rows[0].regret_upper is None
    assert any("unknown" in note for note in v.notes)


def test_two_sizes_and_one_size() -> None:
    assert judged(sweep((-3.0, -3.0))).status == "transfers"
    v = judged(sweep((-3.0,)))
    assert v.status == "undecided" and "one width only" in v.reason


def test_exact_ties_transfer() -> None:
    df = sweep((-3.0,) * 3, sigma=0.0)
    df["val_loss"] = 0.5 + (np.log2(df["stepsize"]).abs() - 3).abs() // 2 * 0.1
    v = judged(df)
    assert (
        v.status == "transfers"
        and {"stepsize": 0.125} in v.near_optimal
        and len(v.near_optimal) == 3
    )


def test_no_seed_in_common_blocks() -> None:
    df = sweep((-3.0,) * 4)
    df.loc[at(df, 64, 2**-4), "seed"] += 50
    v = judged(df)
    assert v.status == "undecided" and any("share no seed" in note for note in v.notes)


def test_failed_runs_are_left_out() -> None:
    df = sweep((-3.0,) * 4)
    df.loc[at(df, 64, 2**-7), "status"] = "failed"
    v = judged(df)
    assert v.status == "transfers" and "3 failed runs left out" in v.notes


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"transferred": 0.1}, "must be a grid point, it is missing at width 32, 64"),
        ({"epsilon": 0.0}, "epsilon must be a positive"),
        ({"epsilon": math.nan}, "epsilon must be a positive"),
        ({"level": 0.7}, r"level must be in \(0, 0\.5\)"),
        ({"y": "val_los"}, "did you mean 'val_loss'"),
        ({"fixed": ("width",)}, "'width' is not constant"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verdict(sweep((-3.0,) * 4), **{"transferred": 0.125, "epsilon": EPSILON, **kwargs})


def test_several_groups_are_refused() -> None:
    df = pd.concat([sweep((-3.0,) * 2), sweep((-3.0,) * 2).assign(optimizer="adamw")])
    with pytest.raises(ValueError, match=r"exactly one group, got \['adamw', 'scion'\]"):
        judged(df, group="optimizer")


def test_defaults_for_foreign_tables() -> None:
    df = sweep((-3.0,) * 4).drop(columns=["status"])
    v = verdict(df, transferred=None, epsilon=None, status=None)
    assert v.transferred == {"stepsize": 0.125} and v.status == "transfers"
    assert v.epsilon == pytest.approx(0.005 * 0.6, rel=0.02) and len(v.notes) == 2


def test_ordinary_csv_needs_no_status_or_seed_column() -> None:
    df = sweep((-3.0,) * 4).drop(columns=["status"])
    assert judged(df).status == "transfers"
    one = df[df["seed"] == 100].drop(columns=["seed"])
    assert judged(one).num_seeds == 1
    with pytest.raises(ValueError, match="no column 'status'"):
        judged(df, status="status")
    with pytest.raises(ValueError, match="no column 'seed'"):
        judged(one, seed="seed")


def test_lower_is_better_is_said_of_accuracies() -> None:
    df = sweep((-3.0,) * 4).rename(columns={"val_loss": "val_Acc"})
    notes = judged(df, y="val_Acc").notes
    assert any("lower val_Acc is taken as better" in note for note in notes)
    assert not any("taken as better" in note for note in judged(sweep((-3.0,) * 4)).notes)


def test_optimum_at_the_limit_transfers() -> None:
    df = sweep((1.0,) * 4)
    assert judged(df, 1.0).reason.startswith("Not tuned")
    v = judged(df, 1.0, bounds={"stepsize": (None, 1.0)})
    assert v.status == "transfers" and all(not row.censored for row in v.rows)


def test_next_runs_stay_below_the_limit() -> None:
    df = sweep((1.0,) * 4, grid=range(-7, 0), curvature=0.001)
    beyond = {n.comparator["stepsize"] for n in judged(df, 0.5).next_runs}
    assert max(beyond) == 1.0
    runs = judged(df, 0.5, bounds={"stepsize": (None, 0.75)}).next_runs
    assert max(n.comparator["stepsize"] for n in runs) == 0.75
    low = judged(
        sweep((-9.0,) * 4, grid=range(-7, 1)), 2**-7, bounds={"stepsize": (None, 1.0)}
    ).next_runs
    assert {n.comparator["stepsize"] for n in low} == {2**-8}
    # With one grid point, at the limit, only the lower side is open.
    single = judged(
        sweep((-3.0,) * 2, grid=range(0, 1)), 1.0, bounds={"stepsize": (None, 1.0)}
    ).next_runs
    assert {n.comparator["stepsize"] for n in single} == {0.5}


def test_a_flat_table_transfers() -> None:
    df = sweep((-3.0,) * 3).assign(val_loss=0.5)
    for transferred in (None, 0.125):
        v = judged(df, transferred)
        assert v.status == "transfers", v.reason
        assert all(row.best == v.transferred for row in v.rows)


def test_json_round_trip() -> None:
    df = sweep((-3.0, -3.0, -3.0, -1.0), grid=range(-7, -1))
    df.loc[at(df, 64, 2**-3), "val_loss"] = np.inf
    v = judged(df, fixed={"batch": np.int64(64)})
    data = json.loads(json.dumps(v.to_dict(), allow_nan=False))
    assert data["schema"] == 2 and data["fixed"] == {"batch": 64}
    assert Verdict.from_dict(data) == v
    odd = judged(df, fixed={"alpha": math.nan}).to_dict()
    assert json.loads(json.dumps(odd, allow_nan=False))["fixed"] == {"alpha": None}
    with pytest.raises(ValueError, match="schema 2, got 1"):
        Verdict.from_dict({**data, "schema": 1})
    with pytest.raises(ValueError, match="not a verdict"):
        Verdict.from_dict({"schema": 2, "status": "transfers"})
