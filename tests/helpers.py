"""Tiny experiments, fabricated records and in-process runners that several tests share."""

import copy
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweeps.experiment import Experiment
from sweeps.frame import CIRCUMSTANCES, to_frame
from sweeps.plan import PlannedRun
from sweeps.progress import Reporter
from sweeps.reading import experiment_from_dict
from sweeps.study import Study
from sweeps.table import RunTable, StoredRun, store
from transfer.config import RunConfig

if TYPE_CHECKING:
    from transfer.data import Dataset
    from transfer.train import Status

TINY: dict[str, Any] = {
    "name": "tiny",
    "train": {"depth": 3, "steps": 3, "batch_size": 16, "label_smoothing": 0.1},
    "arms": {
        "scion": {
            "octaves_below": 1,
            "octaves_above": 1,
            "search": {"stepsize": [-5, -1], "hidden": [-1, 1]},
            "star": {"hidden": [0.5, 2.0]},
            "optimizer": {
                "name": "scion",
                "roles": {
                    "input": {"norm": "spectral-max"},
                    "hidden": {"norm": "spectral"},
                    "output": {"norm": "scaled-sign"},
                    "bias": {"norm": "bias-rms"},
                },
            },
        },
        "adamw": {
            "octaves_below": 1,
            "octaves_above": 1,
            "search": {"stepsize": [-7, -6]},
            "optimizer": {"name": "adamw"},
        },
    },
    "tune": {"trials": 4, "batch": 2, "seeds": [101]},
    "sweep": {"widths": [4, 8], "seeds": [1]},
    "verdict": {"epsilon": 0.01},
}
"""Plain data of the smallest experiment that goes through every stage: 35 runs of 3 steps."""

DELETE = "<delete>"


def tiny_dict(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return TINY with values replaced at dotted paths, or removed where the value is DELETE."""
    data = copy.deepcopy(TINY)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = data
        for part in parents:
            place = place.setdefault(part, {})
        if value is DELETE:
            del place[last]
        else:
            place[last] = value
    return data


def tiny_experiment(changes: dict[str, Any] | None = None) -> Experiment:
    """Return the tiny experiment, validated, with values replaced at dotted paths."""
    return experiment_from_dict(tiny_dict(changes), "tiny")


def toml_of(data: dict[str, Any]) -> str:
    """Write plain data as TOML."""
    import tomli_w

    return tomli_w.dumps(data)


# --- data ------------------------------------------------------------------------------------


def write_shard(path: Path, tokens: Sequence[int], magic: int = 20240520, version: int = 1) -> None:
    """Write a token shard as the public scripts do."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(tokens)
    path.write_bytes(header.tobytes() + np.array(tokens, dtype="<u2").tobytes())


def check_batches(loaded: "Dataset", batch_size: int) -> None:
    """Check that a batch follows from seed and step, and is its rows however it is cut.

    The shares of several ranks, and their micro-batches, are such cuts; the batches are those of
    the steps up to and past the end of the first pass over the data.
    """
    import torch

    for step in (0, loaded.num_train // batch_size, loaded.num_train // batch_size + 1):
        whole = loaded.train_rows(3, step, batch_size, slice(0, batch_size))
        for size in (1, 2, 3, batch_size):  # sizes that divide the batch, and others
            ends = [*range(0, batch_size, size), batch_size]
            spans = [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]
            # Nobody asks in order: every rank knows its own rows only.
            parts = {k: loaded.train_rows(3, step, batch_size, spans[k]) for k in range(len(spans))}
            for kind in (0, 1):
                joined = torch.cat([parts[k][kind] for k in range(len(spans))])
                assert torch.equal(joined, whole[kind]), f"step {step} in parts of {size}"
    other = loaded.train_rows(4, 0, batch_size, slice(0, batch_size))
    assert not torch.equal(loaded.train_rows(3, 0, batch_size, slice(0, batch_size)).x, other.x)


# --- records ---------------------------------------------------------------------------------


def fabricate(
    config: RunConfig, val_loss: float | None, status: "Status" = "done", **changes: Any
) -> StoredRun:
    """Return a record of a run that nobody trained."""
    from transfer.train import RunRecord

    record = RunRecord(
        config=config,
        status=status,
        stopped_step=config.steps,
        val_loss=val_loss,
        val_accuracy=0.5,
        initial_loss=2.5,
        train_loss=2.0,
        error=None,
        wall_s=0.01,
        curve=np.zeros(0, dtype=np.float32),
    )
    return replace(store(record, {"torch": "0"}), **changes)


def stored(run_id: str, **changes: Any) -> StoredRun:
    """Return a short record that belongs to no configuration."""
    plain = StoredRun(
        run_id=run_id,
        config={},
        status="done",
        stopped_step=1,
        val_loss=1.5,
        val_accuracy=None,
        initial_loss=None,
        train_loss=None,
        error=None,
        wall_s=0.1,
        host="h",
        finished="t",
        versions={},
    )
    return replace(plain, **changes)


def content(run: StoredRun) -> dict[str, Any]:
    """Return what two computations of one run must share."""
    plain = {name: getattr(run, name) for name in StoredRun.__dataclass_fields__}
    return {k: v for k, v in plain.items() if k not in (*CIRCUMSTANCES, "versions")}


def contents(table: RunTable) -> str:
    """Return all runs of a table with their curves as text that shows every bit."""
    rows, curves = table.read(), table.curves()
    assert table.problems == []
    plain = [
        {**content(run), "curve": curves[key].tobytes().hex() if key in curves else None}
        for key, run in rows.items()
    ]
    return json.dumps(plain, sort_keys=True)


def study_frame(study: Study) -> pd.DataFrame:
    """Return the whole frame of a complete study, circumstances dropped; trains nothing."""
    tuned = study.tune(None, Reporter())
    tuning = {c.run_id: (arm, c) for arm, result in tuned.items() for c in result.tried}
    runs = [PlannedRun(arm=a, purpose="tune", config=c) for a, c in tuning.values()]
    planned = runs + study.planned(tuned)
    frame = to_frame(planned, study.table.read())
    assert len(frame) == len(planned), "runs are missing"
    return frame.drop(columns=list(CIRCUMSTANCES))


# --- runners ---------------------------------------------------------------------------------


class InlineRunner:
    """Trains in this process, one file a run, in the order asked for."""

    def __init__(self) -> None:
        self.trained: list[RunConfig] = []

    def run(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
        import torch

        from sweeps.worker import work

        torch.set_num_threads(1)
        for config in configs:
            work(table, [config], lambda answer: None)
            self.trained.append(config)
            reporter.advance(1)


class FakeRunner:
    """Publishes records made by a function of the configuration."""

    def __init__(self, make: Callable[[RunConfig], StoredRun]) -> None:
        self.make = make
        self.trained: list[RunConfig] = []

    def run(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
        table.publish([self.make(config) for config in configs])
        self.trained += configs
        reporter.advance(len(configs))


class NoRunner:
    """Fails the test if anything is to be trained."""

    def run(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
        raise AssertionError(f"{len(configs)} runs were to be trained again")


class Notes(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self.done = 0

    def stage(self, title: str, total: int, known: int) -> None:
        self.stages.append((title, total, known))

    def advance(self, runs: int) -> None:
        self.done += runs

    def note(self, text: str) -> None:
        self.notes.append(text)


# --- processes -------------------------------------------------------------------------------


def processes_of(folder: Path) -> list[int]:
    """Return the living processes whose command line names a folder, this process excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if os.fsencode(str(folder)) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it ended while we looked
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll a condition; AssertionError if it does not come true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)
