"""Stepsize schedules: the factor of the peak stepsize at each step."""

import math

from transfer.config import ScheduleConfig


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Return the factor in (0, 1] for `step` (0 is the first) of `steps`.

    A decay reaches 0 one step after the last, so the last step still moves.
    """
    warmup = round(config.warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.name == "constant":
        return 1.0
    if config.name == "linear":
        return (steps - step) / (steps - warmup)
    if config.name == "cosine":
        return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
    decay = max(1, round(config.decay_fraction * steps))
    return min(1.0, (steps - step) / decay)
