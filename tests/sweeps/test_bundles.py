"""Jobs of several stacks: none longer than the target, none lost, the longest first."""

import pytest

from sweeps.packing import bundle
from tests.sweeps.test_packing import runs
from transfer.config import RunConfig, stack_key


def seconds(config: RunConfig) -> float:
    return float(config.width)


@pytest.mark.parametrize("target", [10.0, 40.0, 1e6])
@pytest.mark.parametrize("most", [0, 1, 5])
@pytest.mark.parametrize("at_a_time", [1, 4])
def test_every_run_once_and_none_too_long(target: float, most: int, at_a_time: int) -> None:
    wanted = [*runs(4, 7), *runs(8, 10), *runs(16, 2), *runs(4, 3, "adamw")]
    jobs = bundle(
        wanted, seconds, target_s=target, least_s=1.0, jobs_at_a_time=at_a_time, most_runs=most
    )
    ids = sorted(c.run_id for job in jobs for c in job.runs)
    assert ids == sorted(c.run_id for c in wanted)
    for job in jobs:
        assert job.seconds == pytest.approx(sum(map(seconds, job.runs)))
        assert job.seconds <= target or len(job.runs) == 1
        assert not most or len(job.runs) <= most
    times = [job.seconds for job in jobs]
    assert times == sorted(times, reverse=True)


def test_a_handful_of_jobs_share_the_work() -> None:
    """144 runs as of the shallow GPT: jobs of half an hour, fewer where there is not so much."""
    wanted = [*runs(4, 36), *runs(8, 36), *runs(16, 36), *runs(32, 36)]

    def jobs(scale: float, least: float = 200.0) -> int:
        found = bundle(
            wanted,
            lambda config: scale * config.width,
            target_s=1800.0,
            least_s=least,
            jobs_at_a_time=8,
        )
        return len(found)

    total = sum(map(seconds, wanted))
    assert jobs(1e-3) == 1
    assert jobs(1800 * 12 / total) in (12, 13, 14), "12 half hours"
    assert 6 <= jobs(1600 * 6 / total) <= 12, "all that may run at a time, not yet half an hour"
    assert jobs(400 / total) in (2, 3), "two of the shortest worth starting"


def test_stacks_stay_together() -> None:
    jobs = bundle(
        [*runs(4, 6), *runs(8, 3)], seconds, target_s=25.0, least_s=25.0, jobs_at_a_time=1
    )
    assert [len({stack_key(c) for c in job.runs}) for job in jobs] == [1, 1]
    assert [job.seconds for job in jobs] == [24.0, 24.0]
    assert bundle([], seconds, target_s=1.0, least_s=1.0, jobs_at_a_time=1) == []
