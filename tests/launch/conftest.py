"""A small finished study, made once by the command itself."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]

SMALL = """
name = "small"
[train]
depth = 3
steps = 4
batch_size = 64
[arms.scion]
octaves_below = 2
octaves_above = 1
search = { stepsize = [-4, -1], output = [-1, 1] }
star = { output = [0.5] }
[arms.scion.optimizer]
name = "scion"
[arms.scion.optimizer.roles]
input = { norm = "spectral-max" }
hidden = { norm = "spectral" }
output = { norm = "scaled-sign" }
bias = { norm = "bias-rms" }
[arms.adamw]
octaves_below = 1
octaves_above = 1
search = { stepsize = [-7, -5] }
[arms.adamw.optimizer]
name = "adamw"
[tune]
trials = 2
batch = 2
seeds = [100]
[sweep]
widths = [4, 8]
seeds = [1, 2]
star_neighbours = 0
[verdict]
epsilon = 0.05
"""


def lmo_transfer(
    *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "lmo-transfer"), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="session")
def command() -> Command:
    """Return the function that runs the command."""
    return lmo_transfer


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a finished study and what the run printed; not to be changed."""
    room = tmp_path_factory.mktemp("finished")
    (room / "small.toml").write_text(SMALL)
    done = lmo_transfer("run", "small.toml", cwd=room)
    assert done.returncode == 0, done.stdout + done.stderr
    return room / "studies" / "small", done.stdout


def one_line(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """Check that a command ended with one line on stderr and no traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("lmo-transfer: ")
    return lines[0]


@pytest.fixture
def study(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """Return a copy of the finished study that may be changed."""
    copy = tmp_path / "studies" / "small"
    shutil.copytree(finished[0], copy)
    return copy
