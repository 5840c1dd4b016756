"""Oracle calls by Triton kernels: few passes over memory for all matrices of one size.

What `batch.py` does in PyTorch, for spectral norms whose Newton-Schulz iteration is in bfloat16
and for norms whose oracle is the sign, where matrices lie contiguously in memory on a GPU.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from transfer import kernels
from transfer.layouts import Layout
from transfer.norms import Norm
from transfer.norms.signs import SignNorm
from transfer.norms.spectral import SpectralNorm
from transfer.optimizers.jobs import Job
from transfer.optimizers.numbers import Number, send
from transfer.polar import NewtonSchulz, newton_schulz

_ALIGNED = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """The matrices of one block of one parameter, as they lie in memory."""

    job: int
    parameter: int
    like: Tensor
    """The parameter, whose strides the other tensors must have."""
    offsets: tuple[int, ...]
    """Bytes from the parameter's first to each matrix's; runs first."""
    runs: int | None
    rows: int
    columns: int
    scale: float
    """Factor of the norm's oracle."""

    @property
    def numel(self) -> int:
        """Entries of one matrix."""
        return self.rows * self.columns

    @property
    def flip(self) -> bool:
        """Whether the smaller side is the second."""
        return self.rows > self.columns


def entries(
    job: int, parameter: int, group: dict[str, Any], norm: Norm, layout: Layout, p: Tensor
) -> list[Entry] | None:
    """Return a parameter's blocks, or None if the kernels cannot step all of it."""
    if not kernels.usable(p) or group["foreach"] is False or _kind(norm) is None:
        return None
    if p.dtype not in (torch.float32, torch.bfloat16) or p.data_ptr() % _ALIGNED:
        return None
    found = []
    for block in layout.blocks(p):
        events = layout.to_events(block, norm.event_ndim)
        place = _place(events, norm.event_ndim, p)
        if place is None:
            return None
        offsets, rows, columns = place
        runs = p.shape[0] if group["stacked"] else None
        scale = norm._scale(events)
        found.append(Entry(job, parameter, p, offsets, runs, rows, columns, scale))
    return found


def _kind(norm: Norm) -> Any:
    """Return what matrices of one batch share beside their size; None if kernels do not help."""
    if isinstance(norm, SignNorm):
        return "sign"
    polar = norm.polar if isinstance(norm, SpectralNorm) else None
    fast = isinstance(polar, NewtonSchulz) and polar.dtype == torch.bfloat16
    return polar if fast else None


def _place(events: Tensor, event_ndim: int, p: Tensor) -> tuple[tuple[int, ...], int, int] | None:
    """Return where events lie in `p`, and their rows and columns in memory; None if scattered."""
    if events.untyped_storage().data_ptr() != p.untyped_storage().data_ptr():
        return None
    if event_ndim == 3:
        # Kernel positions lie side by side.
        *_, inner, outer = events.stride()
        if inner != events.shape[-1] * outer:
            return None
        events = events.flatten(-2)
    batch_ndim = events.ndim - min(event_ndim, 2)
    shape, strides = (1, *events.shape[batch_ndim:]), (0, *events.stride()[batch_ndim:])
    (rows, columns), (down, right) = shape[-2:], strides[-2:]
    if down == 1 and right == rows and columns > 1:
        rows, columns = columns, rows
    elif right != 1 or (down != columns and rows > 1):
        return None
    batch = zip(events.shape[:batch_ndim], events.stride()[:batch_ndim], strict=True)
    steps = [[i * stride for i in range(size)] for size, stride in batch]
    first = int(events.storage_offset() - p.storage_offset())
    offsets = tuple((first + int(sum(index))) * p.element_size() for index in product(*steps))
    if any(offset % _ALIGNED for offset in offsets) or rows * columns >= 2**31:
        return None
    return offsets, rows, columns


