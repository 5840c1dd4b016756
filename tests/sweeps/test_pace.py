"""Expected times: what was timed, else what follows from it, else a guess or nothing."""

from dataclasses import asdict
from typing import Any

import pytest

from sweeps.pace import Pace
from sweeps.plan import run_config
from sweeps.table import StoredRun
from tests.helpers import stored, tiny_experiment
from transfer.config import RunConfig

EXPERIMENT = tiny_experiment({"sweep.widths": [64, 128, 256, 1024], "train.steps": 10})


def run(width: int, seed: int = 1, arm: str = "scion") -> RunConfig:
    optimizer = EXPERIMENT.arms[arm].optimizer
    return run_config(EXPERIMENT, arm, optimizer, size=width, seed=seed)


def timed(width: int, wall_s: float, seed: int = 1, **changes: Any) -> StoredRun:
    """Return a run of 10 steps that took so long."""
    given: dict[str, Any] = {"stopped_step": 10, "versions": {"device": "cpu"}, **changes}
    config = run(width, seed)
    return stored(config.run_id, config=asdict(config), wall_s=wall_s, **given)


def test_a_size_takes_what_it_took() -> None:
    rows = [timed(64, wall_s, seed) for seed, wall_s in enumerate((1.0, 2.0, 30.0))]
    assert Pace(rows, "cpu").seconds(run(64, 9)) == pytest.approx(2.0), "the median"


@pytest.mark.parametrize(
    ("times", "width", "expected"),
    [
        ({64: 1.0}, 256, 8.0),  # 4^1.5
        ({64: 1.0, 128: 4.0}, 256, 16.0),  # grows as the square
        ({64: 1.0, 128: 9.0}, 256, 36.0),  # but no faster than that
        ({64: 1.0, 128: 1.0}, 256, 2.0),  # at least as the width, beyond what was timed
        ({64: 1.0, 1024: 16.0}, 128, 2.0),  # between two of them
        ({64: 1.0, 128: 0.5}, 256, 1.0),
    ],
)
def test_other_widths_follow(times: dict[int, float], width: int, expected: float) -> None:
    pace = Pace([timed(w, s) for w, s in times.items()], "cpu")
    assert pace.seconds(run(width)) == pytest.approx(expected)


def test_what_does_not_count() -> None:
    """Runs of another kind of device, of another optimizer, and those that were cut short."""
    rows = [
        timed(64, 1.0, versions={"device": "NVIDIA A100-SXM4-80GB"}),
        timed(64, 1.0, status="failed"),
        timed(64, 1.0, status="diverged"),
    ]
    assert Pace(rows, "cpu").seconds(run(64)) is None
    assert Pace(rows, "cuda").seconds(run(64)) == pytest.approx(1.0)
    known = Pace([timed(64, 1.0)], "cpu", guess=lambda config: 7.0)
    assert known.is_known(run(128)) and not known.is_known(run(128, arm="adamw"))
    assert known.seconds(run(64, arm="adamw")) == pytest.approx(70.0), "a guess of 7 s a step"
