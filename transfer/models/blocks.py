"""Transformer blocks: pre-normalised attention and MLP without gains or biases.

Shapes: B batch, T positions, D width, H heads, K head dimension.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from transfer.config import RoleOverride
from transfer.models import passes
from transfer.models.attention import attend
from transfer.models.linear import Linear
from transfer.models.lookup import lookup

Activation = Literal["gelu", "relu-squared"]
_MLP_RATIO = 4
_ROTARY_BASE = 10_000.0


def residual_multiplier(name: str, depth: int) -> float:
    """Return the factor of every residual branch in a model of `depth` blocks."""
    return {"1": 1.0, "1/sqrt(L)": 1 / math.sqrt(depth), "1/L": 1 / depth}[name]


def rms_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over the last dimension; no gains."""
    return F.rms_norm(x, (x.shape[-1],))


class Attention(nn.Module):
    """Multi-head self-attention with separate projections.

    Args:
        width: D.
        head_dim: K; divides D.
        length: Most positions, where they see only themselves and earlier ones, with rotary
            positions and normalised queries and keys; None: all see all, and the input carries the
            positions.
    """

    turns: Tensor

    def __init__(self, width: int, head_dim: int, length: int | None) -> None:
        super().__init__()
        self.head_dim, self.causal = head_dim, length is not None
        self.register_buffer("turns", turns(length or 0, head_dim), persistent=False)
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.project = Linear(width, width)

    def forward(
        self, x: Float[Tensor, "*rows D"], tokens: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix the positions.

        Args:
            x: (B, T, D), or with tokens (V, D), a row for each of the vocabulary.
            tokens: Which of the rows are at the positions.
        """
        q, k, v = (layer(x) for layer in (self.query, self.key, self.value))
        if tokens is not None:
            q, k, v = (lookup(rows, tokens) for rows in (q, k, v))
        now = self.turns[:, : q.shape[1]]
        fused = self.causal and passes.takes(q) and self.head_dim.bit_count() == 1
        if fused:
            q, k = (passes.rotary(y, now, self.head_dim) for y in (q, k))
        q, k, v = (self._heads(y) for y in (q, k, v))
        if self.causal and not fused:
            q, k = rotary(rms_norm(q), now), rotary(rms_norm(k), now)
        # Normalising computes in float32 under autocast; attention wants one type for all.
        mixed = attend(q.to(v.dtype), k.to(v.dtype), v, causal=self.causal)
        out: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T K"]:
        return x.reshape(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


def turns(length: int, head_dim: int) -> Float[Tensor, "2 T half"]:
    """Return cosines and sines of the angles that rotary positions turn by, in float64.

    Computed once: inside a compiled backward pass they would be computed for every number again.
    """
    half = head_dim // 2
    rates = _ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), rates)
    return torch.stack([angles.cos(), angles.sin()])


def rotary(x: Float[Tensor, "B H T K"], turns: Float[Tensor, "2 T half"]) -> Tensor:
    """Turn the two halves of every head against each other by angles that grow with the position.

    Su et al. 2021, arXiv:2104.09864: products of queries and keys then depend on the distance of
    their positions alone.
    """
    cos, sin = turns.to(x.dtype).unsqueeze(-2)
    halves = x.reshape(*x.shape[:-1], 2, -1)
    # By a flip: compilers make one pass of it, but load the parts of a concatenation twice.
    turned: Tensor = halves * cos + halves.flip(-2) * torch.cat([-sin, sin], dim=-2)
    return turned.reshape(x.shape)


class FeedForward(nn.Module):
    """Two linear layers, four times as wide in between."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.expand = Linear(width, _MLP_RATIO * width)
        self.project = Linear(_MLP_RATIO * width, width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Transform every position."""
        out: Tensor = self.project(self._activate(self.expand(x)))
        return out

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "gelu":
            if passes.takes(x):
                return passes.gelu(x)
            return math.sqrt(2) * F.gelu(x)
        return (math.sqrt(2) * F.relu(x)).square()


class Block(nn.Module):
    """x + m attention(norm(x)), then x + m mlp(norm(x)), with a residual multiplier m."""

    def __init__(
        self,
        width: int,
        head_dim: int,
        activation: Activation,
        multiplier: float,
        length: int | None,
    ) -> None:
        super().__init__()
        self.multiplier = multiplier
        self.attention = Attention(width, head_dim, length)
        self.mlp = FeedForward(width, activation)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        normed: Float[Tensor, "*rows D"] | None = None,
        tokens: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"] | tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
        """Add both branches.

        Args:
            x: Sum of the branches before.
            normed: norm(x) in bfloat16, where `passes.joins` takes x; norm(result) comes back too.
            tokens: As for `Attention`, in the first block alone.
        """
        if normed is not None:
            x, normed = passes.normed_sum(x, self.attention(normed, tokens), self.multiplier)
            return passes.normed_sum(x, self.mlp(normed), self.multiplier)
        x = x + self.multiplier * self.attention(rms_norm(x))
        out: Tensor = x + self.multiplier * self.mlp(rms_norm(x))
        return out


ZERO_RESIDUAL = {"blocks.*.project.weight": RoleOverride(init="zero")}
"""What a model says of the matrices that end its residual branches if they start at zero."""


def zero_residual_(blocks: nn.ModuleList) -> None:
    """Set the matrices that end a residual branch to zero."""
    for name, p in blocks.named_parameters():
        if name.endswith("project.weight"):
            nn.init.zeros_(p)
