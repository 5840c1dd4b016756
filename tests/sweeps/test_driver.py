"""One command at a time works on a study; the mark of a killed one does not hold."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.driver import sole_driver
from sweeps.reading import experiment_to_dict
from sweeps.study import Study
from tests.helpers import tiny_experiment

HOLD = """
import sys
from pathlib import Path
from sweeps.driver import sole_driver
with sole_driver(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_command_is_refused_and_a_killed_one_forgotten(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"process {holder.pid}"), sole_driver(tmp_path):
        raise AssertionError("let in beside another")
    study = tmp_path / "experiment.json"
    study.write_text(json.dumps(experiment_to_dict(tiny_experiment())))
    with pytest.raises(ValueError, match=f"process {holder.pid}"):
        Study.create(tmp_path, tiny_experiment({"sweep.seeds": [1, 2]}))
    assert Study.open(tmp_path).experiment == tiny_experiment(), "it did not grow meanwhile"
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with sole_driver(tmp_path):
        assert json.loads((tmp_path / "driver.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "driver.json").exists()


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "[]",
        json.dumps({"host": socket.gethostname(), "pid": os.getppid(), "started": "another life"}),
        json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}),
    ],
)
def test_a_mark_that_says_nothing_does_not_hold(tmp_path: Path, mark: str) -> None:
    (tmp_path / "driver.json").write_text(mark)
    with sole_driver(tmp_path):
        pass
