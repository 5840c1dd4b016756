"""The abstract norm, and what the families of norms share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from transfer.layouts import Layout, default_layout
from transfer.polar import rescale

Radius = float | Tensor


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class Norm(ABC):
    """A norm with its dual, its LMO and an initialisation on the boundary of its ball.

    Subclasses give the formulas for inputs whose largest entry has magnitude 1; this class
    brings any input to that size and back, so that sizes from 1e-30 to 1e30 work in float32.
    """

    event_ndim: ClassVar[int]
    """Dimensions of one object: 1 for vectors, 2 for matrices (d_out, d_in), 3 for convolutions
    (d_out, d_in, kernel positions)."""
    any_shape: ClassVar[bool] = False
    """Whether a parameter of any shape is one long vector unless a layout says otherwise."""

    def norm(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        """Return the norm of each matrix or vector."""
        return self._homogeneous(x, self._norm)

    def dual_norm(self, s: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        """Return max of <s, x> over norm(x) <= 1 for each matrix or vector."""
        return self._homogeneous(s, self._dual_norm)

    def lmo(self, g: Float[Tensor, "*shape"], radius: Radius = 1.0) -> Float[Tensor, "*shape"]:
        """Minimise <g, x> over norm(x) <= radius.

        Args:
            g: Gradient or its average; only its direction matters.
            radius: Ball radius, in units of this norm; a tensor gives one per batch entry.

        Returns:
            A point of the sphere; 0 where g is 0, NaN where g is not finite.
        """
        x, peak = rescale(_wide(g), self.event_ndim)
        if isinstance(radius, Tensor):
            radius = radius.to(x).reshape(radius.shape + (1,) * self.event_ndim)
        # One entry that is not finite spoils its matrix: 0 times it is NaN.
        length = peak * 0 - self._scale(x) * radius
        return (self._direction(x) * length).to(g.dtype)

    @classmethod
    def layout(
        cls,
        name: str | None = None,
        split_sizes: Sequence[int] = (),
        groups: int = 1,
        stacked: bool = False,
    ) -> Layout:
        """Return the layout of that name, or the one that parameters of this norm have otherwise.

        Raises:
            ValueError: an unknown name, or sizes that do not fit it.
        """
        chosen = default_layout(cls.event_ndim, cls.any_shape) if name is None else name
        return Layout(
            name=chosen,  # type: ignore[arg-type]
            split_sizes=tuple(split_sizes),
            groups=groups,
            stacked=stacked,
        )

    @torch.no_grad()
    def init_(
        self,
        x: Tensor,
        radius: float = 1.0,
        generator: torch.Generator | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """Fill `x` in place with this norm's initialisation, times `radius`, and return it.

        Drawn in float64 on the CPU, so that a seed gives the same weights on every device.

        Args:
            x: A parameter, or without a layout one or more objects (*batch, *event).
            radius: Norm of the result, except for biases, which are zero.
            generator: Of the CPU.
            layout: How a parameter holds its matrices.
        """
        if layout is None and self.any_shape:
            layout = self.layout()
        for block in [x] if layout is None else layout.blocks(x):
            if layout is None:
                block.copy_(radius * self._init(tuple(block.shape), generator))
            else:
                shape = layout.to_events(block, self.event_ndim).shape
                values = radius * self._init(tuple(shape), generator)
                block.copy_(layout.from_events(values, block.shape))
        return x

    def _homogeneous(self, x: Tensor, formula: Callable[[Tensor], Tensor]) -> Tensor:
        scaled, peak = rescale(_wide(x), self.event_ndim)
        value = formula(scaled)
        return value * peak.reshape(value.shape)

    @abstractmethod
    def _norm(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _dual_norm(self, s: Tensor) -> Tensor: ...

    @abstractmethod
    def _direction(self, g: Tensor) -> Tensor:
        """Maximise <g, x> over the ball of radius 1, up to the factor `_scale`."""

    @abstractmethod
    def _scale(self, x: Tensor) -> float:
        """Return the factor that only the shape of an event decides."""

    @abstractmethod
    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor: ...


def gaussian(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")


def random_signs(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    bits = torch.randint(0, 2, shape, generator=generator, dtype=torch.float64, device="cpu")
    return bits * 2 - 1


def unit(x: Tensor, dim: int) -> Tensor:
    """Divide by the Euclidean length along `dim`; zero stays zero."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / torch.where(length == 0, torch.ones_like(length), length)
