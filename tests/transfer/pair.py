"""Two processes that train together, and do what a test tells them."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

import transfer.data
from tests.invented import invented
from tests.transfer.test_train import assert_same
from transfer.config import ComputeConfig, RunConfig
from transfer.distributed import TeamBroken, joined
from transfer.stack import Stack
from transfer.train import RunRecord, train_stack

_PATIENCE_S = 100
HALVES = ComputeConfig(micro_batch_size=4)
"""One process computes the halves of a batch of 8 that two processes share, one after the other."""


class Raised(NamedTuple):
    """What a process answers where its work raised."""

    kind: str
    text: str


class Pair:
    """Two processes of one team.

    Args:
        folder: Where they find each other.
        device: Where they compute: cpu, or cuda for a GPU each.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(2):
            ours, theirs = spawn.Pipe()
            place = device if device == "cpu" else f"{device}:{rank}"
            arguments = (rank, theirs, str(folder / "team"), place)
            process = spawn.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def __call__(self, work: Callable[..., Any], *given: Any) -> list[Any]:
        """Have both do something; return what comes out, None for one that died."""
        self.ask(work, *given)
        return [self.answer(rank) for rank in range(2)]

    def ask(self, work: Callable[..., Any], *given: Any) -> None:
        """Have both begin something."""
        for pipe in self.pipes:
            pipe.send((work, given))

    def answer(self, rank: int, within_s: float = _PATIENCE_S) -> Any:
        """Return what one of them answers."""
        assert self.pipes[rank].poll(within_s), f"process {rank} hangs"
        try:
            return self.pipes[rank].recv()
        except (EOFError, ConnectionResetError):
            return None

    def __enter__(self) -> "Pair":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(10 if kind is None else 0)
            process.kill()


def _serve(rank: int, pipe: Connection, meeting_place: str, place: str) -> None:
    torch.set_num_threads(1)
    device = torch.device(place)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    transfer.data.load = invented
    store = torch.distributed.FileStore(meeting_place, 2)
    with joined(rank, 2, device, store=store):
        while True:
            try:
                work, given = pipe.recv()
            except EOFError:
                break
            try:
                answer = work(*given)
            except Exception as error:
                answer = Raised(type(error).__name__, str(error))
            except TeamBroken as error:
                pipe.send(Raised("TeamBroken", str(error)))
                os._exit(1)
            pipe.send(answer)


class State(NamedTuple):
    """A stack after some steps."""

    weights: dict[str, torch.Tensor]
    losses: torch.Tensor
    judged: list[tuple[float, float]]


def advanced(runs: Sequence[RunConfig], steps: int, compute: ComputeConfig | None = None) -> State:
    """Return a stack after some steps."""
    stack = Stack(runs, compute)
    for _ in range(steps):
        stack.advance()
    weights = {name: w.detach().clone() for name, w in stack.weights.items()}
    return State(weights, stack.losses, stack.validate())


def trained(pair: Pair, runs: Sequence[RunConfig], *given: Any) -> list[RunRecord]:
    """Return the records of both processes, which must be the same."""
    first, second = pair(train_stack, runs, *given)
    assert not isinstance(first, Raised), first
    for one, other in zip(first, second, strict=True):
        assert_same(one, other)
    found: list[RunRecord] = first
    return found
