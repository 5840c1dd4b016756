"""Readable restatements of the norms, of Scion and of ALMOND: one matrix, one entry at a time.

Written from the formulas, not from the code under test: plain loops and one SVD per matrix, no
batches, no rescaling. Float64 only. `d_out` is the number of rows, `d_in` of columns.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReferenceNorm:
    """The formulas of one row of the table of norms."""

    norm: Callable[[Tensor], float]
    dual_norm: Callable[[Tensor], float]
    lmo: Callable[[Tensor], Tensor]
    """At radius 1."""


# --- pieces ---


def sigmas(a: Tensor) -> list[float]:
    """Singular values, largest first."""
    return [float(value) for value in torch.linalg.svd(a).S]


def uv(a: Tensor) -> Tensor:
    """Sum of u_i v_i^T over the singular values that are not rounding noise."""
    u, sigma, vh = torch.linalg.svd(a)
    noise = max(a.shape) * torch.finfo(a.dtype).eps * sigma[0]
    total = torch.zeros_like(a)
    for i, value in enumerate(sigma):
        if value > noise:
            total += torch.outer(u[:, i], vh[i, :])
    return total


def length(x: Tensor) -> float:
    """Euclidean length of all entries as one vector."""
    return math.sqrt(sum(float(entry) ** 2 for entry in x.flatten()))


def columns(a: Tensor) -> list[float]:
    """Length of each column."""
    return [length(a[:, j]) for j in range(a.shape[1])]


def rows(a: Tensor) -> list[float]:
    """Length of each row."""
    return [length(a[i, :]) for i in range(a.shape[0])]


def largest(x: Tensor) -> float:
    """Largest magnitude."""
    return max(abs(float(entry)) for entry in x.flatten())


def total(x: Tensor) -> float:
    """Sum of magnitudes."""
    return sum(abs(float(entry)) for entry in x.flatten())


def signs(x: Tensor) -> Tensor:
    """-1, 0 or 1 for every entry."""
    flat = [(entry > 0) - (entry < 0) for entry in x.flatten().tolist()]
    return torch.tensor(flat, dtype=x.dtype).reshape(x.shape)


def unit(x: Tensor) -> Tensor:
    """x / ||x||_2, and 0 for 0."""
    size = length(x)
    return x / size if size > 0 else torch.zeros_like(x)


def unit_columns(a: Tensor) -> Tensor:
    """Every column divided by its length."""
    return torch.stack([unit(a[:, j]) for j in range(a.shape[1])], dim=1)


def unit_rows(a: Tensor) -> Tensor:
    """Every row divided by its length."""
    return torch.stack([unit(a[i, :]) for i in range(a.shape[0])], dim=0)


# --- the table, one row each: norm, dual norm, lmo / rho ---

TABLE: dict[str, ReferenceNorm] = {
    "spectral": ReferenceNorm(
        lambda a: math.sqrt(a.shape[1] / a.shape[0]) * sigmas(a)[0],
        lambda s: math.sqrt(s.shape[0] / s.shape[1]) * sum(sigmas(s)),
        lambda s: -math.sqrt(s.shape[0] / s.shape[1]) * uv(s),
    ),
    "plain-spectral": ReferenceNorm(
        lambda a: sigmas(a)[0],
        lambda s: sum(sigmas(s)),
        lambda s: -uv(s),
    ),
    "spectral-max": ReferenceNorm(
        lambda a: sigmas(a)[0] / max(1.0, math.sqrt(a.shape[0] / a.shape[1])),
        lambda s: max(1.0, math.sqrt(s.shape[0] / s.shape[1])) * sum(sigmas(s)),
        lambda s: -max(1.0, math.sqrt(s.shape[0] / s.shape[1])) * uv(s),
    ),
    "embedding-spectral": ReferenceNorm(
        lambda a: sigmas(a)[0] / math.sqrt(a.shape[0]),
        lambda s: math.sqrt(s.shape[0]) * sum(sigmas(s)),
        lambda s: -math.sqrt(s.shape[0]) * uv(s),
    ),
    "col-norm": ReferenceNorm(
        lambda a: max(columns(a)) / math.sqrt(a.shape[0]),
        lambda s: math.sqrt(s.shape[0]) * sum(columns(s)),
        lambda s: -math.sqrt(s.shape[0]) * unit_columns(s),
    ),
    "hidden-col-norm": ReferenceNorm(
        lambda a: a.shape[1] / math.sqrt(a.shape[0]) * max(columns(a)),
        lambda s: math.sqrt(s.shape[0]) / s.shape[1] * sum(columns(s)),
        lambda s: -math.sqrt(s.shape[0]) / s.shape[1] * unit_columns(s),
    ),
    "row-norm": ReferenceNorm(
        lambda a: math.sqrt(a.shape[1]) * max(rows(a)),
        lambda s: sum(rows(s)) / math.sqrt(s.shape[1]),
        lambda s: -unit_rows(s) / math.sqrt(s.shape[1]),
    ),
    "input-row-norm": ReferenceNorm(
        lambda a: max(rows(a)),
        lambda s: sum(rows(s)),
        lambda s: -unit_rows(s),
    ),
    "sign": ReferenceNorm(largest, total, lambda s: -signs(s)),
    "scaled-sign": ReferenceNorm(
        lambda a: a.shape[1] * largest(a),
        lambda s: total(s) / s.shape[1],
        lambda s: -signs(s) / s.shape[1],
    ),
    "conv-spectral": ReferenceNorm(
        lambda a: a.shape[2] / math.sqrt(a.shape[0] / a.shape[1]) * sigmas(a.flatten(1))[0],
        lambda s: math.sqrt(s.shape[0] / s.shape[1]) / s.shape[2] * sum(sigmas(s.flatten(1))),
        lambda s: (
            -math.sqrt(s.shape[0] / s.shape[1]) / s.shape[2] * uv(s.flatten(1)).reshape(s.shape)
        ),
    ),
    "bias-rms": ReferenceNorm(
        lambda b: length(b) / math.sqrt(len(b)),
        lambda s: math.sqrt(len(s)) * length(s),
        lambda s: -math.sqrt(len(s)) * unit(s),
    ),
    "gain-rms": ReferenceNorm(
        lambda b: length(b) / math.sqrt(b.numel()),
        lambda s: math.sqrt(s.numel()) * length(s),
        lambda s: -math.sqrt(s.numel()) * unit(s),
    ),
    "euclidean": ReferenceNorm(length, length, lambda s: -unit(s)),
    "max-norm": ReferenceNorm(largest, total, lambda s: -signs(s)),
}


# --- Newton-Schulz, Scion, ALMOND ---


def newton_schulz(s: Tensor, coefficients: tuple[tuple[float, float, float], ...]) -> Tensor:
    """X <- aX + b(XX^T)X + c(XX^T)^2 X from X = S / ||S||_F."""
    x = unit(s)
    for a, b, c in coefficients:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x


@dataclass
class Layer:
    """One parameter, its settings and its average d, which starts at zero."""

    x: Tensor
    norm: str
    radius: float
    stepsize: float
    alpha: float
    constrained: bool
    d: Tensor

    def step(self, g: Tensor) -> None:
        """Algorithm 1 (unconstrained) or 2 (constrained) of Pethick et al. 2025, one layer."""
        self.d = self.alpha * g + (1 - self.alpha) * self.d
        move = self.stepsize * self.radius * self.lmo(self.d)
        self.x = (1 - self.stepsize if self.constrained else 1) * self.x + move

    def almond_step(self, g: Tensor) -> None:
        """ALMOND of Pethick et al. 2025, one layer: d averages oracles of norm `radius`."""
        self.d = self.alpha * self.radius * self.lmo(g) + (1 - self.alpha) * self.d
        self.x = self.x + self.stepsize * self.d

    def lmo(self, d: Tensor) -> Tensor:
        """The oracle at radius 1; leading dimensions hold separate matrices."""
        oracle = TABLE[self.norm].lmo
        if self.norm in ("euclidean", "max-norm", "gain-rms"):
            return oracle(d.flatten()).reshape(d.shape)
        if d.ndim <= (3 if self.norm == "conv-spectral" else 2):
            return oracle(d)
        return torch.stack([self.lmo(part) for part in d])
