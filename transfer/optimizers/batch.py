"""Oracle calls gathered over groups and layers: one batched call for all events of one shape."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transfer.kernels import INTERPRETED
from transfer.layouts import Layout
from transfer.norms import Norm
from transfer.optimizers.fused import FusedBatch, batch_key, entries, make_batch
from transfer.optimizers.jobs import Job
from transfer.optimizers.numbers import Number, average_in, multiply, send


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
    """Slots whose events have one shape, norm and dtype.

    Args:
        norm: Of all of them.
        size: Number of slots for one oracle call, which bounds its memory.
    """

    def __init__(self, norm: Norm, size: int) -> None:
        self.norm = norm
        self.slots: list[Slot] = []
        self._size = size
        self._numbers: tuple[list[float], Tensor] | None = None

    def move(self, jobs: list[Job]) -> None:
        """Add lmo(source), of norm `length`, to every target."""
        like = jobs[self.slots[0].job].sources[self.slots[0].parameter]
        lengths = self._lengths([jobs[slot.job].length for slot in self.slots], like)
        for start in range(0, len(self.slots), self._size):
            part = slice(start, start + self._size)
            self._move(jobs, self.slots[part], lengths[part])

    def _move(self, jobs: list[Job], slots: list[Slot], lengths: Tensor) -> None:
        events = [
            slot.layout.to_events(slot.of(jobs[slot.job].sources), self.norm.event_ndim)
            for slot in slots
        ]
        together = torch.stack(events) if len(events) > 1 else events[0].unsqueeze(0)
        # One length per slot and run; each may hold several matrices.
        batch_ndim = together.ndim - self.norm.event_ndim
        lengths = lengths.reshape(lengths.shape + (1,) * (batch_ndim - lengths.ndim))
        moves = self.norm.lmo(together, lengths).unbind()
        targets = [slot.of(jobs[slot.job].targets) for slot in slots]
        torch._foreach_add_(
            targets,
            [
                slot.layout.from_events(move, target.shape)
                for slot, move, target in zip(slots, moves, targets, strict=True)
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
        self._fused: dict[Any, FusedBatch] = {}
        self._batches: dict[Any, Batch] = {}
        self._joint: list[Joint] = []
        # Of every job, the parameters that no kernel averages and shrinks.
        self._plain: list[list[int]] = []
        for job, (group, norm, params) in enumerate(asked):
            if group["joint"]:
                runs = tuple(params[0].shape[: group["stacked"]])
                self._joint.append(Joint(norm, job, runs))
                self._plain.append(list(range(len(params))))
            else:
                self._file(job, group, norm, params)

    def _file(self, job: int, group: dict[str, Any], norm: Norm, params: list[Tensor]) -> None:
        layout = norm.layout(
            group["layout"], group["split_sizes"], group["groups"], group["stacked"]
        )
        plain = []
        for number, p in enumerate(params):
            found = entries(job, number, group, norm, layout, p)
            if found is None:
                plain.append(number)
                self._file_plain(job, number, group, norm, layout, p)
                continue
            for entry in found:
                key = batch_key(entry, norm, group["workspace_mb"])
                batch = self._fused.setdefault(key, make_batch(norm, group["workspace_mb"]))
                batch.entries.append(entry)
        self._plain.append(plain)

    def _file_plain(
        self, job: int, number: int, group: dict[str, Any], norm: Norm, layout: Layout, p: Tensor
    ) -> None:
        kind = (group["norm"], group["polar"], group["stacked"], group["workspace_mb"])
        for index, block in enumerate(layout.blocks(p)):
            events = layout.to_events(block, norm.event_ndim)
            alone = None if group["foreach"] is not False else len(self._batches)
            key = (kind, events.shape, p.dtype, p.device, alone)
            if key not in self._batches:
                size = int(group["workspace_mb"] * 2**20) // _workspace(events)
                self._batches[key] = Batch(norm, max(1, size))
            self._batches[key].slots.append(Slot(job, number, index, layout))

    def move(self, jobs: list[Job]) -> None:
        """Do all of them."""
        for job, numbers in zip(jobs, self._plain, strict=True):
            if numbers:
                _prepare(job, numbers)
        for fused in self._fused.values():
            fused.move(jobs)
        for batch in self._batches.values():
            batch.move(jobs)
        for joint in self._joint:
            joint.move(jobs)


def _prepare(job: Job, numbers: list[int]) -> None:
    """Average and shrink these parameters of a job."""
    if job.fresh is not None:
        fresh = [job.fresh[i] for i in numbers]
        average_in([job.sources[i] for i in numbers], fresh, job.alpha)
    if isinstance(job.keep, Tensor) or job.keep != 1.0:
        multiply([job.targets[i] for i in numbers], job.keep)


def _workspace(events: Tensor) -> int:
    """Return the bytes that an oracle call needs for one slot, at most."""
    gram = events.numel() if events.ndim < 2 else events.numel() // max(events.shape[-2:])
    gram *= min(events.shape[-2:]) if events.ndim > 1 else 1
    return (5 * events.numel() + 3 * gram) * max(4, events.element_size())


_SETTINGS = (
    *("norm", "polar", "layout", "split_sizes", "groups", "joint", "foreach", "stacked"),
    "workspace_mb",
)


def signature(asked: list[tuple[dict[str, Any], Norm, list[Tensor]]]) -> list[Any]:
    """Return what a plan depends on, to be compared."""
    return [
        ([group[key] for key in _SETTINGS], [_lies(p) for p in params])
        for group, _, params in asked
    ]


def _lies(p: Tensor) -> tuple[Any, ...]:
    if p.device.type == "cpu" and not INTERPRETED:
        return p.shape, p.dtype
    return p.shape, p.dtype, p.device, p.stride(), p.data_ptr() % 16
