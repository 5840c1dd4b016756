"""A small finished study, made once by the command itself."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from launch.cli import main
from sweeps.inprocess import InProcessRunner
from transfer.config import ComputeConfig

Command = Callable[..., subprocess.CompletedProcess[str]]

FOREIGN = ("analysis.py", "transfer.py", "launch/__init__.py")
"""What may lie in a user's folder, with names of ours."""

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


class OneProcess(InProcessRunner):
    """Stands for worker processes, which take seconds to start."""

    def __init__(self, workers: int | None = None, compute: ComputeConfig | None = None) -> None:
        super().__init__(compute)


@contextlib.contextmanager
def without_workers() -> Iterator[None]:
    """Let commands train in this process."""
    with (
        mock.patch("sweeps.runner.LocalRunner", OneProcess),
        mock.patch("launch.train_recipe.LocalRunner", OneProcess),
    ):
        yield


def in_this_process(
    *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command here, where everything is imported already."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        without_workers(),
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(list(arguments))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def process() -> Command:
    """Return the function that runs the command as a user does, in a process of its own."""
    return lmo_transfer


@pytest.fixture(scope="session")
def command() -> Command:
    """Return the function that runs the command; an exception that it does not catch is raised."""
    return in_this_process


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a finished study and what the run printed; not to be changed.

    It was run by the installed command, with workers, beside foreign modules with our names.
    """
    room = tmp_path_factory.mktemp("finished")
    for name in FOREIGN:
        (room / name).parent.mkdir(exist_ok=True)
        (room / name).write_text(f"raise SystemExit('the wrong {name}')")
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
