"""Jobs: stacks of like runs, alike in size, the largest first, none lost."""

from dataclasses import replace

import pytest

from sweeps.packing import least_jobs, pack
from sweeps.plan import run_config
from tests.helpers import tiny_experiment
from transfer.config import RunConfig, stack_key

EXPERIMENT = tiny_experiment()


def runs(width: int, number: int, arm: str = "scion") -> list[RunConfig]:
    """Return runs of two seeds in turn, with different stepsizes."""
    made = []
    for index in range(number):
        optimizer = replace(EXPERIMENT.arms[arm].optimizer, stepsize=2.0**-index)
        made.append(run_config(EXPERIMENT, arm, optimizer, size=width, seed=1 + index % 2))
    return made


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_every_run_once_in_jobs_that_are_stacks(workers: int, most: int) -> None:
    wanted = [*runs(4, 7), *runs(8, 10), *runs(4, 3, "adamw")]
    jobs = pack(wanted, workers, lambda config: most)
    assert sorted(c.run_id for job in jobs for c in job) == sorted(c.run_id for c in wanted)
    assert all(len({stack_key(c) for c in job}) == 1 for job in jobs)
    assert max(map(len, jobs)) <= most
    assert len(jobs) >= least_jobs(len(wanted), workers) >= min(workers, 5)
    widths = [job[0].width for job in jobs]
    assert widths == sorted(widths, reverse=True)


def test_jobs_of_one_kind_are_alike_and_share_seeds() -> None:
    jobs = pack(runs(4, 10), 1, lambda config: 4)
    assert sorted(map(len, jobs)) == [2, 4, 4]
    assert [{c.seed for c in job} for job in jobs] in ([{1}, {1, 2}, {2}], [{1}, {2}, {1, 2}])


def test_no_worker_is_left_without_a_job() -> None:
    assert sorted(map(len, pack(runs(4, 8), 2, lambda config: 100))) == [4, 4]
    assert len(pack(runs(4, 3), 4, lambda config: 100)) == 3
    assert pack([], 2, lambda config: 100) == []
    assert [least_jobs(*given) for given in [(8, 2), (3, 4), (4, 3), (0, 2)]] == [2, 3, 2, 0]
