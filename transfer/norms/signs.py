"""Norms of the largest entry, whose oracle is the sign."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from transfer.norms.base import Norm, random_signs


@dataclass(frozen=True)
class SignNorm(Norm):
    """max |A_ij| / c over all entries; the dual norm is c times the sum of magnitudes."""

    @abstractmethod
    def _factor(self, shape: tuple[int, ...]) -> float: ...

    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-self.event_ndim, 0))

    def _norm(self, x: Tensor) -> Tensor:
        return x.abs().amax(self._dims()) / self._factor(x.shape)

    def _dual_norm(self, s: Tensor) -> Tensor:
        return self._factor(s.shape) * s.abs().sum(self._dims())

    def _direction(self, g: Tensor) -> Tensor:
        return g.sign()

    def _scale(self, x: Tensor) -> float:
        return self._factor(x.shape)

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Random signs, times c."""
        return self._factor(shape) * random_signs(shape, generator)


@final
class Sign(SignNorm):
    """1 -> inf operator norm, max |A_ij|: one-hot inputs."""

    event_ndim: ClassVar[int] = 2

    def _factor(self, shape: tuple[int, ...]) -> float:
        return 1.0


@final
class ScaledSign(SignNorm):
    """d_in * max |A_ij|: output layers, and hidden ones when Sign is used throughout."""

    event_ndim: ClassVar[int] = 2

    def _factor(self, shape: tuple[int, ...]) -> float:
        return 1 / shape[-1]


@final
class MaxNorm(SignNorm):
    """||x||_inf of a tensor of any shape."""

    event_ndim: ClassVar[int] = 1
    any_shape: ClassVar[bool] = True

    def _factor(self, shape: tuple[int, ...]) -> float:
        return 1.0
