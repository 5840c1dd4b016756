"""Several processes that train the same runs together, each with its part of every batch.

All of them hold the same weights and do the same: losses and gradients are sums over the processes,
so whatever is decided by them is decided alike. A process that is alone is a team of one, for which
nothing here computes or copies anything.

Before tensors are summed the processes meet: each says what it has come for, or what went wrong
with it. So an exception of one becomes one of all, at the same place, and nobody is waited for in
vain; a process that is gone breaks the team, which ends the others. The meetings go over the CPU:
a GPU is not waited for.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store

from transfer.memory import is_out_of_memory

TIMEOUT = timedelta(minutes=20)
"""Longest that one process may be busy while others wait for it: a checkpoint on a slow disk."""
_BUCKET_BYTES = 64 * 2**20
_ALIGNED = 128
"""Bytes: kernels are slower on tensors that begin just anywhere."""
_T = TypeVar("_T")


class TeamBroken(BaseException):
    """The processes can no longer talk to each other: this one has to end.

    No Exception: who trains on after a failed run must not do so here.
    """


@dataclass(frozen=True)
class _Failure:
    """What went wrong in one process, as far as others decide by it."""

    kind: str
    text: str
    errno: int = 0

    def error(self, rank: int) -> Exception:
        text = f"process {rank}: {self.text}"
        if self.kind == "folder":
            return OSError(self.errno, text)
        kinds = {"memory": MemoryError, "value": ValueError}
        return kinds.get(self.kind, RuntimeError)(text)


class _Heard(Exception):
    """Others failed; `Team.alike` makes an error of it."""

    def __init__(self, failures: "Sequence[_Failure | None]") -> None:
        super().__init__("another process failed")
        self.failures = failures


class Team:
    """This process and those that train with it.

    Args:
        rank: Number of this process, from 0.
        size: Number of processes.
        meetings: Their group on the CPU; None for a process that is alone.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, meetings: dist.ProcessGroup | None = None
    ) -> None:
        self.rank, self.size = rank, size
        self._meetings = meetings
        self._talking = False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and says things."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Return this process's rows of a batch.

        Raises:
            ValueError: there is none for some process.
        """
        if batch_size < self.size:
            raise ValueError(
                f"batch_size must be at least {self.size}, the number of processes of this job, "
                f"got {batch_size}"
            )
        return slice(batch_size * self.rank // self.size, batch_size * (self.rank + 1) // self.size)

    def largest_share(self, batch_size: int) -> int:
        """Return the number of rows of the largest share."""
        return -(-batch_size // self.size)

    # --- sums and decisions ---

    def add_up(self, tensors: list[Tensor | None]) -> None:
        """Replace tensors of a list by their sums over the processes, the same bits in all of them.

        They are let go of one by one. In one process they stay as they are.
        """
        if self.size == 1:
            return
        buckets = _bucketed(tensors)
        self._meet("sum", zlib.crc32(repr([(b.dtype, len(b)) for b in buckets]).encode()))
        with self._conversation():
            for bucket in buckets:
                on_cpu = bucket.device.type == "cpu"
                dist.all_reduce(bucket, group=self._meetings if on_cpu else None)

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes; the tensor itself in one process."""
        parts: list[Tensor | None] = [tensor]
        self.add_up(parts)
        assert parts[0] is not None
        return parts[0]

    def told(self, value: int) -> int:
        """Return the value that the first process has."""
        return value if self.size == 1 else self._meet("told", value, same=False)[0]

    def least(self, value: int) -> int:
        """Return the smallest of all processes' values."""
        return value if self.size == 1 else min(self._meet("least", value, same=False))

    def everybodys(self, value: _T) -> list[_T]:
        """Return a plain value of every process, by rank."""
        if self.size == 1:
            return [value]
        self._meet("values")
        found: list[Any] = [None] * self.size
        with self._conversation():
            dist.all_gather_object(found, value, group=self._meetings)
        return found

    def alike(self) -> "_Alike":
        """Have what is done in this context fail in all processes, or in none.

        The error of the first of those that failed is raised in all of them, elsewhere as one of
        the same kind that names the process. Contexts may not be nested.
        """
        return _Alike(self)

    # --- meetings ---

    def _meet(
        self, what: str, value: int = 0, *, same: bool = True, failure: _Failure | None = None
    ) -> list[int]:
        """Wait for all processes; return their values.

        Raises:
            _Heard: some process, this one perhaps, has failed.
            TeamBroken: a process is gone, or they have come for different things.
        """
        mine = torch.tensor([failure is not None, zlib.crc32(what.encode()), value])
        all_of_them = [torch.empty_like(mine) for _ in range(self.size)]
        with self._conversation():
            dist.all_gather(all_of_them, mine, group=self._meetings)
        told = [tensor.tolist() for tensor in all_of_them]
        if any(failed for failed, _, _ in told):
            failures: list[_Failure | None] = [None] * self.size
            with self._conversation():
                dist.all_gather_object(failures, failure, group=self._meetings)
            raise _Heard(failures)
        if any(kind != told[0][1] or (same and value != told[0][2]) for _, kind, value in told):
            raise TeamBroken(f"the processes of this job do different things, this one: {what}")
        return [value for _, _, value in told]

    @contextmanager
    def _conversation(self) -> Iterator[None]:
        self._talking = True
        try:
            yield
        except RuntimeError as error:  # of all backends, also where a process was killed
            said = str(error).strip().partition("\n")[0].partition(". ")[0]  # advice follows
            raise TeamBroken(f"the processes of this job have lost each other: {said}") from None
        self._talking = False


