"""The whole loop, killed at many instants and started again, ends as an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from sweeps.frame import CIRCUMSTANCES
from sweeps.study import Study
from tests.helpers import contents, processes_of, study_frame, tiny_dict, toml_of, wait_until

pytestmark = pytest.mark.slow
SEED = 20250
CHANGES = {
    "train.steps": 6,
    "tune.trials": 12,
    "tune.batch": 3,
    "arms.scion.octaves_below": 3,
    "sweep.seeds": [1, 2],
    "sweep.widths": [4, 8, 12],
    # Small stacks: in large ones all is done before anything could be killed.
    "compute.stack_size": 2,
}
COMMAND = [sys.executable, "-m", "lmo_transfer"]
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# The same stages without worker processes and without figures: a life takes a second less. It ends
# itself before the change of a file that it was told; `last` 0 lets it finish and say how many
# changes it made.
NURSERY = """
import os, signal, sys
from pathlib import Path
import optuna, pandas, torch, torch._dynamo, sweeps.worker, transfer.train
import sweeps
from tests.helpers import InlineRunner
experiment = sweeps.load_experiment(sys.argv[1])
torch.set_num_threads(1)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.link", "os.symlink", "os.truncate"}
count = last = 0
def watch(event, arguments):
    global count
    if event in CHANGES or event == "open" and arguments[2] & WRITING:
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
for line in sys.stdin:
    folder, last = line.split()[0], int(line.split()[1])
    child = os.fork()
    if child == 0:
        sys.addaudithook(watch)
        sweeps.run(experiment, Path(folder), runner=InlineRunner())
        print(count, flush=True)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        print(code, flush=True)
"""


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "tiny.toml"
    path.write_text(toml_of(tiny_dict(CHANGES)), "utf-8")
    return path


def start(toml: Path, folder: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, "sweep", str(toml), "--study", str(folder), "--workers", "1", *options],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a command that must succeed."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def num_records(folder: Path) -> int:
    return len(list((folder / "records").glob("*/*.jsonl"))) if folder.exists() else 0


def everything(folder: Path) -> str:
    """Return all bits of the runs in the plan, without circumstances."""
    study = Study.open(folder)
    assert {row.status for row in study.table.read().values()} == {"done"}, "a kill is no failure"
    return contents(study.table)


@pytest.fixture(scope="module")
def undisturbed(
    toml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, float, float]]:
    """A finished study, the seconds until its first record, and those after it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    began = time.monotonic()
    process = start(toml, folder)
    wait_until(lambda: num_records(folder) > 0, 60, "the first record")
    first = time.monotonic()
    finish(process)
    yield folder, first - began, time.monotonic() - first


def require_equal(folder: Path, undisturbed: Path) -> None:
    wanted, got = (Path(f) / "results" / "runs.csv" for f in (undisturbed, folder))
    drop = list(CIRCUMSTANCES)
    frames = [pd.read_csv(path).drop(columns=drop) for path in (wanted, got)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)
    assert everything(folder) == everything(undisturbed), "not the same runs, bit for bit"
    pd.testing.assert_frame_equal(
        study_frame_without_check(folder), study_frame_without_check(undisturbed), check_exact=True
    )


def study_frame_without_check(folder: Path) -> pd.DataFrame:
    from launch.pipeline import finished

    return finished(Study.open(folder)).frame.drop(columns=list(CIRCUMSTANCES))


def test_killed_twenty_times(
    toml: Path, undisturbed: tuple[Path, float, float], tmp_path: Path
) -> None:
    """Some instants lie before the first record of a life, some in the work after it."""
    reference, start_s, work_s = undisturbed
    folder, chance = tmp_path / "study", random.Random(SEED)
    lives: list[str] = []
    for number in range(20):
        process = start(toml, folder)
        if number % 3 == 1:
            known = num_records(folder)
            wait_until(
                lambda p=process, k=known: num_records(folder) > k or p.poll() is not None,
                60,
                "another record",
            )
            time.sleep(chance.uniform(0, work_s / 6))
        else:
            time.sleep(chance.uniform(0, 0.5 * start_s))
        process.kill()
        output, _ = process.communicate(timeout=30)
        lives.append(f"{num_records(folder)} records, {output.splitlines()[-1:]}")
        if number % 5 == 4:
            wait_until(lambda: not processes_of(folder), 20, "the workers have ended")
    grown = [int(life.split()[0]) for life in lives]
    assert len(set(grown)) > 4, f"the kills missed the work: {lives}"
    began = time.monotonic()
    output = finish(start(toml, folder))
    assert time.monotonic() - began < 3 * (start_s + work_s) + 15, "something was waited for"
    assert "damaged" not in output and "two different" not in output, output
    require_equal(folder, reference)
    wait_until(lambda: not processes_of(folder), 20, "the workers have ended")


def test_killed_forty_times_without_workers(
    toml: Path, undisturbed: tuple[Path, float, float], tmp_path: Path
) -> None:
    """Cheap lives in a forked process, each ended before one of the changes it makes to files."""
    folder, chance = tmp_path / "study", random.Random(SEED + 1)
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(toml)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert nursery.stdin is not None and nursery.stdout is not None

    def live(target: Path, last: int) -> int:
        """Return the number of changes of a life that finished, minus the signal of another."""
        print(target, last, file=nursery.stdin, flush=True)
        return int(nursery.stdout.readline())

    try:
        whole = live(tmp_path / "whole", 0)
        ends = [live(folder, chance.randint(1, whole // 8)) for _ in range(40)]
        assert ends.count(-signal.SIGKILL) > 20, "most lives came too late"
        assert 0 < live(folder, 0) < whole / 2, "the kills lie in a small part of the work"
    finally:
        nursery.stdin.close()
        assert nursery.wait(30) == 0
        nursery.stdout.close()
    assert everything(folder) == everything(tmp_path / "whole")
    assert study_frame(Study.open(folder)).equals(study_frame(Study.open(tmp_path / "whole")))
    mine, theirs = (study_frame_without_check(f) for f in (folder, undisturbed[0]))
    shared = mine["purpose"] != "check"
    pd.testing.assert_frame_equal(
        mine[shared].reset_index(drop=True),
        theirs[theirs["purpose"] != "check"].reset_index(drop=True),
    )


@pytest.mark.parametrize(
    ("when", "whom"), [("starting", "group"), ("working", "driver"), ("working", "group")]
)
def test_interrupted_from_the_keyboard(
    toml: Path, undisturbed: tuple[Path, float, float], tmp_path: Path, when: str, whom: str
) -> None:
    """Ctrl-C reaches the whole group; `kill -INT` the driver alone."""
    reference, start_s, _ = undisturbed
    folder = tmp_path / "study"
    process = start(toml, folder)
    if when == "working":
        wait_until(lambda: num_records(folder) > 2, 60, "a record")
    else:
        wait_until(
            lambda: bool(processes_of(folder)) and len(processes_of(folder)) > 1, 60, "a worker"
        )
        time.sleep(0.2)
    (os.kill if whom == "driver" else os.killpg)(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    last = output.strip().splitlines()[-1]
    assert "lmo-transfer resume" in last and str(folder) in last, output
    assert "Traceback" not in output, output
    wait_until(lambda: not processes_of(folder), 20, "the workers have ended")
    failed = [r.error for r in Study.open(folder).table.read().values() if r.status == "failed"]
    assert failed == [], "an interrupted run is no failed run"
    if (when, whom) == ("working", "group"):
        finish(start(toml, folder))
        require_equal(folder, reference)
