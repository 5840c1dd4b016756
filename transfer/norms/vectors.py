"""Norms of the length of a vector."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from transfer.norms.base import Norm, gaussian, unit


@dataclass(frozen=True)
class _LengthNorm(Norm):
    """||x||_2 / c; the dual norm is c ||x||_2."""

    event_ndim: ClassVar[int] = 1

    @abstractmethod
    def _factor(self, d: int) -> float: ...

    def _length(self, x: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(x, dim=-1)
        return length

    def _norm(self, x: Tensor) -> Tensor:
        return self._length(x) / self._factor(x.shape[-1])

    def _dual_norm(self, s: Tensor) -> Tensor:
        return self._factor(s.shape[-1]) * self._length(s)

    def _direction(self, g: Tensor) -> Tensor:
        return unit(g, -1)

    def _scale(self, x: Tensor) -> float:
        return self._factor(x.shape[-1])


@final
class BiasRMS(_LengthNorm):
    """||b||_2 / sqrt(d): biases. Initialised to zero, not on the boundary."""

    def _factor(self, d: int) -> float:
        return math.sqrt(d)

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device="cpu")


@final
class GainRMS(_LengthNorm):
    """||x||_2 / sqrt(d): gains of normalisation layers. Initialised to ones."""

    any_shape: ClassVar[bool] = True

    def _factor(self, d: int) -> float:
        return math.sqrt(d)

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.ones(shape, dtype=torch.float64, device="cpu")


@final
class Euclidean(_LengthNorm):
    """||x||_2 of a tensor of any shape, as one vector."""

    any_shape: ClassVar[bool] = True

    def _factor(self, d: int) -> float:
        return 1.0

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return unit(gaussian(shape, generator), -1)