class _Alike:
    """See `Team.alike`."""

    def __init__(self, team: Team) -> None:
        self._team = team

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # No error is kept in a local variable: as a part of its own traceback it would hold what
        # a stack has allocated, which a smaller one needs.
        team = self._team
        if team.size == 1 or not (error is None or isinstance(error, Exception)):
            return
        failures = error.failures if isinstance(error, _Heard) else self._told(error)
        worst = next((rank for rank, failure in enumerate(failures) if failure), None)
        if worst is None or worst == team.rank:
            return
        failure = failures[worst]
        assert failure is not None
        raise failure.error(worst) from None

    def _told(self, error: Exception | None) -> "Sequence[_Failure | None]":
        """Meet the others at the end, whether it is a good one or not."""
        team = self._team
        if team._talking:  # as where a signal's handler raised: the others wait for a sum
            raise TeamBroken(_line(error)) from error
        try:
            team._meet("end", failure=None if error is None else _failure(error))
        except _Heard as heard:
            return heard.failures
        return []


def _failure(error: Exception) -> _Failure:
    if isinstance(error, OSError):
        return _Failure("folder", error.strerror or str(error), error.errno or 0)
    kind = "value" if isinstance(error, ValueError) else "other"
    return _Failure("memory" if is_out_of_memory(error) else kind, _line(error))


def _line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _bucketed(tensors: list[Tensor | None]) -> list[Tensor]:
    """Move tensors into few long ones, in place: what the list holds then are views of those."""
    buckets: list[Tensor] = []
    for dtype in sorted({t.dtype for t in tensors if t is not None}, key=str):
        waiting: list[int] = []
        length = 0
        for number, tensor in enumerate(tensors):
            if tensor is None or tensor.dtype != dtype:
                continue
            waiting.append(number)
            length += _room(tensor)
            if length * tensor.element_size() >= _BUCKET_BYTES:
                buckets.append(_moved(tensors, waiting, length))
                waiting, length = [], 0
        if waiting:
            buckets.append(_moved(tensors, waiting, length))
    return buckets


def _moved(tensors: list[Tensor | None], numbers: Sequence[int], length: int) -> Tensor:
    parts = [part for part in (tensors[number] for number in numbers) if part is not None]
    bucket, start = parts[0].new_zeros(length), 0
    for number, part in zip(numbers, parts, strict=True):
        place = bucket[start : start + part.numel()].view(part.shape)
        tensors[number] = place.copy_(part)
        start += _room(part)
    return bucket


def _room(tensor: Tensor) -> int:
    """Return the number of elements that a tensor takes in a bucket."""
    unit = _ALIGNED // tensor.element_size()
    return -(-tensor.numel() // unit) * unit


# --- the team of this process -----------------------------------------------------------------

_ALONE = Team()
_current = _ALONE


def current() -> Team:
    """Return the team that this process trains with."""
    return _current


@contextmanager
def joined(
    rank: int,
    size: int,
    device: torch.device,
    *,
    store: Store,
    timeout: timedelta = TIMEOUT,
) -> Iterator[Team]:
    """Be one of several processes that train together, while it lasts.

    After an error the group is left as it is, since to take it apart needs the others: the process
    should end.

    Args:
        rank: Number of this process, from 0.
        size: Number of processes.
        device: Where this one computes; for CUDA with the GPU's number.
        store: Where they find each other, as torch's.
        timeout: Longest that one waits for another.

    Raises:
        ValueError: the device cannot be one of several.
        TeamBroken: the others are gone.
    """
    global _current
    if device.type == "mps":
        raise ValueError(f"device must be cpu or cuda for {size} processes, got 'mps'")
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=device if cuda else None,
    )
    team = Team(rank, size, dist.new_group(backend="gloo", timeout=timeout))
    _current = team
    try:
        yield team
    finally:
        _current = _ALONE
    with team.alike():  # nobody takes the group apart while another still needs it
        pass
    dist.destroy_process_group()
