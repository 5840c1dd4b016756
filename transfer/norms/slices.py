"""Norms of the longest column or row."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from transfer.norms.base import Norm, gaussian, unit


@dataclass(frozen=True)
class _SliceNorm(Norm):
    """max over slices of ||slice||_2 / c; the dual norm is c times the sum of slice lengths."""

    event_ndim: ClassVar[int] = 2
    dim: ClassVar[int]
    """Dimension along which a slice runs: -2 for columns, -1 for rows."""

    @abstractmethod
    def _factor(self, d_out: int, d_in: int) -> float: ...

    def _lengths(self, x: Tensor) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(x, dim=self.dim)
        return lengths

    def _norm(self, x: Tensor) -> Tensor:
        return self._lengths(x).amax(-1).div(self._factor(*x.shape[-2:]))

    def _dual_norm(self, s: Tensor) -> Tensor:
        return self._factor(*s.shape[-2:]) * self._lengths(s).sum(-1)

    def _direction(self, g: Tensor) -> Tensor:
        # A slice far below the largest keeps its direction: rescale each by itself.
        peak = g.abs().amax(dim=self.dim, keepdim=True)
        g = g / torch.where(peak == 0, torch.ones_like(peak), peak)
        return unit(g, self.dim)

    def _scale(self, x: Tensor) -> float:
        return self._factor(*x.shape[-2:])

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Gaussian with every slice normalised, times c."""
        return self._factor(*shape[-2:]) * unit(gaussian(shape, generator), self.dim)


@final
class ColNorm(_SliceNorm):
    """1 -> RMS operator norm, max_j ||A_:j||_2 / sqrt(d_out): one-hot inputs."""

    dim: ClassVar[int] = -2

    def _factor(self, d_out: int, d_in: int) -> float:
        return math.sqrt(d_out)


@final
class HiddenColNorm(_SliceNorm):
    """(d_in / sqrt(d_out)) max_j ||A_:j||_2: hidden layers when ColNorm is used throughout."""

    dim: ClassVar[int] = -2

    def _factor(self, d_out: int, d_in: int) -> float:
        return math.sqrt(d_out) / d_in


@final
class RowNorm(_SliceNorm):
    """RMS -> inf operator norm, sqrt(d_in) max_i ||A_i:||_2: output layers."""

    dim: ClassVar[int] = -1

    def _factor(self, d_out: int, d_in: int) -> float:
        return 1 / math.sqrt(d_in)


@final
class InputRowNorm(_SliceNorm):
    """max_i ||A_i:||_2: first layer when RowNorm is used throughout."""

    dim: ClassVar[int] = -1

    def _factor(self, d_out: int, d_in: int) -> float:
        return 1.0
