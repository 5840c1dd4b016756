"""Oracle calls gathered over groups and layers: one batched call for all events of one shape."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transfer.layouts import Layout
from transfer.norms import Norm
from transfer.optimizers.numbers import Number, send


@dataclass(frozen=True, slots=True)
class Job:
    """What one group asks for in one step: target += lmo(source), of norm `length`."""

    targets: list[Tensor]
    sources: list[Tensor]
    length: Number


@dataclass(frozen=True, slots=True)
class Slot:
    """One block of one parameter."""

    job: int
    parameter: int
    block: int
    layout: Layout

    def of(self, tensors: list[Tensor]) -> Tensor:
        """Return the block of its parameter among those of its job."""
        whole = tensors[self.parameter]
        return self.layout.blocks(whole)[self.block] if self.layout.split_sizes else whole


class Batch:
    """Slots whose events have one shape, norm and dtype."""

    def __init__(self, norm: Norm) -> None:
        self.norm = norm
        self.slots: list[Slot] = []
        self._numbers: tuple[list[float], Tensor] | None = None

    def move(self, jobs: list[Job]) -> None:
        """Add lmo(source), of norm `length`, to every target."""
        events = [
            slot.layout.to_events(slot.of(jobs[slot.job].sources), self.norm.event_ndim)
            for slot in self.slots
        ]
        together = torch.stack(events) if len(events) > 1 else events[0].unsqueeze(0)
        lengths = self._lengths([jobs[slot.job].length for slot in self.slots], together)
        # One length per slot and run; each may hold several matrices.
        batch_ndim = together.ndim - self.norm.event_ndim
        lengths = lengths.reshape(lengths.shape + (1,) * (batch_ndim - lengths.ndim))
        moves = self.norm.lmo(together, lengths).unbind()
        targets = [slot.of(jobs[slot.job].targets) for slot in self.slots]
        torch._foreach_add_(
            targets,
            [
                slot.layout.from_events(move, target.shape)
                for slot, move, target in zip(self.slots, moves, targets, strict=True)
            ],
        )

    def _lengths(self, lengths: list[Number], like: Tensor) -> Tensor:
        """Return one length per slot, of stacked runs one per slot and run."""
        # Not every device knows float64, and only float64 weights need it.
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        numbers = [n for n in lengths if not isinstance(n, Tensor)]
        if len(numbers) < len(lengths):
            made = [send(torch.as_tensor(n, dtype=dtype), like.device) for n in lengths]
            return torch.stack(made)
        if torch.compiler.is_compiling():
            return torch.tensor(numbers, dtype=dtype, device=like.device)
        # Kept, because sending them takes time.
        if self._numbers is None or self._numbers[0] != numbers:
            self._numbers = numbers, send(torch.tensor(numbers, dtype=dtype), like.device)
        return self._numbers[1]


@dataclass(frozen=True, slots=True)
class Joint:
    """One oracle call for a whole group as one long vector, of stacked groups one per run."""

    norm: Norm
    job: int
    runs: tuple[int, ...]
    """(R,) of stacked groups, else ()."""

    def move(self, jobs: list[Job]) -> None:
        """Add the parts of lmo(all sources as one vector) to the targets."""
        job = jobs[self.job]
        whole = torch.cat([source.reshape(*self.runs, -1) for source in job.sources], -1)
        move = self.norm.lmo(whole, job.length)
        sizes = [target[0].numel() if self.runs else target.numel() for target in job.targets]
        parts = torch.split(move, sizes, -1)
        shaped = [part.reshape(t.shape) for part, t in zip(parts, job.targets, strict=True)]
        torch._foreach_add_(job.targets, shaped)


class Plan:
    """All oracle calls of a step, which stay the same while groups and shapes do.

    Args:
        asked: For every job its group, norm and parameters.
    """

    def __init__(self, asked: list[tuple[dict[str, Any], Norm, list[Tensor]]]) -> None:
        self._batches: dict[Any, Batch] = {}
        self._joint: list[Joint] = []
        for job, (group, norm, params) in enumerate(asked):
            if group["joint"]:
                runs = tuple(params[0].shape[: group["stacked"]])
                self._joint.append(Joint(norm, job, runs))
            else:
                self._file(job, group, norm, params)

    def _file(self, job: int, group: dict[str, Any], norm: Norm, params: list[Tensor]) -> None:
        layout = norm.layout(
            group["layout"], group["split_sizes"], group["groups"], group["stacked"]
        )
        kind = (group["norm"], group["polar"], group["stacked"])
        for number, p in enumerate(params):
            for index, block in enumerate(layout.blocks(p)):
                shape = layout.to_events(block, norm.event_ndim).shape
                alone = None if group["foreach"] is not False else len(self._batches)
                key = (kind, shape, p.dtype, p.device, alone)
                batch = self._batches.setdefault(key, Batch(norm))
                batch.slots.append(Slot(job, number, index, layout))

    def move(self, jobs: list[Job]) -> None:
        """Do all of them."""
        for batch in self._batches.values():
            batch.move(jobs)
        for joint in self._joint:
            joint.move(jobs)


_SETTINGS = ("norm", "polar", "layout", "split_sizes", "groups", "joint", "foreach", "stacked")


def signature(asked: list[tuple[dict[str, Any], Norm, list[Tensor]]]) -> list[Any]:
    """Return what a plan depends on, to be compared."""
    return [
        ([group[key] for key in _SETTINGS], [(p.shape, p.dtype, p.device) for p in params])
        for group, _, params in asked
    ]
