"""Training of runs, from their configurations to their records."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from transfer import compiling
from transfer import stack as stacks
from transfer.checkpoint import (
    Interval,
    is_asked_for,
    load_checkpoint,
    save_checkpoint,
    saved,
)
from transfer.compiling import Pace
from transfer.config import ComputeConfig, RunConfig
from transfer.distributed import Team, current
from transfer.stack import Stack

Status = Literal["done", "diverged", "failed"]

# Losses are looked at this often: on a GPU every look waits for the device.
_STEPS_BETWEEN_LOOKS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What one run gave. Losses are in nats; None where the number does not exist."""

    config: RunConfig
    status: Status
    stopped_step: int
    """Steps done; for a diverged run, the step of its first non-finite loss, or all of them."""
    val_loss: float | None
    val_accuracy: float | None
    initial_loss: float | None
    """Validation loss before the first step."""
    train_loss: float | None
    """Training loss of the last batch, before its step."""
    error: str | None
    wall_s: float
    """The run's share of the time of its stack."""
    stack_size: int = 1
    """Runs trained as one program with it, itself included."""
    compile_s: float = 0.0
    """Its share of the time for compiling, which is not in `wall_s`."""
    curve: NDArray[np.float32]
    """Training loss of every step done, shape (stopped_step,) or one more if that is not finite."""


def train(
    config: RunConfig,
    compute: ComputeConfig | None = None,
    *,
    checkpoint: Path | None = None,
    checkpoint_every_s: float | None = None,
    on_step: Callable[[int], None] | None = None,
    on_note: Callable[[str], None] = warnings.warn,
) -> RunRecord:
    """Train one run and return its record.

    Args:
        config: What to train.
        compute: Where, and how many examples at once; by default on the CPU, whole batches.
        checkpoint: File that is written from time to time and, if it holds this run, resumed from
            with the same result; removed at the end.
        checkpoint_every_s: Seconds between checkpoints; None: as `checkpoint.Interval`.
        on_step: Called after every step with the number of steps done.
        on_note: Called with one line if the model cannot be compiled; by default a warning.

    Raises:
        ValueError: the configuration does not fit the model, the data or the device.
    """
    files = None if checkpoint is None else {config.run_id: checkpoint}
    (record,) = train_stack(
        [config],
        compute,
        checkpoints=files,
        checkpoint_every_s=checkpoint_every_s,
        on_step=on_step,
        on_note=on_note,
    )
    return record


