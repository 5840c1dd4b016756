"""Polar factor U V^T of a matrix S = U diag(sigma) V^T, exactly or by Newton-Schulz.

Every back end takes (*batch, d_out, d_in), keeps dtype and device, depends on the direction of
S only, gives 0 for a zero matrix and NaN for a matrix that is not finite without touching the
others of the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from transfer.coefficients import COEFFICIENTS, Coefficients, parse_polar

PolarFn = Callable[[Tensor], Tensor]


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half precision is computed in float32; float32 and float64 stay."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def rescale(x: Tensor, num_dims: int) -> tuple[Tensor, Tensor]:
    """Divide by the largest magnitude over the last `num_dims` dimensions.

    Squares then neither overflow nor vanish, whatever the size of a gradient. An additive
    epsilon instead would change the direction of small gradients.

    Returns:
        The rescaled tensor and the divisor (dimensions kept): 1 for zeros, not finite where
        an entry is not.
    """
    peak = x.abs().amax(dim=tuple(range(-num_dims, 0)), keepdim=True)
    peak = torch.where(peak == 0, torch.ones_like(peak), peak)
    return x / peak, peak


@dataclass(frozen=True, slots=True)
class SvdPolar:
    """Exact polar factor by singular value decomposition.

    Singular values below max(d_out, d_in) * eps * sigma_max are dropped: on the null space of a
    rank-deficient gradient (batch smaller than width) U V^T is arbitrary noise.
    """

    def __call__(self, s: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        dtype = _compute_dtype(s.dtype)
        x, peak = rescale(s.to(dtype), 2)
        # A batched SVD raises for all when one matrix is not finite: mask that one, mark it after.
        finite = torch.isfinite(peak) & torch.isfinite(x).all(dim=(-2, -1), keepdim=True)
        u, sigma, vh = torch.linalg.svd(torch.where(finite, x, 0.0), full_matrices=False)
        cutoff = max(s.shape[-2:]) * torch.finfo(dtype).eps * sigma[..., :1]
        kept = (sigma > cutoff).to(dtype)
        polar = (u * kept.unsqueeze(-2)) @ vh
        return torch.where(finite, polar, torch.nan).to(s.dtype)


@dataclass(frozen=True, slots=True)
class NewtonSchulz:
    """Approximate polar factor by an odd quintic iteration.

    Singular values end near 1, not at 1: five steps overshoot to at most 1.21 (muon), 1.15
    (quintic), 1.13 (polar express), and values far below the largest stay small. The bounds are
    `OVERSHOOT_5` in coefficients.py.
    """

    coefficients: Coefficients

    def __call__(self, s: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        x, _ = rescale(s.to(_compute_dtype(s.dtype)), 2)
        # The Gram matrix of the smaller side is the cheaper one.
        flip = x.shape[-2] > x.shape[-1]
        x = x.mT if flip else x
        frobenius = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
        x = x / torch.where(frobenius == 0, torch.ones_like(frobenius), frobenius)
        for a, b, c in self.coefficients:
            gram = x @ x.mT
            x = a * x + (b * gram + c * (gram @ gram)) @ x
        return (x.mT if flip else x).to(s.dtype)


def make_polar(name: str) -> PolarFn:
    """Build a polar back end: `svd`, or a Newton-Schulz set with steps, as `polar-express:8`.

    Raises:
        ValueError: unknown name or number of steps.
    """
    base, steps = parse_polar(name)
    if base == "svd":
        return SvdPolar()
    table = COEFFICIENTS[base]
    # The muon triple may be repeated more often than its table is long.
    return NewtonSchulz((table * (steps // len(table) + 1))[:steps])
