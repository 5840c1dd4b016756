"""Start-up: the packages' names are generic, so the command checks whose they are."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lmo_transfer
from tests.launch.conftest import FOREIGN, Command

ROOT = Path(lmo_transfer.__file__).resolve().parent


@pytest.mark.parametrize("name", ["transfer", "sweeps", "analysis", "launch"])
def test_a_foreign_package_on_the_path_is_named_in_one_line(
    name: str, process: Command, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = process("presets", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert name in done.stderr and str(tmp_path / name) in done.stderr


def test_a_package_overwritten_in_place_is_noticed(tmp_path: Path) -> None:
    for name in ("transfer", "sweeps", "analysis", "launch"):
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / name / "__init__.py", tmp_path / name)
    shutil.copy(ROOT / "lmo_transfer.py", tmp_path)

    def complaint() -> str:
        code = "import lmo_transfer as m, pathlib as p; print(m.foreign_package(p.Path.cwd()))"
        return subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert complaint().strip() == "None"
    (tmp_path / "analysis" / "__init__.py").write_text("'''Another analysis package.'''")
    assert "was overwritten by another distribution" in complaint()


def test_runs_from_a_folder_with_an_analysis_py_and_a_launch_folder(
    finished: tuple[Path, str],
) -> None:
    """The command ran to its end there, and so did its workers; the fixture saw to it."""
    folder, printed = finished
    room = folder.parents[1]
    for name in FOREIGN:
        code = f"import runpy; runpy.run_path({str(room / name)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 1 and f"the wrong {name}" in done.stderr
    assert "next: lmo-transfer train --recipe" in printed


def test_constraints_pin_everything_and_nothing_local() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    assert "torch==2.13.0" in lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    for requirement in wanted:
        name = re.split(r"[<>=\[]", requirement)[0].lower()
        assert name in pinned, f"{name} is not pinned"
