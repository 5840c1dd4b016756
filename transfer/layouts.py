"""Layouts: where a parameter's tensor keeps the matrices (d_out, d_in) that its norm is about.

A norm knows matrices and vectors; a parameter may store them transposed (embeddings), with kernel
positions (convolutions), side by side (fused projections), or many at once (experts).
"""

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import torch
from torch import Size, Tensor

from transfer.config import require, unknown

LayoutName = Literal[
    "matrix",
    "transposed",
    "batch",
    "batch-transposed",
    "table",
    "conv",
    "conv-transposed",
    "vector",
    "whole",
]
LAYOUT_NAMES: tuple[str, ...] = get_args(LayoutName)

# Shape in words, least and most dimensions, the dimension that holds d_out.
_KINDS: dict[str, tuple[str, int, int, int]] = {
    "matrix": ("(d_out, d_in)", 2, 2, 0),
    "transposed": ("(d_in, d_out)", 2, 2, -1),
    "batch": ("(..., d_out, d_in)", 3, 99, -2),
    "batch-transposed": ("(..., d_in, d_out)", 3, 99, -1),
    "table": ("(entries..., d_out)", 1, 99, -1),
    "conv": ("(d_out, d_in / groups, kernel...)", 3, 5, 0),
    "conv-transposed": ("(d_in, d_out / groups, kernel...)", 3, 5, 1),
    "vector": ("(d,)", 1, 1, 0),
    "whole": ("of any shape, as one vector", 0, 99, 0),
}
_DEFAULT = {1: "vector", 2: "matrix", 3: "conv"}
_VECTORS = ("vector", "whole")
_CONVOLUTIONS = ("conv", "conv-transposed")
_OBJECTS = {1: "vectors", 2: "matrices", 3: "convolutions"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one parameter's tensor is read as matrices or vectors.

    Args:
        name: matrix (d_out, d_in), as nn.Linear; transposed (d_in, d_out), as GPT-2's Conv1D;
            batch and batch-transposed, the same with leading dimensions, as experts; table
            (entries..., d_out), as nn.Embedding: one-hot inputs, d_in = number of entries; conv
            (d_out, d_in / groups, kernel...); conv-transposed (d_in, d_out / groups, kernel...);
            vector (d,); whole: any shape, as one vector.
        split_sizes: Sizes of blocks side by side along d_out, each a matrix or vector of its own:
            a fused query-key-value projection. Empty means one block.
        groups: Groups of a convolution; each is an operator of its own.
        stacked: Whether the first dimension counts runs, each with such a tensor of its own.

    Raises:
        ValueError: an unknown name, or sizes that are not positive.
    """

    name: LayoutName = "matrix"
    split_sizes: tuple[int, ...] = ()
    groups: int = 1
    stacked: bool = False

    def __post_init__(self) -> None:
        if self.name not in LAYOUT_NAMES:
            raise ValueError(unknown("layout", self.name, LAYOUT_NAMES))
        sizes = self.split_sizes
        good = all(type(size) is int and size > 0 for size in sizes)
        require(good, "split_sizes", "positive whole numbers", sizes)
        counted = type(self.groups) is int and self.groups >= 1
        require(counted, "groups", "a whole number, at least 1", self.groups)
        grouped = self.name in _CONVOLUTIONS or self.groups == 1
        require(grouped, "groups", f"1 in layout {self.name!r}", self.groups)
        splittable = self.name not in (*_CONVOLUTIONS, "whole")
        require(splittable or not sizes, "split_sizes", f"empty in layout {self.name!r}", sizes)

    def blocks(self, x: Tensor) -> list[Tensor]:
        """Return the blocks of a parameter as views of it; writing to them writes to `x`."""
        sizes = list(self.split_sizes)
        if not sizes:
            return [x]
        axis = self._axis
        return list(torch.split(x, sizes, axis + self.stacked if axis >= 0 else axis))

    def to_events(self, block: Tensor, event_ndim: int) -> Tensor:
        """Return a block as (*batch, d), (*batch, d_out, d_in) or (*batch, d_out, d_in, kernel).

        With event_ndim 2 a convolution is a matrix (d_out, d_in * kernel). Runs are the first
        dimension of the batch. A view where torch can.
        """
        runs = block.shape[: self.stacked]
        match self.name:
            case "matrix" | "batch" | "vector":
                return block
            case "whole":
                return block.reshape(*runs, -1)
            case "transposed" | "batch-transposed":
                return block.mT
            case "table":
                return block.reshape(*runs, -1, block.shape[-1]).mT
        first, *rest = block.shape[self.stacked :]
        kernels = block.reshape(*runs, self.groups, first // self.groups, *rest)
        kernels = kernels.flatten(3 + self.stacked)
        if self.name == "conv-transposed":
            kernels = kernels.transpose(-3, -2)
        return kernels if event_ndim == 3 else kernels.flatten(-2)

    def from_events(self, events: Tensor, shape: Size) -> Tensor:
        """Undo `to_events` for a block of this shape."""
        match self.name:
            case "transposed" | "batch-transposed":
                return events.mT
            case "table":
                return events.mT.reshape(shape)
            case "conv-transposed":
                runs, (first, d_out) = shape[: self.stacked], shape[self.stacked :][:2]
                kernels = events.reshape(*runs, self.groups, d_out, first // self.groups, -1)
                return kernels.transpose(-3, -2).reshape(shape)
        return events.reshape(shape)

    def event_shapes(self, shape: Size, event_ndim: int) -> list[tuple[int, ...]]:
        """Return the shape of every block's events without their batch dimensions.

        Args:
            shape: Of the parameter, of one run if runs are stacked.
            event_ndim: Dimensions of one event.

        Raises:
            ValueError: a parameter of this shape cannot be read so.
        """
        self._check(shape, event_ndim)
        if event_ndim == 1:
            return [(size,) for size in self.split_sizes or (prod(shape),)]
        if self.name in _CONVOLUTIONS:
            d_out, d_in = shape[0] // self.groups, shape[1]
            if self.name == "conv-transposed":
                d_out, d_in = d_in, d_out
            kernel = prod(shape[2:])
            return [(d_out, d_in, kernel) if event_ndim == 3 else (d_out, d_in * kernel)]
        d_in = {"table": prod(shape[:-1]), "matrix": shape[-1], "batch": shape[-1]}.get(
            self.name, shape[-2] if len(shape) > 1 else 1
        )
        return [(d_out, d_in) for d_out in self.split_sizes or (shape[self._axis],)]

    @property
    def _axis(self) -> int:
        return _KINDS[self.name][3]

    def _check(self, shape: Size, event_ndim: int) -> None:
        words, least, most, axis = _KINDS[self.name]
        this = f"layout {self.name!r} of shape {tuple(shape)}"
        if 0 in shape:
            raise ValueError(f"{this}: a parameter without entries has no norm; leave it out")
        fitting = fitting_layouts(event_ndim)
        if self.name not in fitting:
            raise ValueError(
                f"layout of a norm of {_OBJECTS[event_ndim]} must be one of {', '.join(fitting)}, "
                f"got {self.name!r} for shape {tuple(shape)}"
            )
        if not least <= len(shape) <= most:
            others = [n for n in fitting if _KINDS[n][1] <= len(shape) <= _KINDS[n][2]]
            raise ValueError(
                f"layout {self.name!r} needs a tensor {words}, got shape {tuple(shape)}; layouts "
                f"for {len(shape)} dimensions: {', '.join(others) or 'none with this norm'}"
            )
        if self.split_sizes and sum(self.split_sizes) != shape[axis]:
            raise ValueError(
                f"{this}: split_sizes must add up to d_out, {shape[axis]}, "
                f"got {self.split_sizes}, together {sum(self.split_sizes)}"
            )
        if self.groups > 1 and shape[0] % self.groups:
            raise ValueError(
                f"{this}: groups must divide the first dimension, {shape[0]}, got {self.groups}"
            )


def fitting_layouts(event_ndim: int) -> list[str]:
    """Return the layouts whose events a norm of vectors, matrices or convolutions can read."""
    if event_ndim == 3:
        return list(_CONVOLUTIONS)
    return [name for name in LAYOUT_NAMES if (event_ndim == 1) == (name in _VECTORS)]


def default_layout(event_ndim: int, any_shape: bool) -> LayoutName:
    """Return the layout that a norm reads if nothing else is said."""
    name: LayoutName = "whole" if any_shape else _DEFAULT[event_ndim]  # type: ignore[assignment]
    return name
