"""Worker process of the local runner: jobs come in, answers go out, as lines of JSON.

A job is a list of run configurations; those that can are trained as one program. While it works
the worker says {"index", "step"} now and then, {"note"} if there is something to be known, at the
end {"published"} or {"fatal", "errno"}. Its first line is {"ready"}.

It ends as soon as its standard input closes, so that it never outlives a killed driver.
"""

import importlib
import json
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TextIO

import numpy as np

from sweeps.table import RunTable, store
from transfer.config import (
    ComputeConfig,
    DeviceName,
    RunConfig,
    run_config_from_dict,
    stack_key,
)
from transfer.distributed import current
from transfer.memory import is_out_of_memory
from transfer.train import RunRecord, train_stack

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
    configs: Sequence[RunConfig],
    folder: Path,
    on_step: Callable[[int], None] | None = None,
    compute: ComputeConfig | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[RunRecord]:
    """Train the runs of a stack; what goes wrong with one of them is no matter to the others.

    A stack that does not fit the memory is halved, and so are later ones of its kind, before they
    are tried; one that fails otherwise is trained one by one. An exception of a single run becomes
    a failed record, its traceback goes to stderr.
    """
    kind = stack_key(configs[0])
    size = min(len(configs), _fits.get(kind, len(configs)))
    if size == len(configs):
        started = time.monotonic()
        files = {c.run_id: folder / "checkpoints" / f"{c.run_id}.pt" for c in configs}
        try:
            return train_stack(
                configs, compute, checkpoints=files, on_step=on_step, on_note=on_note
            )
        except OSError:
            raise  # the folder is at fault, not the run
        except Exception as error:
            if len(configs) == 1:
                text = f"{type(error).__name__}: {error}".splitlines()[0]
                if not isinstance(error, ValueError):
                    traceback.print_exc()
                return [failed(configs[0], text, time.monotonic() - started)]
            size = 1
            if is_out_of_memory(error):
                size = _fits[kind] = (len(configs) + 1) // 2
                if on_note is not None:
                    on_note(f"{len(configs)} runs do not fit the memory together, now {size} do")
    # Outside of the handler: the traceback would keep what the stack had allocated.
    parts = [configs[start : start + size] for start in range(0, len(configs), size)]
    return [
        record for part in parts for record in train_safely(part, folder, on_step, compute, on_note)
    ]


_fits: dict[str, int] = {}
"""Most runs to try of a kind of which a larger stack did not fit; as long as this process lives,
because what else was in the memory then may be gone later."""


def work(
    table: RunTable,
    configs: Sequence[RunConfig],
    say: Callable[[Answer], None],
    compute: ComputeConfig | None = None,
) -> None:
    """Train the runs, in as few stacks as they allow, and publish them together.

    Of several processes that train together the first one speaks and publishes.
    """
    compute, team = compute or ComputeConfig(), current()
    if not team.first:
        say = _silent
    stacks: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        stacks.setdefault(stack_key(config), []).append(index)
    records = []
    for indices in stacks.values():
        beat = _heartbeat(indices[0], say)
        part = [configs[index] for index in indices]
        records += train_safely(
            part, table.folder.parent, beat, compute, lambda text: say({"note": text})
        )
    with team.alike():
        if team.first:
            curves = {r.config.run_id: r.curve for r in records if len(r.curve)}
            table.publish([store(record, versions(compute.device)) for record in records], curves)


def _silent(_: Answer) -> None:
    return


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
    if compute.device == "cuda" and compute.compile != "never":
        # As slow to import as torch; the driver is still planning what the first job is.
        importlib.import_module("torch._inductor.compile_fx")
    while True:
        configs = [run_config_from_dict(data) for data in json.loads(lines.get())]
        try:
            work(table, configs, say, compute)
            say({"published": len(configs)})
        except OSError as error:
            say({"fatal": error.strerror or str(error), "errno": error.errno or 0})


if __name__ == "__main__":
    main()