def train_stack(
    configs: Sequence[RunConfig],
    compute: ComputeConfig | None = None,
    *,
    checkpoints: dict[str, Path] | None = None,
    checkpoint_every_s: float | None = None,
    on_step: Callable[[int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[RunRecord]:
    """Train runs of one `stack_key` as one program and return their records in their order.

    On the CPU with one thread every record is the same, bit for bit, as that of the run alone; on
    other devices equal to rounding in every step. Runs that diverge leave the stack.

    Processes of one `transfer.distributed.Team` call this alike and get the same records; the first
    one alone writes checkpoints, takes their time and has notes.

    Args:
        configs: What to train; different runs.
        compute: As for `train`.
        checkpoints: A file for each run, by run id; as for `train`, whatever stack wrote it.
        checkpoint_every_s: As for `train`.
        on_step: As for `train`; runs that resume from different steps are trained one step's runs
            after the other's.
        on_note: Called with one line if the runs cannot go through the model as one call, or cannot
            be compiled.

    Raises:
        ValueError: as `train`, or the runs do not belong together.
    """
    started, team = time.monotonic(), current()
    compute = compute or ComputeConfig()
    pace = Pace(compute.compile, on_note if team.first else None)
    try:
        with team.alike():
            found = _train_all(
                configs, compute, pace, checkpoints or {}, checkpoint_every_s, on_step
            )
    except Exception:
        if team.size > 1:
            stacks.forget()
            compiling.forget()
        raise
    number, compile_s = len(configs), pace.compile_s
    wall_s = time.monotonic() - started - compile_s
    return [
        replace(
            found[config.run_id],
            wall_s=wall_s / number,
            compile_s=compile_s / number,
            stack_size=number,
        )
        for config in configs
    ]


def _train_all(
    configs: Sequence[RunConfig],
    compute: ComputeConfig,
    pace: Pace,
    files: dict[str, Path],
    checkpoint_every_s: float | None,
    on_step: Callable[[int], None] | None,
) -> dict[str, RunRecord]:
    """Train runs, those of one step as one program, and return the records by run id."""
    device, team = torch.device(compute.device), current()
    states = _states(files, device, team)
    by_step: dict[int, list[RunConfig]] = {}
    for config in configs:
        step = states[config.run_id]["step"] if config.run_id in states else 0
        by_step.setdefault(step, []).append(config)
    found: dict[str, RunRecord] = {}
    for step, part in by_step.items():
        stack = Stack(part, compute)
        if stack.alone is not None and len(configs) > 1 and pace.on_note is not None:
            pace.on_note(f"the runs of this model are trained one at a time: {stack.alone}")
        try:
            if step:
                stack.load([states[config.run_id] for config in part])
            found |= _carry_on(stack, pace, files, checkpoint_every_s, on_step)
        finally:
            stack.data.close()
            del stack
            if device.type == "cuda":
                # Who plans the next stack, in another process, sees what is free.
                torch.cuda.empty_cache()
    if team.first:
        for path in files.values():
            path.unlink(missing_ok=True)
    return found


def _states(files: dict[str, Path], device: torch.device, team: Team) -> dict[str, dict[str, Any]]:
    """Return the states of the runs that have a checkpoint, the same in all processes."""
    saved = {run_id: load_checkpoint(path, run_id, device) for run_id, path in files.items()}
    states = {run_id: state for run_id, state in saved.items() if state is not None}
    # A file that some process does not see, or sees an older one of, is of no use to the others.
    seen = team.everybodys({run_id: int(state["step"]) for run_id, state in states.items()})
    return {
        run_id: state
        for run_id, state in states.items()
        if all(steps.get(run_id) == state["step"] for steps in seen)
    }


def _carry_on(
    stack: Stack,
    pace: Pace,
    files: dict[str, Path],
    checkpoint_every_s: float | None,
    on_step: Callable[[int], None] | None,
) -> dict[str, RunRecord]:
    """Train a stack to its end and return the records by run id."""
    ended: dict[str, RunRecord] = {}
    steps, interval = stack.configs[0].steps, Interval(checkpoint_every_s, stack.num_bytes)
    while stack.step < steps:
        if stack.step % _STEPS_BETWEEN_LOOKS == 0 and not _part_with_broken(stack, pace, ended):
            return ended
        pace.advance(stack)
        if on_step is not None:
            on_step(stack.step)
        asked = is_asked_for()
        if files and stack.team.first and (asked or interval.is_over()):
            began = time.monotonic()
            for run, config in enumerate(stack.configs):
                if config.run_id not in ended:
                    save_checkpoint(files[config.run_id], stack.state(run))
            interval.restart(time.monotonic() - began)
        if asked:
            saved()
    judged = stack.validate()
    for run, (config, stopped) in enumerate(zip(stack.configs, stack.finite_steps(), strict=True)):
        if config.run_id not in ended:
            whole = stopped == stack.step
            ended[config.run_id] = _record(stack, run, stopped, judged[run] if whole else None)
    return ended


def _part_with_broken(stack: Stack, pace: Pace, ended: dict[str, RunRecord]) -> bool:
    """Record the runs whose loss is no longer finite; return whether others are left.

    What is recorded does not change any more, so it matters to no result when a run leaves.
    """
    left = []
    for run, stopped in enumerate(stack.finite_steps()):
        run_id = stack.configs[run].run_id
        if stopped < stack.step and run_id not in ended:
            ended[run_id] = _record(stack, run, stopped, None)
        elif run_id not in ended:
            left.append(run)
    # A compiled program is made for one number of runs: it is left only for far fewer.
    most = len(stack.configs) // 3 if stack.program.compiled else len(stack.configs) - 1
    if left and stack.team.told(len(left) <= most):
        stack.keep(left)
        pace.restart()
    return bool(left)


def _record(stack: Stack, run: int, stopped: int, judged: tuple[float, float] | None) -> RunRecord:
    """Summarise a run that has ended; `judged` is its validation, unless its loss broke."""
    val_loss, accuracy = judged or (math.nan, math.nan)
    initial, _ = stack.initial[run]
    # A finite loss that ends above where it began is no result either.
    diverged = not math.isfinite(val_loss) or val_loss > initial
    curve = stack.losses[run, : min(stopped + 1, stack.step)].cpu().numpy().copy()
    return RunRecord(
        config=stack.configs[run],
        status="diverged" if diverged else "done",
        stopped_step=stopped,
        val_loss=_number(val_loss),
        val_accuracy=_number(accuracy),
        initial_loss=_number(initial),
        train_loss=_number(float(curve[-1])),
        error=None,
        wall_s=0.0,
        curve=curve,
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
