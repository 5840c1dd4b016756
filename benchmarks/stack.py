"""Time and memory of a step of stacked runs: the shallow GPT with Scion.

    python benchmarks/stack.py --data tinyshakespeare.txt --device cuda --cells 256:36 2048:4
    python benchmarks/stack.py --data tinyshakespeare.txt --cells 64:2 --length 64   # CPU

A cell is WIDTH:RUNS. Each is timed as it is and compiled, the mean of a few steps after the first
three; runs have three seeds. Memory is the allocator's peak, beside what `transfer.stacksize`
expects of the uncompiled stack.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sweeps import load_experiment  # noqa: E402
from sweeps.plan import run_config, with_settings  # noqa: E402
from transfer.config import ComputeConfig, RunConfig  # noqa: E402
from transfer.stack import Stack  # noqa: E402
from transfer.stacksize import bytes_per_run  # noqa: E402

_STEPS = 4
_GIB = 2**30


def runs(options: argparse.Namespace, width: int, number: int) -> list[RunConfig]:
    """Return runs of the preset that differ in stepsize and seed."""
    experiment = load_experiment("shallow-gpt-sign")
    data = replace(experiment.data, path=options.data, sequence_length=options.length)
    experiment = replace(experiment, data=data)
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


def measure(options: argparse.Namespace, width: int, number: int, compiled: bool) -> str:
    """Return a row of the table."""
    cuda = options.device == "cuda"
    compute = ComputeConfig(device=options.device)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    stack = Stack(runs(options, width, number), compute)
    expected = number * bytes_per_run(stack.configs[0], compute) / _GIB
    if compiled:
        stack.program.compile()
    first = _timed(stack.advance, 1, cuda)
    _timed(stack.advance, 2, cuda)
    whole = _timed(stack.advance, _STEPS, cuda)
    rows = slice(0, stack.configs[0].batch_size)
    gradients = stack._gradients(rows)
    stepping = _timed(lambda: stack.stepper.step(gradients, 1.0), _STEPS, cuda)
    held = torch.cuda.max_memory_allocated() / _GIB if cuda else float("nan")
    times = f"{1e3 * whole / number:.2f} | {1e3 * stepping / number:.2f} | {first:.1f}"
    return f"| {width} | {number} | {compiled} | {times} | {held:.1f} | {expected:.1f} |"


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
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cells", nargs="+", default=["256:36", "512:12", "1024:12", "2048:4"])
    parser.add_argument("--length", type=int, default=1024)
    options = parser.parse_args()
    columns = "width runs compiled ms-a-run-and-step optimizer first-step-s GiB expected-GiB"
    print("| " + columns.replace(" ", " | ") + " |")
    print("|---|---|---|---|---|---|---|---|")
    for cell in options.cells:
        width, number = map(int, cell.split(":"))
        for compiled in (False, True):
            print(measure(options, width, number, compiled), flush=True)


if __name__ == "__main__":
    main()
