"""Worker process of the local runner: jobs come in, answers go out, as lines of JSON.

A job is a list of run configurations. While it works the worker says {"index", "step"} now and
then, at the end {"published"} or {"fatal", "errno"}. Its first line is {"ready"}.

It ends as soon as its standard input closes, so that it never outlives a killed driver.
"""

import json
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TextIO

import numpy as np

from sweeps.table import RunTable, store
from transfer.config import ComputeConfig, DeviceName, RunConfig, run_config_from_dict
from transfer.train import RunRecord, train

Answer = dict[str, object]
_SECONDS_BETWEEN_BEATS = 2.0


@lru_cache
def versions(device: DeviceName = "cpu") -> dict[str, str]:
    """Return the versions, and the device, that a result may depend on."""
    found = {name: metadata.version(name) for name in ("torch", "numpy", "scikit-learn")}
    try:
        found["lmo-transfer"] = metadata.version("lmo-transfer")
    except metadata.PackageNotFoundError:
        found["lmo-transfer"] = "not installed"
    return {**found, "python": platform.python_version(), "device": _device(device)}


def _device(name: DeviceName) -> str:
    import torch

    return torch.cuda.get_device_name() if name == "cuda" else name


def failed(config: RunConfig, error: str, wall_s: float) -> RunRecord:
    """Return the record of a run that raised or crashed."""
    return RunRecord(
        config=config,
        status="failed",
        stopped_step=0,
        val_loss=None,
        val_accuracy=None,
        initial_loss=None,
        train_loss=None,
        error=error,
        wall_s=wall_s,
        curve=np.zeros(0, dtype=np.float32),
    )


def train_safely(
    config: RunConfig,
    folder: Path,
    on_step: Callable[[int], None] | None = None,
    compute: ComputeConfig | None = None,
) -> RunRecord:
    """Train a run; an exception becomes a failed record, its traceback goes to stderr."""
    started = time.monotonic()
    checkpoint = folder / "checkpoints" / f"{config.run_id}.pt"
    try:
        return train(config, compute, checkpoint=checkpoint, on_step=on_step)
    except OSError:
        raise  # the folder is at fault, not the run
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        if not isinstance(error, ValueError):
            traceback.print_exc()
        return failed(config, text, time.monotonic() - started)


def work(
    table: RunTable,
    configs: list[RunConfig],
    say: Callable[[Answer], None],
    compute: ComputeConfig | None = None,
) -> None:
    """Train the runs and publish them together."""
    compute = compute or ComputeConfig()
    records = [
        train_safely(config, table.folder.parent, _heartbeat(index, say), compute)
        for index, config in enumerate(configs)
    ]
    curves = {r.config.run_id: r.curve for r in records if len(r.curve)}
    table.publish([store(record, versions(compute.device)) for record in records], curves)


def _heartbeat(index: int, say: Callable[[Answer], None]) -> Callable[[int], None]:
    """Tell the driver every few seconds how far the run at `index` of its job is."""
    last = time.monotonic()

    def beat(step: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_BEATS:
            last = time.monotonic()
            say({"index": index, "step": step})

    return beat


def _read_lines(lines: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # the driver is gone, whatever the main thread is doing


def _claim_stdout() -> TextIO:
    """Keep the answer channel to ourselves; whatever libraries print goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def main() -> None:
    """Serve until standard input closes."""
    import torch

    channel = _claim_stdout()

    def say(answer: Answer) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
    torch.set_num_threads(1)
    table = RunTable(Path(sys.argv[1]))
    compute = ComputeConfig(**json.loads(sys.argv[2]))
    say({"ready": True})
    while True:
        configs = [run_config_from_dict(data) for data in json.loads(lines.get())]
        try:
            work(table, configs, say, compute)
            say({"published": len(configs)})
        except OSError as error:
            say({"fatal": error.strerror or str(error), "errno": error.errno or 0})


if __name__ == "__main__":
    main()
