"""How runs are computed: what changes a result by rounding at most."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from transfer.config.checks import STRICT, require

DeviceName = Literal["cpu", "cuda", "mps"]
CompileName = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """How runs are computed; no part of a run's identity."""

    __pydantic_config__: ClassVar[Any] = STRICT
    device: DeviceName = "cpu"
    """Where runs are computed."""
    micro_batch_size: int = 0
    """Examples that go through the model at once; gradients accumulate over the batch. 0: all."""
    stack_size: int = 0
    """Most runs trained as one program. 0: as many as the memory holds and as pays."""

    compile: CompileName = "auto"
    """Whether the training loss goes through torch.compile; auto: on CUDA devices, where the time
    it saves pays for it."""

    def __post_init__(self) -> None:
        size = self.micro_batch_size
        require(size >= 0, "micro_batch_size", "at least 0 (0: the whole batch)", size)
        runs = self.stack_size
        require(runs >= 0, "stack_size", "at least 0 (0: as many as pays)", runs)
