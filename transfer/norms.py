"""Norm balls and their linear minimisation oracles (LMOs).

For a ball of radius rho, lmo(s) = argmin over norm(x) <= rho of <s, x>. It points downhill, so
<s, lmo(s)> = -rho * dual_norm(s), and norm(lmo(s)) = rho for s != 0. (The authors' published
code returns the opposite sign at radius 1.)

Matrices are (*batch, d_out, d_in), vectors (*batch, d); every method treats the leading
dimensions as a batch, keeps the device, and computes half precision in float32 (oracles are
returned in the input's dtype, norms in float32). A norm's name fixes its scaling. The formulas
are the layer norms of Pethick et al. 2025, arXiv:2502.07529; `NORMS` lists them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from transfer.config import NORM_NAMES, unknown
from transfer.polar import PolarFn, SvdPolar, make_polar, rescale

Radius = float | Tensor


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class Norm(ABC):
    """A norm with its dual, its LMO and an initialisation on the boundary of its ball.

    Subclasses give the formulas for inputs whose largest entry has magnitude 1; this class
    brings any input to that size and back, so that sizes from 1e-30 to 1e30 work in float32.
    """

    event_ndim: ClassVar[int]
    """Dimensions of one object: 2 for matrices, 1 for vectors."""
    any_shape: ClassVar[bool] = False
    """Whether a parameter of any shape is taken, as one long vector."""

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
        x, _ = rescale(_wide(g), self.event_ndim)
        if isinstance(radius, Tensor):
            radius = radius.to(x).reshape(radius.shape + (1,) * self.event_ndim)
        return (self._lmo(x) * radius).to(g.dtype)

    @torch.no_grad()
    def init_(
        self, x: Tensor, radius: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Fill `x` in place with this norm's initialisation, times `radius`, and return it.

        Drawn in float64 on the CPU, so that a seed gives the same weights on every device.
        """
        shape = (x.numel(),) if self.any_shape else tuple(x.shape)
        return x.copy_((radius * self._init(shape, generator)).reshape(x.shape))

    def check_shape(self, shape: torch.Size) -> None:
        """Raise ValueError unless a parameter of this shape fits this norm."""
        wanted = {(1, True): "a tensor", (1, False): "a vector (1 dimension)"}.get(
            (self.event_ndim, self.any_shape), "a matrix (2 dimensions, or more as a batch)"
        )
        fits = len(shape) >= 2 if self.event_ndim == 2 else self.any_shape or len(shape) == 1
        if not fits or 0 in shape:
            raise ValueError(
                f"{type(self).__name__} needs {wanted} without empty dimensions, "
                f"got shape {tuple(shape)}"
            )

    def _homogeneous(self, x: Tensor, formula: Callable[[Tensor], Tensor]) -> Tensor:
        scaled, peak = rescale(_wide(x), self.event_ndim)
        value = formula(scaled)
        return value * peak.reshape(value.shape)

    @abstractmethod
    def _norm(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _dual_norm(self, s: Tensor) -> Tensor: ...

    @abstractmethod
    def _lmo(self, g: Tensor) -> Tensor: ...

    @abstractmethod
    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor: ...


def _gaussian(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")


def _random_signs(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    bits = torch.randint(0, 2, shape, generator=generator, dtype=torch.float64, device="cpu")
    return bits * 2 - 1


def _unit(x: Tensor, dim: int) -> Tensor:
    """Divide by the Euclidean length along `dim`; zero stays zero."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / torch.where(length == 0, torch.ones_like(length), length)


# --- singular values -----------------------------------------------------------------------


@dataclass(frozen=True)
class _SpectralNorm(Norm):
    """sigma_max(A) / c, with c given by the shape; the dual norm is c times the nuclear norm."""

    event_ndim: ClassVar[int] = 2
    polar: PolarFn = field(default_factory=SvdPolar)
    """Exact by default; an iterative one overshoots the sphere by its stated bound."""

    @abstractmethod
    def _factor(self, d_out: int, d_in: int) -> float: ...

    def _norm(self, x: Tensor) -> Tensor:
        return _singular_values(x)[..., 0].div(self._factor(*x.shape[-2:]))

    def _dual_norm(self, s: Tensor) -> Tensor:
        return self._factor(*s.shape[-2:]) * _singular_values(s).sum(-1)

    def _lmo(self, g: Tensor) -> Tensor:
        return -self._factor(*g.shape[-2:]) * self.polar(g)

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Semi-orthogonal, uniformly distributed, times c."""
        *batch, d_out, d_in = shape
        q, r = torch.linalg.qr(_gaussian((*batch, max(d_out, d_in), min(d_out, d_in)), generator))
        signed: Tensor = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)
        return self._factor(d_out, d_in) * (signed if d_out >= d_in else signed.mT)


def _singular_values(x: Tensor) -> Tensor:
    """Descending singular values; NaN for a matrix that is not finite, the others untouched."""
    finite = torch.isfinite(x).all(dim=(-2, -1), keepdim=True)
    values = torch.linalg.svdvals(torch.where(finite, x, 0.0))
    return torch.where(finite.squeeze(-1), values, torch.nan)


@final
class Spectral(_SpectralNorm):
    """RMS -> RMS operator norm, sqrt(d_in / d_out) * sigma_max(A): hidden layers."""

    def _factor(self, d_out: int, d_in: int) -> float:
        return math.sqrt(d_out / d_in)


@final
class PlainSpectral(_SpectralNorm):
    """sigma_max(A), without RMS scaling."""

    def _factor(self, d_out: int, d_in: int) -> float:
        return 1.0


@final
class SpectralMax(_SpectralNorm):
    """sigma_max(A) / max(1, sqrt(d_out / d_in)): dense input layers.

    The max matters when the width is below the input dimension.
    """

    def _factor(self, d_out: int, d_in: int) -> float:
        return max(1.0, math.sqrt(d_out / d_in))


@final
class EmbeddingSpectral(_SpectralNorm):
    """2 -> RMS operator norm, sigma_max(A) / sqrt(d_out): one-hot inputs."""

    def _factor(self, d_out: int, d_in: int) -> float:
        return math.sqrt(d_out)


# --- columns and rows ----------------------------------------------------------------------


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

    def _lmo(self, g: Tensor) -> Tensor:
        # One bad entry spoils its matrix, as with the other norms, not its slice alone.
        spoiled = torch.where(torch.isfinite(g).all(dim=(-2, -1), keepdim=True), 0.0, torch.nan)
        # A slice far below the largest keeps its direction: rescale each by itself.
        peak = g.abs().amax(dim=self.dim, keepdim=True)
        g = g / torch.where(peak == 0, torch.ones_like(peak), peak)
        return -self._factor(*g.shape[-2:]) * _unit(g, self.dim) + spoiled.to(g.dtype)

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Gaussian with every slice normalised, times c."""
        return self._factor(*shape[-2:]) * _unit(_gaussian(shape, generator), self.dim)


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


# --- signs ---------------------------------------------------------------------------------


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
        return self._factor(shape) * _random_signs(shape, generator)


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


# --- vectors -------------------------------------------------------------------------------


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

    def _lmo(self, g: Tensor) -> Tensor:
        return -self._factor(g.shape[-1]) * _unit(g, -1)


@final
class BiasRMS(_LengthNorm):
    """||b||_2 / sqrt(d): biases. Initialised to zero, not on the boundary."""

    def _factor(self, d: int) -> float:
        return math.sqrt(d)

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device="cpu")


@final
class Euclidean(_LengthNorm):
    """||x||_2 of a tensor of any shape, as one vector."""

    any_shape: ClassVar[bool] = True

    def _factor(self, d: int) -> float:
        return 1.0

    def _init(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return _unit(_gaussian(shape, generator), -1)


NORMS: dict[str, type[Norm]] = {
    "spectral": Spectral,
    "plain-spectral": PlainSpectral,
    "spectral-max": SpectralMax,
    "embedding-spectral": EmbeddingSpectral,
    "col-norm": ColNorm,
    "hidden-col-norm": HiddenColNorm,
    "row-norm": RowNorm,
    "input-row-norm": InputRowNorm,
    "sign": Sign,
    "scaled-sign": ScaledSign,
    "bias-rms": BiasRMS,
    "euclidean": Euclidean,
    "max-norm": MaxNorm,
}
assert set(NORMS) == set(NORM_NAMES), "config.NORM_NAMES must list the norms built here"


def make_norm(name: str, polar: str = "svd") -> Norm:
    """Build a norm by name; `polar` is used by the spectral ones.

    Raises:
        ValueError: unknown norm or polar factor, with the nearest valid name.
    """
    if name not in NORMS:
        raise ValueError(unknown("norm", name, NORMS))
    kind, polar_factor = NORMS[name], make_polar(polar)
    return kind(polar_factor) if issubclass(kind, _SpectralNorm) else kind()
