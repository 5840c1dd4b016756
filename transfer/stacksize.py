"""How many runs go into one stack: as many as the memory holds, and as pays.

On a GPU the whole of its memory may be used. On a CPU stacking pays while the numbers that a step
works on fit its caches: it then saves the time between operations, and beyond that nothing.
"""

from dataclasses import asdict
from functools import partial

import torch

from transfer.config import (
    AdamWConfig,
    ComputeConfig,
    MupAdamWConfig,
    RunConfig,
    ScionConfig,
    canonical_json,
)
from transfer.data import load
from transfer.describe import footprint
from transfer.distributed import current
from transfer.families import Family
from transfer.steppers import WORKSPACE_MB

_CPU_BYTES = 16 * 2**20
"""Working set up to which runs are added to a stack on a CPU; see docs/performance.md."""
_GPU_SHARE = 0.85
"""Share of the free memory of a GPU that a stack may be expected to take."""
_HALF_SHARE = 0.75
"""Activations under autocast to bfloat16, as a share of those in float32: weights, normalisations
and losses stay as they are."""


def most_runs(config: RunConfig, compute: ComputeConfig) -> int:
    """Return how many runs like this one to train as one program, at least 1."""
    if compute.stack_size:
        return compute.stack_size
    budget = _CPU_BYTES
    if compute.device == "cuda":
        free = int(_GPU_SHARE * torch.cuda.mem_get_info()[0]) - bytes_of_stack(config, compute)
        budget = current().least(max(0, free))
    return max(1, budget // bytes_per_run(config, compute))


def bytes_of_stack(config: RunConfig, compute: ComputeConfig) -> int:
    """Return the memory that a stack takes for all of its runs together: its step's workspace."""
    stacked = isinstance(config.optimizer, ScionConfig)
    return int(WORKSPACE_MB[compute.device] * 2**20) if stacked else 0


def bytes_per_run(config: RunConfig, compute: ComputeConfig) -> int:
    """Return the memory that one more run in a stack takes: what training holds at its peak."""
    parameters, activation_bytes = _footprint(config, compute)
    number = 8 if config.precision == "float64" else 4
    adam = isinstance(config.optimizer, (AdamWConfig, MupAdamWConfig))
    # Weights, gradients, averages, and one more copy while the step is made.
    copies = 5 if adam else 4
    share = current().largest_share(config.batch_size)
    examples = min(compute.micro_batch_size or share, share)
    kept = activation_bytes * examples * number / 4
    if config.precision == "bf16":
        kept *= _HALF_SHARE
    return int(copies * number * parameters + kept)


def _footprint(config: RunConfig, compute: ComputeConfig) -> tuple[int, int]:
    """Return the size of a run's model and the bytes it keeps per example; every model once."""
    shape = load(config.data).shape
    parts = [asdict(config.model), config.width, config.depth, asdict(shape), compute.device]
    key = canonical_json(parts)
    if key not in _footprints:
        family = Family(config.model, shape)
        if compute.device == "cpu":
            # Where there is room to train several, there is room for one: quicker than without its
            # numbers, for which torch imports its compiler.
            build = partial(family.build, config.width, config.depth)
            _footprints[key] = footprint(build, shape)
        else:
            described = family.describe(config.width, config.depth)
            _footprints[key] = described.parameters, described.activation_bytes
    return _footprints[key]


_footprints: dict[str, tuple[int, int]] = {}
