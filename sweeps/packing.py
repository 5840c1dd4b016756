"""How runs are put together into jobs: a stack each here, several of them on a cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    fair = _fair(len(configs), workers)
    jobs = []
    for runs in _kinds(configs):
        number = ceil(len(runs) / max(1, min(most(runs[0]), fair)))
        size = ceil(len(runs) / number)  # jobs of one kind are alike
        jobs += [runs[start : start + size] for start in range(0, len(runs), size)]
    return sorted(jobs, key=lambda job: (_size(job[0]), len(job)), reverse=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """Runs of one job that takes about a given time."""

    runs: list[RunConfig]
    seconds: float
    """Expected, the job's own start not counted."""


def bundle(
    configs: Sequence[RunConfig],
    seconds: Callable[[RunConfig], float],
    *,
    target_s: float,
    least_s: float,
    jobs_at_a_time: int,
    most_runs: int = 0,
) -> list[Bundle]:
    """Put runs together into jobs of about the same length, the longest first.

    Runs of one kind stay together as far as the length allows, as they are trained as stacks;
    short kinds share a job.

    Args:
        configs: What to train.
        seconds: Returns the expected time of a run.
        target_s: Longest job, unless a single run is longer.
        least_s: Shorter jobs than that are made for want of runs alone: each has to start.
        jobs_at_a_time: So many share the work, if jobs of `least_s` allow it.
        most_runs: Most runs of a job; 0: any number.
    """
    total = sum(map(seconds, configs))
    goal = min(max(total / jobs_at_a_time, least_s), target_s)
    parts = []
    for runs in _kinds(configs):
        each = seconds(runs[0])
        most = len(runs) if each * len(runs) <= goal else max(1, int(goal / each))
        number = ceil(len(runs) / min(most, most_runs or most))
        size = ceil(len(runs) / number)  # parts of one kind are alike
        parts += [runs[start : start + size] for start in range(0, len(runs), size)]
    made: list[Bundle] = []
    for part in sorted(parts, key=lambda runs: len(runs) * seconds(runs[0]), reverse=True):
        took = len(part) * seconds(part[0])
        for index, other in enumerate(made):
            fits = not most_runs or len(other.runs) + len(part) <= most_runs
            if fits and other.seconds + took <= goal:
                made[index] = Bundle(runs=other.runs + part, seconds=other.seconds + took)
                break
        else:
            made.append(Bundle(runs=part, seconds=took))
    return sorted(made, key=lambda job: job.seconds, reverse=True)


def _kinds(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Return the runs by `stack_key`, those of a seed beside each other, as they share batches."""
    kinds: dict[str, list[RunConfig]] = {}
    for config in sorted(configs, key=lambda config: config.seed):
        kinds.setdefault(stack_key(config), []).append(config)
    return list(kinds.values())


def least_jobs(num_runs: int, workers: int) -> int:
    """Return how many jobs `pack` makes at least, whatever the runs are."""
    return ceil(num_runs / _fair(num_runs, workers)) if num_runs else 0


def _fair(num_runs: int, workers: int) -> int:
    """Return the most runs of a job: every worker gets one, if there are so many runs."""
    return max(1, ceil(num_runs / workers))


def _size(config: RunConfig) -> Size:
    return config.width, config.depth, config.steps, config.batch_size
