"""Time and memory of a step of stacked runs: the shallow GPT with Scion.

    python benchmarks/stack.py --data tinyshakespeare.txt --device cuda --cells 256:36 2048:4
    python benchmarks/stack.py --data tinyshakespeare.txt --cells 64:2 --length 64   # CPU
    python benchmarks/stack.py ... --device cuda --uncompiled --processes 2          # two GPUs

A cell is WIDTH:RUNS, timed as it is and compiled; processes share every batch, each on a GPU
of its own. Times are the mean of a few steps after the first three; runs have three seeds. TFLOP/s
are those of the model as `transfer.describe` counts them, over the time of the whole step. Memory
is the allocator's peak, beside what `transfer.stacksize` expects of the uncompiled stack, both of
the first process. With --json NAME rows are kept in benchmarks/results/NAME.json.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import facts, keep  # noqa: E402

from sweeps import load_experiment  # noqa: E402
from sweeps.plan import run_config, with_settings  # noqa: E402
from transfer.config import ComputeConfig, RunConfig  # noqa: E402
from transfer.distributed import current, joined  # noqa: E402
from transfer.families import Family  # noqa: E402
from transfer.stack import Stack  # noqa: E402
from transfer.stacksize import bytes_of_stack, bytes_per_run  # noqa: E402

_STEPS = 4
_GIB = 2**30


def runs(options: argparse.Namespace, width: int, number: int) -> list[RunConfig]:
    """Return runs of the preset that differ in stepsize and seed."""
    experiment = load_experiment("shallow-gpt-sign")
    data = replace(experiment.data, path=options.data, sequence_length=options.length)
    train = replace(experiment.train, depth=options.depth or experiment.train.depth)
    experiment = replace(experiment, data=data, train=train)
    given = experiment.arms["unconstrained"].optimizer
    return [
        run_config(
            experiment,
            "unconstrained",
            with_settings(given, {"stepsize": 2.0 ** -(5 + index / 6)}),
            size=width,
            seed=1 + index % 3,
        )
        for index in range(number)
    ]


def measure(
    options: argparse.Namespace, width: int, number: int, compiled: bool
) -> dict[str, float | bool]:
    """Return a row of the table."""
    cuda = options.device == "cuda"
    compute = ComputeConfig(device=options.device)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    stack = Stack(runs(options, width, number), compute)
    one = stack.configs[0]
    expected = (number * bytes_per_run(one, compute) + bytes_of_stack(one, compute)) / _GIB
    if compiled:
        stack.program.compile()
    first = _timed(stack.advance, 1, cuda)
    _timed(stack.advance, 2, cuda)
    whole = _timed(stack.advance, _STEPS, cuda)
    gradients = stack._gradients(stack.rows)
    stepping = _timed(lambda: stack.stepper.step(gradients, 1.0), _STEPS, cuda)
    adding = _timed(lambda: stack.team.add_up([*gradients.values()]), _STEPS, cuda)
    held = torch.cuda.max_memory_allocated() / _GIB if cuda else float("nan")
    config, shape = stack.configs[0], stack.data.shape
    found = Family(config.model, shape).describe(width, config.depth)
    flops = found.flops * config.batch_size * shape.positions * number
    return {
        "width": width,
        "depth": config.depth,
        "runs": number,
        "processes": stack.team.size,
        "compiled": compiled,
        "ms a run and step": round(1e3 * whole / number, 2),
        "TFLOP/s": round(flops / whole / 1e12, 1),
        "of it the optimizer": round(1e3 * stepping / number, 2),
        "and the sums": round(1e3 * adding / number, 2),
        "first step, s": round(first, 1),
        "GiB": round(held, 1),
        "GiB expected": round(expected, 1),
    }


def _timed(work: Callable[[], None], times: int, cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    started = time.monotonic()
    for _ in range(times):
        work()
    if cuda:
        torch.cuda.synchronize()
    return (time.monotonic() - started) / times


def main() -> None:
    """Print a table, from one process or from several."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cells", nargs="+", default=["256:36", "512:12", "1024:12", "2048:4"])
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--uncompiled", action="store_true", help="do not compile")
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    parser.add_argument("--depth", type=int, help="the preset's without it")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.processes == 1:
        table(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        given = (options, f"{folder}/store")
        torch.multiprocessing.spawn(member, given, options.processes)  # type: ignore[attr-defined]


def member(rank: int, options: argparse.Namespace, meeting_place: str) -> None:
    """Measure as one of several processes."""
    device = torch.device(options.device, rank if options.device == "cuda" else None)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = torch.distributed.FileStore(meeting_place, options.processes)
    with joined(rank, options.processes, device, store=store):
        table(options)


def table(options: argparse.Namespace) -> None:
    """Measure every cell; the first process prints and keeps the rows."""
    rows: list[dict[str, float | bool]] = []
    for cell in options.cells:
        width, number = map(int, cell.split(":"))
        for compiled in (False,) if options.uncompiled else (False, True):
            rows.append(measure(options, width, number, compiled))
            if not current().first:
                continue
            if len(rows) == 1:
                print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
            print("| " + " | ".join(map(str, rows[-1].values())) + " |", flush=True)
    if options.json and current().first:
        keep(options.json, {**facts(options.device), "rows": rows})


if __name__ == "__main__":
    main()
