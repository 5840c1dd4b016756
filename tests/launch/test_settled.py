"""Whether a part of a sweep decides, judged by the rule itself."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.pipeline import finished, judge, settled
from sweeps.loop import complete
from sweeps.progress import Reporter
from sweeps.study import Study
from tests.helpers import DELETE, FakeRunner, fabricate, tiny_experiment
from transfer.config import RunConfig

CHANGES: dict[str, Any] = {
    "arms.adamw": DELETE,
    "arms.scion.octaves_below": 8,
    "arms.scion.octaves_above": 4,
    "arms.scion.star": {},
    "arms.scion.search": {"stepsize": [-8, -4]},
    "sweep.widths": [4, 8, 16],
    "sweep.seeds": [1, 2, 3],
    "sweep.check_factor": 0,
    "sweep.adaptive": True,
}
WHOLE, PART = 3 * 13, 13 + 5 + 5


def octave(config: RunConfig) -> float:
    return math.log2(config.optimizer.stepsize)


def parabola(config: RunConfig) -> Any:
    return fabricate(config, 1 + (octave(config) + 6) ** 2 + config.seed / 10)


def cliff(config: RunConfig) -> Any:
    """At width 16 all that is not smaller than the tuned stepsize diverges."""
    if config.width == 16 and octave(config) >= -6:
        return fabricate(config, None, status="diverged")
    return parabola(config)


def noisy_parabola(config: RunConfig) -> Any:
    """Noise decides between the two best, and the others are far off."""
    off = octave(config) + 6
    loss = 0.0 if off in (0, 1) else off**2 / 4
    return fabricate(config, 1 + loss + 0.02 * ((config.seed + off) % 3))


def noise(config: RunConfig) -> Any:
    return fabricate(config, 1 + 0.1 * (int(config.run_id[:6], 16) % 7) / 7)


def falling(config: RunConfig) -> Any:
    """The larger the stepsize the better: tuning ends at -4, where its range does."""
    return fabricate(config, 1 - octave(config) / 100 + config.seed / 1000)


@pytest.mark.parametrize(
    ("record", "changes", "status", "num_cells"),
    [
        (parabola, {}, "transfers", PART),
        (cliff, {}, "does not transfer", PART + 1),  # -9 too, two below the best there is
        (noise, {}, "undecided", WHOLE),
        # Other stepsizes would not help, more seeds would.
        (noisy_parabola, {}, "undecided", PART),
        (noisy_parabola, {"sweep.seeds": [1]}, "undecided", WHOLE),
        # The best of the smallest size's grid is its upper edge, which was tuned: no size can help.
        (falling, {"arms.scion.octaves_above": 0}, "undecided", 9 + 3 + 3),
    ],
)
def test_how_much_is_trained(
    record: Callable[[RunConfig], Any],
    changes: dict[str, Any],
    status: str,
    num_cells: int,
    tmp_path: Path,
) -> None:
    study = Study.create(tmp_path / "s", tiny_experiment(CHANGES | changes))
    tuned = complete(study, FakeRunner(record), Reporter(), settled=settled)
    done = finished(study, tuned=tuned)
    verdict = judge(done)["scion"]["stepsize"]
    assert verdict.status == status, verdict.reason
    runs = done.runs("scion", "sweep")
    assert runs.groupby(["width", "stepsize"]).ngroups == num_cells
    told = " ".join(verdict.notes)
    assert ("cells of the grid were run" in told) == (num_cells < 3 * len(set(runs["stepsize"])))
    assert ("is presumed" in told) == (status == "transfers")
