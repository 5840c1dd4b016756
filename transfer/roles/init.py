"""Initialisations that do not follow from a norm: standard parametrisation, and slice by slice."""

import math

import torch
from torch import Size, nn

from transfer.config import RoleConfig, require
from transfer.norms import make_norm
from transfer.norms.base import gaussian
from transfer.norms.spectral import semi_orthogonal
from transfer.roles.table import ParameterRow


@torch.no_grad()
def fan_in_(
    p: nn.Parameter, row: ParameterRow, generator: torch.Generator | None, scale: float = 1.0
) -> None:
    """Fill with N(0, scale^2 / d_in) in place, the standard parametrisation.

    One-hot inputs have one input at a time: N(0, scale^2). Biases are 0, gains 1; a convolution's
    d_in counts its kernel positions.
    """
    if row.role == "bias":
        p.zero_()
    elif row.role == "gain":
        p.fill_(1.0)
    else:
        fan_in = 1 if row.role == "embedding" else _fan_in(row)
        p.copy_(scale * gaussian(tuple(p.shape), generator) / math.sqrt(fan_in))


def _fan_in(row: ParameterRow) -> int:
    return row.layout.event_shapes(Size(row.shape), 2)[0][1]


@torch.no_grad()
def slicewise_(
    p: nn.Parameter, row: ParameterRow, rule: RoleConfig, generator: torch.Generator | None
) -> None:
    """Fill a convolution with semi-orthogonal matrices (out, in) at every kernel position.

    Each is multiplied by the radius and the ball's factor sqrt(out / in) / prod(k), as in the
    authors' code; the whole then lies outside the ball.

    Raises:
        ValueError: the parameter is no convolution with norm conv-spectral.
    """
    fits = rule.norm == "conv-spectral"
    require(fits, f"norm of {row.name}", "conv-spectral for init slicewise", rule.norm)
    layout = row.layout_for(rule.norm)
    norm = make_norm(rule.norm)
    groups, d_out, d_in, kernel = layout.to_events(p, norm.event_ndim).shape
    slices = semi_orthogonal((groups, kernel, d_out, d_in), generator)
    factor = rule.radius * math.sqrt(d_out / d_in) / kernel
    p.copy_(layout.from_events(factor * slices.movedim(1, -1), p.shape))
