"""How runs are computed: what changes a result by rounding at most."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from transfer.config.checks import STRICT, require

DeviceName = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """How runs are computed; no part of a run's identity."""

    __pydantic_config__: ClassVar[Any] = STRICT
    device: DeviceName = "cpu"
    """Where runs are computed."""
    micro_batch_size: int = 0
    """Examples that go through the model at once; gradients accumulate over the batch. 0: all."""

    def __post_init__(self) -> None:
        size = self.micro_batch_size
        require(size >= 0, "micro_batch_size", "at least 0 (0: the whole batch)", size)
