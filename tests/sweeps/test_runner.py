"""The local runner: real worker processes that are killed, crash, and must not take over."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sweeps.loop import complete
from sweeps.plan import run_config
from sweeps.progress import Reporter
from sweeps.runner import LocalRunner
from sweeps.study import Study
from sweeps.table import RunTable
from tests.helpers import (
    InlineRunner,
    contents,
    processes_of,
    tiny_experiment,
    wait_until,
)
from transfer.config import RunConfig

# Python runs this in every worker before its own code: seeds above 100 mean mischief.
MISCHIEF = """
import os, signal, sys, time
if "sweeps.worker" in " ".join(sys.orig_argv):
    import transfer.train as module
    real = module.train_stack
    def train_stack(configs, *compute, **rest):
        seeds = [config.seed for config in configs]
        if 101 in seeds:
            os.kill(os.getpid(), signal.SIGSEGV)
        if 102 in seeds:
            os._exit(7)
        if 103 in seeds:
            raise RuntimeError("mischief\\nand more")
        for seed in seeds:
            if seed >= 200:
                folder = os.environ["MISCHIEF"]
                open(f"{folder}/started-{seed}-{os.getpid()}", "w").close()
                while not os.path.exists(f"{folder}/go"):
                    time.sleep(0.01)
        return real(configs, *compute, **rest)
    module.train_stack = train_stack
"""


@pytest.fixture
def mischief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mischief"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(MISCHIEF)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("MISCHIEF", str(folder))
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Iterator[RunTable]:
    folder = tmp_path / "study"
    yield RunTable(folder)
    wait_until(lambda: not processes_of(folder), 15, "the workers have ended")


def config(seed: int) -> RunConfig:
    experiment = tiny_experiment()
    optimizer = experiment.arms["scion"].optimizer
    return run_config(experiment, "scion", optimizer, size=4, seed=seed)


def statuses(table: RunTable) -> dict[int, str]:
    return {row.config["seed"]: row.status for row in table.read().values()}


# --- same bits -------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_bits_whatever_the_workers_and_the_order(tmp_path: Path) -> None:
    wanted: dict[str, str] = {}
    experiment = tiny_experiment()
    for name, workers in (("inline", 0), ("one", 1), ("two", 2)):
        study = Study.create(tmp_path / name, experiment)
        if not workers:
            complete(study, InlineRunner(), Reporter())
        else:
            with LocalRunner(workers) as runner:
                complete(study, runner, Reporter())
        wanted[name] = contents(study.table)
    assert len(set(wanted.values())) == 1

    class Backwards(InlineRunner):
        def run(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
            super().run(table, configs[::-1], reporter)

    study = Study.create(tmp_path / "backwards", experiment)
    complete(study, Backwards(), Reporter())
    assert contents(study.table) == wanted["one"]
    wait_until(lambda: not processes_of(tmp_path), 15, "the workers have ended")


# --- crashes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_that_crash_or_raise_do_not_stop_the_others(table: RunTable, mischief: Path) -> None:
    """All 16 are one stack of one worker: the guilty are found one by one."""
    configs = [config(seed) for seed in (101, 102, 103, *range(3, 16))]
    with LocalRunner(1) as runner:
        runner.run(table, configs, Reporter())
    rows = {row.config["seed"]: row for row in table.read().values()}
    assert len(rows) == len(configs) and table.problems == []
    assert rows[101].status == "failed" and f"signal {signal.SIGSEGV:d}" in (rows[101].error or "")
    assert rows[102].status == "failed" and "exit code 7" in (rows[102].error or "")
    assert rows[103].status == "failed" and rows[103].error == "RuntimeError: mischief"
    assert rows[101].val_loss is None and rows[103].val_loss is None
    assert {rows[seed].status for seed in range(3, 16)} == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [4, 1])
def test_worker_killed_from_outside(table: RunTable, mischief: Path, chunk: int) -> None:
    """Once, as a full memory would: the runs are tried again alone and nothing is lost."""
    configs = [config(200), *(config(seed) for seed in range(3, 18))][: 16 if chunk == 4 else 2]

    def kill() -> None:
        wait_until(lambda: any(mischief.glob("started-200-*")), 30, "the run has started")
        (started,) = mischief.glob("started-200-*")
        os.kill(int(started.name.rsplit("-", 1)[1]), signal.SIGKILL)
        (mischief / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    with LocalRunner(1) as runner:
        runner.run(table, configs, Reporter())
    killer.join()
    rows = table.read()
    assert len(rows) == len(configs)
    assert {r.status for r in rows.values()} == {"done"}, [r.error for r in rows.values()]


@pytest.mark.slow
def test_worker_that_is_always_killed(table: RunTable, mischief: Path) -> None:
    """Whoever kills it does so again when it is tried alone: failed, and the signal is named."""
    killed: list[int] = []
    finished = threading.Event()

    def kill() -> None:
        while not finished.wait(0.01):
            for path in mischief.glob("started-200-*"):
                pid = int(path.name.rsplit("-", 1)[1])
                if pid not in killed:
                    killed.append(pid)
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with LocalRunner(1) as runner:
            runner.run(table, [config(200), config(3)], Reporter())
    finally:
        finished.set()
        killer.join()
    rows = {row.config["seed"]: row for row in table.read().values()}
    assert rows[200].status == "failed" and "signal 9" in (rows[200].error or "")
    assert rows[3].status == "done"
    assert len(killed) >= 2, "the run was not tried a second time, alone"


@pytest.mark.slow
def test_closing_while_runs_are_trained(table: RunTable, mischief: Path) -> None:
    """As Ctrl-C does: what was not published is no failure, and no worker is started again."""
    importlib.import_module("sweeps.worker")  # as in a driver with torch: its threads are quick

    configs = [config(seed) for seed in (200, 201, 202)]
    runner = LocalRunner(1)

    def wait() -> None:
        with contextlib.suppress(Exception):  # it may say that it was closed
            runner.run(table, configs, Reporter())

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    wait_until(lambda: any(mischief.glob("started-*")), 30, "a run has started")
    runner.close()
    os.sync()
    threading.Event().wait(1.0)
    left = processes_of(table.folder.parent)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert statuses(table) == {}, "an interrupted run is recorded as failed"
    assert left == [], "a worker was started after closing"


@pytest.mark.slow
def test_a_full_disk_is_told(
    table: RunTable, mischief: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`records` is a file: nothing can be written, and that is no fault of the runs."""
    table.folder.parent.mkdir()
    table.folder.write_text("in the way")
    with LocalRunner(1) as runner, pytest.raises(OSError, match="(?i)file exists|not a directory"):
        runner.run(table, [config(3)], Reporter())


