"""How many runs go into one stack: as many as the memory holds, and as pays.

On a GPU the whole of its memory may be used. On a CPU stacking pays while the numbers that a step
works on fit its caches: it then saves the time between operations, and beyond that nothing.
"""

from dataclasses import asdict

import torch

from transfer.config import AdamWConfig, ComputeConfig, MupAdamWConfig, RunConfig, canonical_json
from transfer.data import load
from transfer.describe import Description
from transfer.families import Family

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
        budget = int(_GPU_SHARE * torch.cuda.mem_get_info()[0])
    return max(1, budget // bytes_per_run(config, compute))


def bytes_per_run(config: RunConfig, compute: ComputeConfig) -> int:
    """Return the memory that one more run in a stack takes: what training holds at its peak."""
    described = _described(config)
    number = 8 if config.precision == "float64" else 4
    adam = isinstance(config.optimizer, (AdamWConfig, MupAdamWConfig))
    # Weights, gradients, averages, and one more copy while the step is made.
    copies = 5 if adam else 4
    examples = min(compute.micro_batch_size or config.batch_size, config.batch_size)
    kept = described.activation_bytes * examples * number / 4
    if config.precision == "bf16":
        kept *= _HALF_SHARE
    return int(copies * number * described.parameters + kept)


def _described(config: RunConfig) -> Description:
    """Describe the model of a run; every model once."""
    shape = load(config.data).shape
    key = canonical_json([asdict(config.model), config.width, config.depth, asdict(shape)])
    if key not in _descriptions:
        family = Family(config.model, shape)
        _descriptions[key] = family.describe(config.width, config.depth)
    return _descriptions[key]


_descriptions: dict[str, Description] = {}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