class FusedBatch:
    """Entries of one size, dtype and device that one call of each kernel steps."""

    def __init__(self, kind: Any, workspace_bytes: int) -> None:
        self._kind = kind
        self._workspace_bytes = workspace_bytes
        self.entries: list[Entry] = []
        self._addresses = _Sent(torch.int64)
        self._numbers = _Sent(torch.float32)

    def move(self, jobs: list[Job]) -> None:
        """Average what is fresh, and do target <- keep * target + lmo(source)."""
        # Those to be transposed last, so that each sort is one call.
        self.entries.sort(key=lambda entry: entry.flip)
        device = self.entries[0].like.device
        borrowed = _Borrowed()
        with _on(device):
            addresses = self._addresses.on(device, self._all_addresses(jobs, borrowed))
            numbers = self._all_numbers(jobs, device)
            if self._kind == "sign":
                self._signs(addresses, numbers, jobs)
            else:
                for start, stop in self._chunks():
                    self._spectral(addresses, numbers, start, stop, jobs)
            borrowed.give_back()

    # --- tables ---

    def _all_addresses(self, jobs: list[Job], borrowed: "_Borrowed") -> list[list[int]]:
        """Return addresses of targets, sources and new gradients."""
        found: list[list[int]] = [[], [], []]
        for entry in self.entries:
            job = jobs[entry.job]
            for row, tensors in zip(found, (job.targets, job.sources, job.fresh), strict=True):
                if tensors is not None:
                    tensor = tensors[entry.parameter]
                    fits = borrowed.fitting(tensor, entry.like, returned=tensors is not job.fresh)
                    first = fits.data_ptr()
                    row += [first + offset for offset in entry.offsets]
        return found if found[2] else found[:2]

    def _all_numbers(self, jobs: list[Job], device: torch.device) -> Tensor:
        """Return weights of new gradients, factors of targets, and lengths: (3, matrices)."""
        columns: list[list[tuple[Number, Entry]]] = [[], [], []]
        for entry in self.entries:
            job = jobs[entry.job]
            length = job.length * -entry.scale
            for column, value in zip(columns, (job.alpha, job.keep, length), strict=True):
                column.append((value, entry))
        if any(isinstance(value, Tensor) for column in columns for value, _ in column):
            rows = [torch.cat([_each(v, e, device) for v, e in column]) for column in columns]
            return torch.stack(rows)
        plain = [[v for v, e in column for _ in e.offsets] for column in columns]
        return self._numbers.on(device, plain)

    # --- steps ---

    def _fresh(self, addresses: Tensor, jobs: list[Job]) -> Tensor | None:
        return None if jobs[self.entries[0].job].fresh is None else addresses[2]

    def _signs(self, addresses: Tensor, numbers: Tensor, jobs: list[Job]) -> None:
        from transfer.kernels.elementwise import sign_step

        first = self.entries[0]
        fresh = self._fresh(addresses, jobs)
        sign_step(addresses[0], addresses[1], fresh, numbers, first.numel, first.like.dtype)

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of matrices whose iteration fits the workspace; one at least."""
        small, large = sorted((self.entries[0].rows, self.entries[0].columns))
        # Two iterates and three matrices of the smaller side in bfloat16, partial sums of squares
        # in float64.
        each = 4 * small * large + 6 * small * small + 8 * (small * large // 4096 + 2)
        num = sum(len(entry.offsets) for entry in self.entries)
        size = min(max(1, self._workspace_bytes // each), 2**15)
        size = -(-num // -(-num // size))  # a small last part would leave the GPU half idle
        for start in range(0, num, size):
            yield start, min(start + size, num)

    def _spectral(
        self, addresses: Tensor, numbers: Tensor, start: int, stop: int, jobs: list[Job]
    ) -> None:
        from transfer.kernels.elementwise import inverse_lengths, move, normalise

        first, fresh = self.entries[0], self._fresh(addresses, jobs)
        dtype, (small, large) = first.like.dtype, sorted((first.rows, first.columns))
        new = None if fresh is None else fresh[start:stop]
        inverse = inverse_lengths(
            addresses[1, start:stop], new, numbers[0, start:stop], first.numel, dtype
        )
        x = torch.empty((stop - start, small, large), dtype=torch.bfloat16, device=addresses.device)
        for a, b, columns, flip in self._spans(start, stop):
            here = slice(a - start, b - start)
            normalise(addresses[1, a:b], inverse[here], x[here], columns, flip, dtype)
        x = newton_schulz(x, self._kind.coefficients, overwrite=True)
        for a, b, columns, flip in self._spans(start, stop):
            here = slice(a - start, b - start)
            keeps, lengths = numbers[1, a:b], numbers[2, a:b]
            move(addresses[0, a:b], keeps, lengths, x[here], columns, flip, dtype)

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int, int, bool]]:
        """Yield ranges of matrices of one orientation, their columns, and whether to transpose."""
        end = 0
        for flip in (False, True):
            own = [entry for entry in self.entries if entry.flip == flip]
            begin, end = end, end + sum(len(entry.offsets) for entry in own)
            a, b = max(begin, start), min(end, stop)
            if a < b:
                yield a, b, own[0].columns, flip


def batch_key(entry: Entry, norm: Norm, workspace_mb: float) -> tuple[Any, ...]:
    """Return what entries of one batch must share."""
    kind, like = _kind(norm), entry.like
    size = entry.numel if kind == "sign" else tuple(sorted((entry.rows, entry.columns)))
    return kind, size, like.dtype, like.device, workspace_mb


def make_batch(norm: Norm, workspace_mb: float) -> FusedBatch:
    """Return an empty batch for entries of this norm."""
    return FusedBatch(_kind(norm), int(workspace_mb * 2**20))


def _each(value: Number, entry: Entry, device: torch.device) -> Tensor:
    """Return a number for every matrix of an entry."""
    num = len(entry.offsets)
    if not isinstance(value, Tensor):
        return torch.full((num,), value, dtype=torch.float32, device=device)
    value = send(value.float(), device)
    if value.ndim == 0:
        return value.expand(num)
    return value.unsqueeze(1).expand(-1, num // value.shape[0]).reshape(-1)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class _Sent:
    """A table on the device, sent again when it changes."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._known: tuple[Any, Tensor] | None = None

    def on(self, device: torch.device, rows: list[list[Any]]) -> Tensor:
        """Return the table."""
        if self._known is None or self._known[0] != rows:
            self._known = rows, send(torch.tensor(rows, dtype=self._dtype), device)
        return self._known[1]


class _Borrowed:
    """Copies of tensors that lie otherwise in memory than their parameter."""

    def __init__(self) -> None:
        self._pairs: list[tuple[Tensor, Tensor, bool]] = []

    def fitting(self, tensor: Tensor, like: Tensor, returned: bool) -> Tensor:
        """Return the tensor, or a copy that lies as `like`; `returned`: to be written back."""
        if tensor.stride() == like.stride() and tensor.data_ptr() % _ALIGNED == 0:
            return tensor
        for known, copy, _ in self._pairs:
            if known is tensor:
                return copy
        copy = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)
        copy.copy_(tensor)
        self._pairs.append((tensor, copy, returned))
        return copy

    def give_back(self) -> None:
        """Write copies back."""
        for tensor, copy, returned in self._pairs:
            if returned:
                tensor.copy_(copy)
