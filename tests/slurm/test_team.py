"""Several processes of one job: the table of one process, and an end where one of them fails."""

import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.slurm import SlurmRunner
from sweeps.cluster import ClusterConfig
from sweeps.plan import run_config
from sweeps.progress import Reporter
from sweeps.runner import LocalRunner
from sweeps.table import RunTable, StoredRun
from tests.helpers import tiny_experiment, wait_until
from tests.slurm.conftest import in_queue
from transfer.config import AdamWConfig, CustomConfig, RunConfig

pytestmark = pytest.mark.slurm

TWO = {
    "partition": "a100",
    "gres": "gpu:a100:2",
    "tasks_per_node": 2,
    "time_min": 5,
    "parallelism": 1,
}

ODD = """
import os, signal, time
import torch, transfer.checkpoint
from pathlib import Path
from torch import nn

if "SLURM_PROCID" in os.environ:
    transfer.checkpoint._EVERY_S = 0.5
HERE, RANK = Path(__file__).parent, os.environ.get("SLURM_PROCID", "none")

class Odd(nn.Module):
    def __init__(self, width, kind):
        super().__init__()
        self.kind, self.calls = kind, 0
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())

    def loss(self, x, y):
        self.calls += 1
        if self.kind == "slow":
            time.sleep(0.005)
            with open(HERE / f"calls-{RANK}-{os.getpid()}", "a") as file:
                file.write(".")
        elif RANK == "1" and self.calls > 20:
            if self.kind == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("nothing to learn from")
        return nn.functional.cross_entropy(self(x), y)

def odd(width, depth, kind):
    return Odd(width, kind)
"""


def _configs(steps: int = 5) -> list[RunConfig]:
    """Return runs of two widths and both arms."""
    experiment = tiny_experiment({"train.steps": steps})
    return [
        run_config(experiment, arm, tuned.optimizer, size=width, seed=seed)
        for arm, tuned in experiment.arms.items()
        for width in experiment.sweep.widths
        for seed in (1, 2)
    ]


def _odd(kind: str, steps: int) -> list[RunConfig]:
    model = CustomConfig(build=f"odd_{kind}:odd", options={"kind": kind})
    (run, *_) = _configs(steps)
    optimizer = AdamWConfig()
    return [replace(run, model=model, optimizer=optimizer, label_smoothing=0.0, seed=s)
            for s in (1, 2)]  # fmt: skip


def _train(
    table: RunTable, configs: list[RunConfig], reporter: Reporter | None = None, **changes: Any
) -> dict[str, StoredRun]:
    with SlurmRunner(ClusterConfig(**{**TWO, **changes})) as cluster:
        cluster.run(table, configs, reporter or Reporter())
    return table.read()


def _odd_cluster(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (folder / f"odd_{kind}.py").write_text(ODD)
    monkeypatch.syspath_prepend(str(folder))
    return {"setup": (f"export PYTHONPATH={folder}:$PYTHONPATH",)}


def test_two_processes_give_the_table_of_one(tmp_path: Path) -> None:
    configs = _configs()
    here, there = RunTable(tmp_path / "here"), RunTable(tmp_path / "there")
    with LocalRunner(1) as local:
        local.run(here, configs, Reporter())
    found, wanted = _train(there, configs), here.read()
    assert there.problems == [] and found.keys() == wanted.keys()
    for run_id, run in wanted.items():
        assert (found[run_id].status, found[run_id].stopped_step) == ("done", run.stopped_step)
        assert found[run_id].val_loss == pytest.approx(run.val_loss, rel=1e-3)
    one, two = here.curves(), there.curves()
    assert one.keys() == two.keys()
    # The first loss is that of the start, where rounding has not added up yet.
    assert all(two[key][0] == pytest.approx(one[key][0], rel=1e-6) for key in one)
    logs = sorted((tmp_path / "there" / "jobs").glob("*/submitit/*_log.out"))
    assert {log.name.split("_")[-2] for log in logs} == {"0", "1"}, "two processes a job"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("raises", "RuntimeError: process 1: ArithmeticError: nothing to learn from"),
        ("dies", "TeamBroken: the processes of this job have lost each other"),
    ],
)
def test_a_process_that_fails_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    monkeypatch.setattr("launch.slurm._ASK_S", 1.0)
    monkeypatch.setattr("launch.slurm._PATIENCE_S", 3.0)
    began = time.monotonic()
    cluster = _odd_cluster(tmp_path, kind, monkeypatch)
    rows = _train(RunTable(tmp_path / "runs"), _odd(kind, steps=400), **cluster)
    assert time.monotonic() - began < 90
    assert [row.status for row in rows.values()] == ["failed", "failed"]
    for row in rows.values():
        assert words in str(row.error)


def test_a_job_hands_itself_on_once_and_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 900
    table, study = RunTable(home), home

    class Limit(Reporter):
        """Sends the signal that comes before the time limit, once there are checkpoints."""

        def note(self, text: str) -> None:
            if "in SLURM's queue" in text:
                threading.Thread(target=self.reach, daemon=True).start()

        def reach(self) -> None:
            wait_until(lambda: len(calls(0)) == 1 and calls(0)[0] > 250, 60, "some steps")
            wait_until(lambda: len([*study.glob("checkpoints/*.pt")]) == 2, 60, "checkpoints")
            subprocess.run(["scancel", "--signal", "USR2", *in_queue(study)], check=True)

    def calls(rank: int) -> list[int]:
        """Return how often the model was called by every process of a rank, in their order."""
        files = sorted(tmp_path.glob(f"calls-{rank}-*"), key=lambda path: path.stat().st_mtime)
        return [path.stat().st_size for path in files]

    cluster = _odd_cluster(tmp_path, "slow", monkeypatch)
    rows = _train(table, _odd("slow", steps), Limit(), **cluster)
    assert [row.status for row in rows.values()] == ["done", "done"], rows
    for rank in (0, 1):
        first, second = calls(rank)
        assert first > 250 and second < steps - 100, "it went on where it was"
    logs = "".join(log.read_text() for log in study.glob("jobs/*/submitit/*_log.out"))
    assert logs.count("Requeued job") == 1
