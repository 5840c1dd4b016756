"""What jobs are expected to take: packing and plans rest on it, results never do."""

from collections.abc import Iterable, Sequence

from sweeps.cluster import ClusterConfig
from sweeps.pace import Pace
from sweeps.packing import Bundle, bundle
from sweeps.table import StoredRun
from transfer.config import ComputeConfig, RunConfig, stack_key

START_S = 20.0
"""Until a job has begun to train: Python, torch, and the data."""
_LEAST_S = 10 * START_S
"""Jobs shorter than that would spend their time on starting."""
_MINUTE_S = 60.0
"""SLURM's own unit of limits: no job is packed to less."""
_FLOPS = {"cpu": 5e9, "mps": 1e12, "cuda": 1e13}
_HALF_FLOPS = 1e14
"""Operations a second that a run is thought to reach before one was timed, on a GPU in bf16."""


def pace_of(rows: Iterable[StoredRun], compute: ComputeConfig) -> Pace:
    """Return what the table tells about times; where it tells nothing, a guess."""
    known: dict[str, float] = {}

    def guess(config: RunConfig) -> float:
        key = stack_key(config)
        if key not in known:
            known[key] = _guess(config, compute)
        return known[key]

    return Pace(rows, compute.device, guess)


def bundles(
    configs: Sequence[RunConfig], pace: Pace, compute: ComputeConfig, cluster: ClusterConfig
) -> list[Bundle]:
    """Pack runs into jobs of the cluster, which end before their limit if the times are right."""
    limit_s = 60 * cluster.time_min - cluster.signal_delay_s - START_S
    return bundle(
        configs,
        lambda config: pace.seconds(config) or 0.0,
        target_s=max(_MINUTE_S, min(60 * cluster.target_min, limit_s)),
        least_s=_LEAST_S,
        jobs_at_a_time=cluster.parallelism,
        most_runs=cluster.runs_per_job,
    )


def _guess(config: RunConfig, compute: ComputeConfig) -> float:
    from transfer.families import Family

    shape = config.data.shape
    flops = Family(config.model, shape).describe(config.width, config.depth).flops
    half = compute.device == "cuda" and config.precision == "bf16"
    rate = _HALF_FLOPS if half else _FLOPS[compute.device]
    return flops * shape.positions * config.batch_size / rate
