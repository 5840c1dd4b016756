"""A cluster that answers, and what is asked of it beside the code under test."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.cluster import ClusterConfig
from sweeps.plan import run_config
from tests.helpers import DELETE, tiny_dict, tiny_experiment, toml_of
from transfer.config import RunConfig

REQUIRED = bool(os.environ.get("LMO_TRANSFER_REQUIRE_SLURM"))
"""Whether a machine without SLURM fails the tests, as in continuous integration."""

CLUSTER = ClusterConfig(partition="a100", gres="gpu:a100:1", parallelism=4, time_min=5)
PROFILE = 'partition = "a100"\nparallelism = 2\nruns_per_job = 4\ntime_min = 5\n'


def _answers() -> bool:
    if shutil.which("sinfo") is None:
        return False
    return subprocess.run(["sinfo"], capture_output=True, timeout=20).returncode == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip with a reason where there is no SLURM."""
    ours = [item for item in items if item.get_closest_marker("slurm")]
    if ours and not REQUIRED and not _answers():
        for item in ours:
            item.add_marker(pytest.mark.skip(reason="no SLURM answers to sinfo"))


def configs(number: int, steps: int = 3) -> list[RunConfig]:
    """Return runs of the tiny experiment, half of each width."""
    experiment = tiny_experiment({"train.steps": steps})
    arm, tuned = next(iter(experiment.arms.items()))
    return [
        run_config(experiment, arm, tuned.optimizer, size=width, seed=seed)
        for width in experiment.sweep.widths
        for seed in range(number // len(experiment.sweep.widths))
    ]


def in_queue(study: Path) -> list[str]:
    """Return the jobs of one study that have not ended; other tests have theirs beside it."""
    told = subprocess.run(
        ["squeue", "-h", "-r", "-o", "%i %j"], capture_output=True, text=True, check=True
    ).stdout
    jobs = (line.split() for line in told.splitlines())
    return [job for job, name in jobs if name.startswith(f"lmo-{study.name[:24]}-")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a study's folder whose name no other test has."""
    return tmp_path / f"t{uuid.uuid4().hex[:8]}"


Lmo = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def lmo(tmp_path: Path) -> Lmo:
    """Start the command in a folder with two experiments and the profile a100.toml.

    tiny.toml has two stages of jobs, the tuning of one arm and its sweep; both.toml has two arms.
    """
    changes = {"name": f"s{uuid.uuid4().hex[:8]}", "train.steps": 300}
    (tmp_path / "a100.toml").write_text(PROFILE)
    (tmp_path / "both.toml").write_text(toml_of(tiny_dict(changes)))
    one = {**changes, "arms.scion": DELETE}
    (tmp_path / "tiny.toml").write_text(toml_of(tiny_dict(one)))

    def start(*words: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "lmo-transfer"), *words],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture
def study(lmo: Lmo, tmp_path: Path) -> Path:
    """Return the folder that tiny.toml's study will have."""
    text = (tmp_path / "tiny.toml").read_text()
    name = next(line for line in text.splitlines() if line.startswith("name")).split('"')[1]
    return tmp_path / "studies" / name
