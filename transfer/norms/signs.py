"""Norms of the largest entry, whose oracle is the sign."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from transfer.norms.base import Norm, random_signs


@dataclass(frozen=True)
class _SignNorm(Norm):
    """max |A_ij| / c over all entries; the dual norm is c times the sum of magnitudes."""

    @abstractmethod
    def _factor(self, shape: tuple[int, ...]) -> float: ...

    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-self.event_ndim, 0))

    def _norm(self, x: Tensor) -> Tensor:
        return x.abs().amax(self._dims()) / self._factor(x.shape)

    def _dual_norm(self, s: Tensor) -> Tensor:
        return self._factor(s.shape) * s.abs().sum(self._dims())

    def _lmo(self, g: Tensor) -> Tensor:
        spoiled = torch.where(torch.isfinite(g).all(-1, keepdim=True), 0.0, torch.nan)
        if self.event_ndim == 2:
            spoiled = spoiled.sum(-2, keepdim=True)
        # sign(NaN) is 0 or NaN depending on the device; say NaN.
        return -self._factor(g.shape) * g.sign() + spoiled.to(g.dtype)

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Random signs, times c."""
        return self._factor(shape) * random_signs(shape, generator)


@final
class Sign(_SignNorm):
    """1 -> inf operator norm, max |A_ij|: one-hot inputs."""

    event_ndim: ClassVar[int] = 2

    def _factor(self, shape: tuple[int, ...]) -> float:
        return 1.0


@final
class ScaledSign(_SignNorm):
    """d_in * max |A_ij|: output layers, and hidden ones when Sign is used throughout."""

    event_ndim: ClassVar[int] = 2

    def _factor(self, shape: tuple[int, ...]) -> float:
        return 1 / shape[-1]


@final
class MaxNorm(_SignNorm):
    """||x||_inf of a tensor of any shape."""

    event_ndim: ClassVar[int] = 1
    any_shape: ClassVar[bool] = True

    def _factor(self, shape: tuple[int, ...]) -> float:
        return 1.0
