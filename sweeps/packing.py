"""How runs are put together into jobs: a job is a stack."""

from collections.abc import Callable, Sequence
from math import ceil

from transfer.config import RunConfig, stack_key

Size = tuple[int, ...]


def pack(
    configs: Sequence[RunConfig], workers: int, most: Callable[[RunConfig], int]
) -> list[list[RunConfig]]:
    """Cut runs into jobs, the largest models first: the end of the queue then fills the gaps.

    Runs of a job have one `stack_key`, and those of one seed stand together, as they share their
    batches.

    Args:
        configs: What to train.
        workers: How many jobs are worked on at a time.
        most: Returns how many runs like one go into a job.
    """
    kinds: dict[str, list[RunConfig]] = {}
    for config in sorted(configs, key=lambda config: config.seed):
        kinds.setdefault(stack_key(config), []).append(config)
    fair = _fair(len(configs), workers)
    jobs = []
    for runs in kinds.values():
        number = ceil(len(runs) / max(1, min(most(runs[0]), fair)))
        size = ceil(len(runs) / number)  # jobs of one kind are alike
        jobs += [runs[start : start + size] for start in range(0, len(runs), size)]
    return sorted(jobs, key=lambda job: (_size(job[0]), len(job)), reverse=True)


def least_jobs(num_runs: int, workers: int) -> int:
    """Return how many jobs `pack` makes at least, whatever the runs are."""
    return ceil(num_runs / _fair(num_runs, workers)) if num_runs else 0


def _fair(num_runs: int, workers: int) -> int:
    """Return the most runs of a job: every worker gets one, if there are so many runs."""
    return max(1, ceil(num_runs / workers))


def _size(config: RunConfig) -> Size:
    return config.width, config.depth, config.steps, config.batch_size
