"""Oracle calls gathered over groups and layers: one batched call for all events of one shape."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transfer.layouts import Layout
from transfer.norms import Norm

Length = float | Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """target += lmo(source, length), for one block of a parameter."""

    target: Tensor
    source: Tensor
    length: Length
    layout: Layout


class Batch:
    """Requests whose events have one shape, norm and dtype."""

    def __init__(self, norm: Norm) -> None:
        self.norm = norm
        self.requests: list[Request] = []

    def move(self) -> None:
        """Add lmo(source), of norm `length`, to every target."""
        events = [r.layout.to_events(r.source, self.norm.event_ndim) for r in self.requests]
        stacked = torch.stack(events)
        # One length per request; a request may hold several matrices itself.
        batch_ndim = stacked.ndim - self.norm.event_ndim
        lengths = self._lengths(stacked).reshape((-1,) + (1,) * (batch_ndim - 1))
        moves = self.norm.lmo(stacked, lengths).unbind()
        pairs = list(zip(self.requests, moves, strict=True))
        torch._foreach_add_(
            [r.target for r in self.requests],
            [r.layout.from_events(move, r.target.shape) for r, move in pairs],
        )

    def _lengths(self, like: Tensor) -> Tensor:
        # Not every device knows float64, and only float64 weights need it.
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        lengths = [r.length for r in self.requests]
        if any(isinstance(length, Tensor) for length in lengths):
            made = [torch.as_tensor(n, dtype=dtype, device=like.device) for n in lengths]
            return torch.stack(made)
        return torch.tensor(lengths, dtype=dtype, device=like.device)


@dataclass(frozen=True, slots=True)
class Joint:
    """One request for a whole group as one long vector."""

    norm: Norm
    targets: list[Tensor]
    sources: list[Tensor]
    length: Length

    def move(self) -> None:
        """Add the parts of lmo(all sources as one vector) to the targets."""
        whole = torch.cat([source.flatten() for source in self.sources])
        move = self.norm.lmo(whole, self.length)
        parts = torch.split(move, [target.numel() for target in self.targets])
        shaped = [part.reshape(t.shape) for part, t in zip(parts, self.targets, strict=True)]
        torch._foreach_add_(self.targets, shaped)


class Batches:
    """All oracle calls of one step."""

    def __init__(self) -> None:
        self._batches: dict[Any, Batch] = {}
        self._joint: list[Joint] = []

    def file(
        self,
        group: dict[str, Any],
        norm: Norm,
        targets: list[Tensor],
        sources: list[Tensor],
        length: Length,
    ) -> None:
        """File one group's parameters; `length` is the norm of the point asked for."""
        if group["maximize"]:
            # The oracle is odd, so nothing has to be negated but its answer.
            length = -length
        if group["joint"]:
            self._joint.append(Joint(norm, targets, sources, length))
            return
        layout = norm.layout(group["layout"], group["split_sizes"], group["groups"])
        kind = (group["norm"], group["polar"])
        for target, source in zip(targets, sources, strict=True):
            pairs = zip(layout.blocks(target), layout.blocks(source), strict=True)
            for t, s in pairs:
                shape = layout.to_events(s, norm.event_ndim).shape
                alone = None if group["foreach"] is not False else len(self._batches)
                key = (kind, shape, s.dtype, s.device, alone)
                batch = self._batches.setdefault(key, Batch(norm))
                batch.requests.append(Request(t, s, length, layout))

    def move(self) -> None:
        """Do all that was filed."""
        for batch in self._batches.values():
            batch.move()
        for joint in self._joint:
            joint.move()
