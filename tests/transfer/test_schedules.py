"""Factors of the peak stepsize, by hand and by property."""

from typing import Any, get_args

import pytest

from transfer.config import ScheduleConfig, ScheduleName
from transfer.schedules import factor


def factors(steps: int, **settings: Any) -> list[float]:
    """Return the factor of every step."""
    config = ScheduleConfig(**settings)
    return [factor(config, step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    ("settings", "steps", "wanted"),
    [
        ({"name": "constant"}, 3, [1.0, 1.0, 1.0]),
        ({"name": "linear"}, 4, [1.0, 0.75, 0.5, 0.25]),
        ({"name": "linear"}, 1, [1.0]),
        ({"name": "constant-linear", "decay_fraction": 0.5}, 4, [1.0, 1.0, 1.0, 0.5]),
        ({"name": "constant-linear", "decay_fraction": 1.0}, 4, [1.0, 0.75, 0.5, 0.25]),
        ({"name": "constant-linear", "decay_fraction": 0.01}, 4, [1.0, 1.0, 1.0, 1.0]),
        ({"name": "constant", "warmup_fraction": 0.5}, 4, [1 / 3, 2 / 3, 1.0, 1.0]),
        ({"name": "linear", "warmup_fraction": 0.5}, 4, [1 / 3, 2 / 3, 1.0, 0.5]),
        (
            {"name": "constant-linear", "warmup_fraction": 0.25, "decay_fraction": 0.5},
            8,
            [1 / 3, 2 / 3, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25],
        ),
    ],
)
def test_by_hand(settings: dict[str, object], steps: int, wanted: list[float]) -> None:
    assert factors(steps, **settings) == pytest.approx(wanted, rel=1e-15)


@pytest.mark.parametrize("name", get_args(ScheduleName))
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 101])
def test_in_range_with_one_peak(name: str, warmup: float, steps: int) -> None:
    decay = min(0.285, 1 - warmup)
    got = factors(steps, name=name, warmup_fraction=warmup, decay_fraction=decay)
    assert all(0 < value <= 1 for value in got)
    peak = got.index(max(got))
    assert got[: peak + 1] == sorted(got[: peak + 1]), "it does not rise to its peak"
    assert got[peak:] == sorted(got[peak:], reverse=True), "it rises again after its peak"


def test_published_decay_ends_at_the_end() -> None:
    """28.5 % of 5100 steps, as in the published NanoGPT runs."""
    got = factors(5100, name="constant-linear", decay_fraction=0.285)
    assert got.index(next(v for v in got if v < 1)) == 5100 - round(0.285 * 5100) + 1
    assert got[-1] == pytest.approx(1 / round(0.285 * 5100))
