"""What a group asks for in one step."""

from dataclasses import dataclass

from torch import Tensor

from transfer.optimizers.numbers import Number


@dataclass(frozen=True, slots=True)
class Job:
    """One group's part of a step, for all its parameters.

    If there is something fresh, source <- (1 - alpha) source + alpha fresh. Then
    target <- keep * target + lmo(source), where the oracle's answer has norm `length`.
    """

    targets: list[Tensor]
    sources: list[Tensor]
    length: Number
    keep: Number = 1.0
    fresh: list[Tensor] | None = None
    alpha: Number = 1.0
