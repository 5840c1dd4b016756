"""Which ball a parameter has, as a table of roles or an optimizer's group says, and sizes in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transfer.config import RoleConfig
from transfer.layouts import Layout
from transfer.norms import NORMS, make_norm
from transfer.norms.spectral import SpectralNorm
from transfer.roles.build import Roles
from transfer.roles.facts import parameter_facts
from transfer.roles.table import DEFAULT_RULES, ParameterRow, ParameterTable, make_row

EXACT = 1e-3
"""Relative tolerance of a norm in float32, beside the rounding of the weights."""
NEWTON_SCHULZ = (0.65, 1.21)
"""Least and largest norm of five Newton-Schulz steps at radius 1: measured in float32 and bfloat16,
for the coefficient sets of coefficients.py, on Gaussian matrices from rank one to square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ball:
    """The ball of one parameter, and how an update may miss its sphere."""

    role: str
    norm: str
    radius: float
    layout: Layout
    low: float
    """Least size, in radii, of an update on the sphere."""
    high: float

    def sizes(self, x: Tensor) -> Tensor:
        """Return norm / radius of every matrix or vector that a parameter's tensor holds."""
        norm = make_norm(self.norm)
        blocks = [self.layout.to_events(b, norm.event_ndim) for b in self.layout.blocks(x)]
        return torch.cat([norm.norm(block).reshape(-1) for block in blocks]) / self.radius


def ball_of_group(group: Mapping[str, Any], shape: torch.Size) -> Ball | None:
    """Return the ball that an optimizer's group states; None if it states none."""
    if group.get("norm") not in NORMS or "radius" not in group:
        return None
    layout = NORMS[group["norm"]].layout(
        group.get("layout"), group.get("split_sizes", ()), group.get("groups", 1)
    )
    return _ball(group.get("role", ""), group["norm"], group["radius"], [layout], shape, group)


@dataclass(frozen=True, slots=True)
class Stated:
    """The balls that a table of roles states."""

    rows: Mapping[str, ParameterRow]
    rules: Mapping[str, RoleConfig]
    radii: bool
    """Whether the rules state radii, too: the recommended ones are about norms."""

    @classmethod
    def of(cls, model: nn.Module, roles: Roles, rules: Mapping[str, RoleConfig] | None) -> "Stated":
        """Take a table, or roles by name, which may leave parameters out.

        Raises:
            ValueError: a role given to no parameter or without a rule, or a table of other shapes.
        """
        parameters = dict(model.named_parameters())
        if isinstance(roles, ParameterTable):
            rows, rules = {row.name: row for row in roles}, rules or roles.rules
        else:
            facts, rules = parameter_facts(model), rules or DEFAULT_RULES
            known = [name for name in roles if name in parameters]
            rows = {n: make_row(n, parameters[n], roles[n], facts[n]) for n in known}
        strangers = [n for n in (*rows, *roles_of(roles)) if n not in parameters]
        problems = {f"role given to {name!r}, which is no parameter" for name in strangers}
        for name, row in rows.items():
            if row.role not in rules:
                problems.add(f"role {row.role!r} has no rule")
            if name in parameters and tuple(parameters[name].shape) != row.shape:
                shape = tuple(parameters[name].shape)
                problems.add(f"parameter {name!r} has shape {shape}, {row.shape} in the table")
        if problems:
            raise ValueError("; ".join(sorted(problems)))
        return cls(rows, rules, rules is not DEFAULT_RULES)

    def ball(self, name: str, group: Mapping[str, Any]) -> Ball | None:
        """Return a parameter's ball, with the group's radius where none is stated."""
        if name not in self.rows:
            return None
        row = self.rows[name]
        rule = row.rule(self.rules)
        stated = self.radii or row.override.radius is not None or group.get("norm") not in NORMS
        radius = rule.radius if stated else group.get("radius", rule.radius)
        layouts = [row.layout_for(rule.norm)]
        if group.get("norm") == rule.norm and "layout" in group:
            # Where modules say nothing of the parameter, as of experts, the group does.
            kind, blocks = NORMS[rule.norm], group.get("split_sizes", ())
            layouts.append(kind.layout(group["layout"], blocks, group.get("groups", 1)))
        return _ball(row.role, rule.norm, radius, layouts, torch.Size(row.shape), group)


def roles_of(roles: Roles) -> Sequence[str]:
    """Return the names of parameters that have a role."""
    return tuple(roles.roles if isinstance(roles, ParameterTable) else roles)


def _ball(
    role: str,
    norm: str,
    radius: float,
    layouts: list[Layout],
    shape: torch.Size,
    group: Mapping[str, Any],
) -> Ball | None:
    kind = NORMS[norm]
    for layout in layouts:
        try:
            layout.event_shapes(shape, kind.event_ndim)
        except ValueError:
            continue
        iterative = issubclass(kind, SpectralNorm) and group.get("polar") != "svd"
        low, high = NEWTON_SCHULZ if iterative else (1.0, 1.0)
        return Ball(
            role=role,
            norm=norm,
            radius=float(radius),
            layout=layout,
            low=low - EXACT,
            high=high + EXACT,
        )
    return None
