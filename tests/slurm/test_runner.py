"""Runs as jobs of a real SLURM: the same table, and what goes wrong on a cluster."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.cluster import ClusterConfig
from launch.slurm import SlurmRunner
from sweeps.plan import run_config
from sweeps.progress import Reporter
from sweeps.runner import LocalRunner
from sweeps.table import RunTable
from tests.helpers import contents, tiny_dict, tiny_experiment, toml_of, wait_until
from transfer.config import ComputeConfig, RunConfig

REQUIRED = bool(os.environ.get("LMO_TRANSFER_REQUIRE_SLURM"))
"""Whether a machine without SLURM fails the tests, as in continuous integration."""


def _answers() -> bool:
    if shutil.which("sinfo") is None:
        return False
    return subprocess.run(["sinfo"], capture_output=True, timeout=20).returncode == 0


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not REQUIRED and not _answers(), reason="no SLURM answers to sinfo"),
]

CLUSTER = ClusterConfig(partition="a100", gres="gpu:a100:1", parallelism=4, time_min=5)


def _configs(number: int, steps: int = 3) -> list[RunConfig]:
    experiment = tiny_experiment({"train.steps": steps})
    arm, tuned = next(iter(experiment.arms.items()))
    return [
        run_config(experiment, arm, tuned.optimizer, size=width, seed=seed)
        for width in experiment.sweep.widths
        for seed in range(number // len(experiment.sweep.widths))
    ]


def _queue(study: Path) -> list[str]:
    """Return the jobs of one study that have not ended; other tests have theirs beside it."""
    command = ["squeue", "-h", "-r", "-o", "%i", "-n", f"lmo-{study.name}"[:40]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_the_table_is_that_of_this_machine(tmp_path: Path) -> None:
    configs = _configs(12)
    here, there = RunTable(tmp_path / "here"), RunTable(tmp_path / "study-there")
    with LocalRunner(1) as local:
        local.run(here, configs, Reporter())
    with SlurmRunner(ClusterConfig(**_changed(runs_per_job=2))) as cluster:
        cluster.run(there, configs, Reporter())
    assert contents(there) == contents(here)
    wait_until(lambda: _queue(tmp_path / "study-there") == [], 20, "an empty queue")
    specs = list((tmp_path / "study-there" / "jobs").glob("*/*.json"))
    assert len(specs) == 6, "two runs a job"


def _changed(**changes: Any) -> dict[str, Any]:
    fields = {name: getattr(CLUSTER, name) for name in ClusterConfig.__dataclass_fields__}
    return {**fields, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition": "nowhere"}, "invalid partition specified"),
        ({"gres": "gpu:h100:1"}, "Requested node configuration is not available"),
        ({"constraint": "moon"}, "Invalid feature specification"),
    ],
)
def test_what_slurm_refuses_is_said_in_its_words(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with SlurmRunner(ClusterConfig(**_changed(**changes))) as cluster:
        with pytest.raises(ValueError, match=f"SLURM refuses the jobs: .*{words}"):
            cluster.run(RunTable(tmp_path), _configs(4), Reporter())
    assert _queue(tmp_path) == [] and RunTable(tmp_path).read() == {}


def test_a_killed_job_leaves_failed_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.slurm._ASK_S", 1.0)

    class Killer(Reporter):
        def note(self, text: str) -> None:
            wait_until(lambda: len(_queue(tmp_path)) > 0, 20, "a job in the queue")
            subprocess.run(["scancel", *_queue(tmp_path)], check=True)

    slow = _configs(2, steps=100_000)
    table = RunTable(tmp_path)
    with SlurmRunner(CLUSTER) as cluster:
        cluster.run(table, slow, Killer())
    rows = table.read().values()
    assert len(rows) == len(slow) and {row.status for row in rows} == {"failed"}
    assert all("ended without a result" in str(row.error) for row in rows)


def test_an_interrupted_study_leaves_no_job_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-C while jobs wait and run; the same command then trains what is missing."""
    study = tmp_path / "studies" / "interrupted"
    text = toml_of(tiny_dict({"name": study.name, "train.steps": 300}))
    (tmp_path / "tiny.toml").write_text(text)
    (tmp_path / "a100.toml").write_text('partition = "a100"\nparallelism = 1\nruns_per_job = 2\n')
    command = [str(Path(sys.executable).parent / "lmo-transfer"), "sweep", "tiny.toml"]
    command += ["--on", "slurm", "--cluster", "a100.toml"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: len(_queue(study)) > 0, 60, "a job in the queue")
    time.sleep(2)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "interrupted" in out
    wait_until(lambda: _queue(study) == [], 30, "an empty queue")
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert again.returncode == 0, again.stdout + again.stderr
    wait_until(lambda: _queue(study) == [], 20, "an empty queue")


def test_a_deaf_slurm_is_no_dead_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """squeue fails: nothing is recorded as failed, and the results are waited for."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "squeue"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("launch.slurm._ASK_S", 0.1)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    table = RunTable(tmp_path / "study")
    with SlurmRunner(CLUSTER) as cluster:
        cluster.run(table, _configs(2), Reporter())
    assert {row.status for row in table.read().values()} == {"done"}


def test_a_job_that_raises_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes have no GPU that torch finds: the reason is in the failed runs."""
    monkeypatch.setattr("launch.slurm._ASK_S", 1.0)
    table = RunTable(tmp_path)
    with SlurmRunner(CLUSTER, ComputeConfig(device="cuda")) as cluster:
        cluster.run(table, _configs(2), Reporter())
    rows = table.read().values()
    assert rows and all(
        "ValueError: device must be one that torch finds" in str(r.error) for r in rows
    )
