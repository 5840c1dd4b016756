"""The tidy table: the columns that analysis reads, their types, and the same from both files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweeps.frame import COLUMNS, to_frame, write_tables
from sweeps.plan import PlannedRun, check_runs, star_runs, sweep_runs
from sweeps.table import StoredRun
from tests.helpers import fabricate, tiny_experiment

FLOATS = ("stepsize", "val_loss", "val_accuracy", "initial_loss", "train_loss", "wall_s")
INTEGERS = ("width", "depth", "seed", "steps", "batch_size", "numerics", "stopped_step")
RADII = ("radius_input", "radius_hidden", "radius_output")


def make() -> tuple[list[PlannedRun], dict[str, StoredRun]]:
    """A plan of both arms with a diverged, a failed and a missing run."""
    experiment = tiny_experiment({"sweep.seeds": [1, 2]})
    planned = [
        run
        for arm in ("scion", "adamw")
        for plan in (check_runs, star_runs, sweep_runs)
        for run in plan(experiment, arm, experiment.arms[arm].optimizer)
    ]
    rows = {r.config.run_id: fabricate(r.config, 1 / 3 + i) for i, r in enumerate(planned)}
    ids = list(rows)
    rows[ids[0]] = fabricate(planned[0].config, None, "diverged", val_accuracy=None)
    rows[ids[1]] = fabricate(
        planned[1].config, None, "failed", error='a "quoted", text\nof two lines'
    )
    del rows[ids[2]]
    return planned, rows


@pytest.fixture
def frame() -> pd.DataFrame:
    return to_frame(*make())


def test_columns_and_types(frame: pd.DataFrame) -> None:
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == len(make()[0]) - 1, "a run that is not in the table has no row"
    for name in FLOATS:
        assert frame[name].dtype == np.float64, name
    for name in INTEGERS:
        assert frame[name].dtype == np.int64, name
    scion = frame["optimizer"] == "scion"
    for name in RADII:
        assert frame[name].dtype == np.float64 and frame[name].notna().equals(scion), name
    assert frame.loc[scion, "constrained"].eq(False).all()
    assert frame.loc[~scion, "constrained"].isna().all()
    assert frame.loc[scion, "alpha"].eq(0.1).all() and frame.loc[~scion, "alpha"].isna().all()


def test_a_missing_result_is_an_empty_cell(frame: pd.DataFrame) -> None:
    assert sorted(frame["status"].unique()) == ["diverged", "done", "failed"]
    assert frame["val_loss"].isna().equals(frame["status"] != "done")
    assert (frame["error"].notna()).equals(frame["status"] == "failed")


def test_rows_are_what_was_stored(frame: pd.DataFrame) -> None:
    planned, rows = make()
    for run in planned:
        if run.config.run_id not in rows:
            continue
        (row,) = frame[frame["run_id"] == run.config.run_id].to_dict("records")
        assert (row["arm"], row["purpose"]) == (run.arm, run.purpose)
        assert row["stepsize"] == run.config.optimizer.stepsize
        assert (row["width"], row["seed"]) == (run.config.width, run.config.seed)
        loss = rows[run.config.run_id].val_loss
        assert row["val_loss"] == loss or (loss is None and np.isnan(row["val_loss"]))
        assert row["data"] == "digits" and row["schedule"] == "linear" and row["family"] == "mlp"


def test_order_does_not_depend_on_the_plan(frame: pd.DataFrame) -> None:
    planned, rows = make()
    backwards = to_frame(planned[::-1], dict(reversed(rows.items())))
    # Fabricated anew: when it was finished differs.
    pd.testing.assert_frame_equal(
        frame.drop(columns="finished"), backwards.drop(columns="finished")
    )
    keys = frame[["arm", "purpose", "width", "radius_hidden", "radius_output", "stepsize", "seed"]]
    filled = list(keys.fillna(0.0).itertuples(index=False, name=None))
    assert filled == sorted(filled)
    assert list(frame.index) == list(range(len(frame)))


def test_empty_frame(tmp_path: Path) -> None:
    frame = to_frame(make()[0], {})
    assert tuple(frame.columns) == COLUMNS and frame.empty
    csv, parquet = write_tables(frame, tmp_path)
    assert tuple(pd.read_csv(csv).columns) == COLUMNS == tuple(pd.read_parquet(parquet).columns)


def test_csv_and_parquet_read_back_equal(frame: pd.DataFrame, tmp_path: Path) -> None:
    csv, parquet = write_tables(frame, tmp_path / "results")
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == ["runs.csv", "runs.parquet"]
    from_csv = pd.read_csv(csv)
    for got in (from_csv, pd.read_parquet(parquet)):
        assert tuple(got.columns) == COLUMNS
        for name in COLUMNS:
            if frame[name].isna().all():
                assert got[name].isna().all(), name
                continue
            assert got[name].isna().equals(frame[name].isna()), name
            here, there = frame[name].dropna().tolist(), got[name].dropna().tolist()
            assert here == there, name
    assert csv.read_bytes() == write_tables(frame, tmp_path / "again")[0].read_bytes()
