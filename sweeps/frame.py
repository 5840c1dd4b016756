"""The tidy results table: one row per run, one column per setting and result."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from sweeps.plan import PlannedRun
from sweeps.table import StoredRun
from transfer.config import ROLE_NAMES
from transfer.files import replace_file

COLUMNS = (
    "run_id",
    "arm",
    "purpose",
    "family",
    "optimizer",
    "width",
    "depth",
    "seed",
    "stepsize",
    "alpha",
    "constrained",
    *(f"radius_{role}" for role in ROLE_NAMES),
    "schedule",
    "steps",
    "batch_size",
    "label_smoothing",
    "precision",
    "data",
    "numerics",
    "status",
    "stopped_step",
    "val_loss",
    "val_accuracy",
    "initial_loss",
    "train_loss",
    "error",
    "wall_s",
    "stack_size",
    "compile_s",
    "host",
    "finished",
)
CIRCUMSTANCES = ("wall_s", "stack_size", "compile_s", "host", "finished")
"""Columns that two computations of one run need not share."""


def to_frame(planned: Iterable[PlannedRun], rows: dict[str, StoredRun]) -> pd.DataFrame:
    """Return the runs of a plan that the table has, sorted by arm, purpose and settings."""
    data = [_row(run, rows[run.config.run_id]) for run in planned if run.config.run_id in rows]
    frame = pd.DataFrame(data, columns=list(COLUMNS))
    radii = [name for name in COLUMNS if name.startswith("radius_")]
    keys = ["arm", "purpose", "width", *radii, "stepsize", "seed"]
    return frame.sort_values([*keys, "run_id"], ignore_index=True)


def _row(run: PlannedRun, stored: StoredRun) -> dict[str, Any]:
    config, optimizer = stored.config, stored.config["optimizer"]
    radii = {f"radius_{role}": r["radius"] for role, r in optimizer.get("roles", {}).items()}
    nested = {
        "arm": run.arm,
        "purpose": run.purpose,
        "family": config["model"].get("build", config["model"]["family"]),
        "optimizer": optimizer["name"],
        "data": config["data"]["name"],
        "schedule": config["schedule"]["name"],
        "stepsize": optimizer["stepsize"],
        "alpha": optimizer.get("alpha"),
        "constrained": optimizer.get("constrained"),
        **radii,
    }
    result = {name: getattr(stored, name) for name in StoredRun.__dataclass_fields__}
    everything = {**config, **result, **nested}
    return {name: everything.get(name) for name in COLUMNS}


def write_tables(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Write runs.csv and runs.parquet; each appears whole or not at all."""
    csv = replace_file(folder / "runs.csv", lambda p: frame.to_csv(p, index=False))
    parquet = replace_file(folder / "runs.parquet", lambda p: frame.to_parquet(p, index=False))
    return [csv, parquet]