# --- isolation -------------------------------------------------------------------------------

DRIVER = """
import os, sys
from pathlib import Path
from sweeps.runner import LocalRunner
from sweeps.progress import Reporter
from sweeps.table import RunTable
from tests.helpers import processes_of, tiny_experiment
from sweeps.plan import run_config
folder = Path(sys.argv[1])
experiment = tiny_experiment()
run = run_config(experiment, "scion", experiment.arms["scion"].optimizer, size=4, seed=1)
with LocalRunner(1) as runner:
    table = RunTable(folder)
    runner.run(table, [run], Reporter())
    (worker,) = set(processes_of(folder)) - {os.getpid()}
    safe = b"PYTHONSAFEPATH=1" in Path(f"/proc/{worker}/environ").read_bytes().split(b"\\0")
    (row,) = table.read().values()
    print(row.status, row.error, safe, os.getcwd())
    sys.stdout.flush()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_working_directory_with_packages_of_the_same_names(tmp_path: Path) -> None:
    """And the worker ends by itself when its driver is killed."""
    hostile = tmp_path / "hostile"
    for name in ("analysis.py", "torch.py", "numpy.py", "json.py"):
        (hostile / name).parent.mkdir(exist_ok=True)
        (hostile / name).write_text("raise SystemExit('the wrong module')")
    for name in ("transfer", "launch", "sweeps"):
        (hostile / name).mkdir()
        (hostile / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    (tmp_path / "driver.py").write_text(DRIVER)
    root = str(Path(__file__).resolve().parents[2])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = root
    program = [sys.executable, "-P", str(tmp_path / "driver.py"), str(tmp_path / "study")]
    done = subprocess.run(
        program,
        cwd=hostile,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["done", "None", "True", str(hostile)], done.stderr
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not processes_of(tmp_path / "study"), 15, "the worker has ended by itself")
    assert done.stderr == ""
