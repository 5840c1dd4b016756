"""Norms of the largest singular value: operators between spaces of root mean square."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from transfer.norms.base import Norm, gaussian
from transfer.polar import PolarFn, SvdPolar, polar_of_unit


@dataclass(frozen=True)
class SpectralNorm(Norm):
    """sigma_max(M) / c, with c given by the shape; the dual norm is c times the nuclear norm.

    M is the matrix itself, or a convolution's kernels reshaped to (d_out, d_in * kernel).
    """

    event_ndim: ClassVar[int] = 2
    polar: PolarFn = field(default_factory=SvdPolar)
    """Exact by default; an iterative one overshoots the sphere by its stated bound."""

    @abstractmethod
    def _factor(self, d_out: int, d_in: int, kernel: int = 1) -> float: ...

    def _matrix(self, x: Tensor) -> Tensor:
        return x.flatten(1 - self.event_ndim)

    def _scale(self, x: Tensor) -> float:
        return self._factor(*x.shape[-self.event_ndim :])

    def _norm(self, x: Tensor) -> Tensor:
        return _singular_values(self._matrix(x))[..., 0].div(self._scale(x))

    def _dual_norm(self, s: Tensor) -> Tensor:
        return self._scale(s) * _singular_values(self._matrix(s)).sum(-1)

    def _direction(self, g: Tensor) -> Tensor:
        return polar_of_unit(self.polar, self._matrix(g)).reshape(g.shape)

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Semi-orthogonal, uniformly distributed, times c."""
        event = len(shape) - self.event_ndim
        size = (*shape[: event + 1], math.prod(shape[event + 1 :]))
        return self._factor(*shape[event:]) * semi_orthogonal(size, generator).reshape(shape)


def semi_orthogonal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Draw matrices (*batch, d_out, d_in) with singular values 1, uniformly (Haar).

    Drawn on the CPU, made orthogonal on torch's default device: seconds instead of minutes for
    wide models on a GPU, with the same weights to rounding.
    """
    *batch, d_out, d_in = shape
    drawn = gaussian((*batch, max(d_out, d_in), min(d_out, d_in)), generator)
    q = _orthogonal(drawn.to(torch.get_default_device()))
    return q if d_out >= d_in else q.mT


def _orthogonal(x: Tensor) -> Tensor:
    """Return Q of X = Q R where R has a positive diagonal, for X (*batch, long, short), float64."""
    if x.is_cuda:
        # QR goes column by column, which keeps a GPU waiting. The triangle is also the Cholesky
        # factor of X^T X; done twice, Q is orthogonal to rounding where X^T X has such a factor.
        once, failed = _cholesky_q(x)
        twice, failed_again = _cholesky_q(once)
        if not (failed | failed_again):
            return twice
    q, r = torch.linalg.qr(x)
    # Without the signs QR's result would not be uniform.
    signed: Tensor = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return signed


def _cholesky_q(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return X R^-1 with R^T R = X^T X, and whether there is no such R for some matrix."""
    triangle, info = torch.linalg.cholesky_ex(x.mT @ x, upper=True)
    return torch.linalg.solve_triangular(triangle, x, upper=True, left=False), (info != 0).any()


def _singular_values(x: Tensor) -> Tensor:
    """Descending singular values; NaN for a matrix that is not finite, the others untouched."""
    finite = torch.isfinite(x).all(dim=(-2, -1), keepdim=True)
    values = torch.linalg.svdvals(torch.where(finite, x, 0.0))
    return torch.where(finite.squeeze(-1), values, torch.nan)


@final
class Spectral(SpectralNorm):
    """RMS -> RMS operator norm, sqrt(d_in / d_out) * sigma_max(A): hidden layers."""

    def _factor(self, d_out: int, d_in: int, kernel: int = 1) -> float:
        return math.sqrt(d_out / d_in)


@final
class PlainSpectral(SpectralNorm):
    """sigma_max(A), without RMS scaling."""

    def _factor(self, d_out: int, d_in: int, kernel: int = 1) -> float:
        return 1.0


@final
class SpectralMax(SpectralNorm):
    """sigma_max(A) / max(1, sqrt(d_out / d_in)): dense input layers.

    The max matters when the width is below the input dimension.
    """

    def _factor(self, d_out: int, d_in: int, kernel: int = 1) -> float:
        return max(1.0, math.sqrt(d_out / d_in))


@final
class EmbeddingSpectral(SpectralNorm):
    """2 -> RMS operator norm, sigma_max(A) / sqrt(d_out): one-hot inputs."""

    def _factor(self, d_out: int, d_in: int, kernel: int = 1) -> float:
        return math.sqrt(d_out)


@final
class ConvSpectral(SpectralNorm):
    """sigma_max(M) prod(k) / sqrt(out / in): convolutions, M = (out, in * prod(k)).

    Takes kernels (*batch, out, in, prod(k)); `Layout` brings any convolution's weight to this form,
    with out and in those of one group.
    """

    event_ndim: ClassVar[int] = 3

    def _factor(self, d_out: int, d_in: int, kernel: int = 1) -> float:
        return math.sqrt(d_out / d_in) / kernel
