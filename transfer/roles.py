"""From roles (input, hidden, output, bias, ...) to parameter groups and initial weights."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from transfer.config import OptimizerConfig, RoleConfig, ScionConfig
from transfer.norms import make_norm
from transfer.optimizers import Scion

Named = list[tuple[str, nn.Parameter]]


def parameters_by_role(
    model: nn.Module, roles: Mapping[str, str], rules: Mapping[str, RoleConfig]
) -> dict[str, Named]:
    """Sort a model's trainable parameters by role; every one must have a role with a rule.

    Args:
        model: Any module.
        roles: Role of each parameter, by name.
        rules: The rule of each role.

    Raises:
        ValueError: a parameter without a role, a role given to no parameter of the model, a role
            without a rule, or a rule for a role that no parameter has; each is named.
    """
    # A frozen parameter may have a role, but needs none.
    everything = dict(model.named_parameters())
    named = {name: p for name, p in everything.items() if p.requires_grad}
    problems = [f"parameter {name!r} has no role" for name in named if name not in roles]
    strangers = roles.keys() - everything.keys()
    problems += [f"role given to {name!r}, which is no parameter" for name in strangers]
    used = {roles[name] for name in named if name in roles}
    problems += [f"role {role!r} has no rule" for role in sorted(used - rules.keys())]
    problems += [f"rule for role {role!r}, which no parameter has" for role in rules.keys() - used]
    if problems:
        raise ValueError("; ".join(sorted(problems)))
    return {role: [(name, p) for name, p in named.items() if roles[name] == role] for role in rules}


def parameter_groups(
    model: nn.Module, roles: Mapping[str, str], rules: Mapping[str, RoleConfig]
) -> list[dict[str, Any]]:
    """Return one optimizer group per role, with its norm and radius; raises as above."""
    return [
        {"params": named, "role": role, "norm": rules[role].norm, "radius": rules[role].radius}
        for role, named in parameters_by_role(model, roles, rules).items()
    ]


def build_optimizer(
    model: nn.Module, roles: Mapping[str, str], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """Build the configured optimizer for a model; raises ValueError as above."""
    if isinstance(config, ScionConfig):
        return Scion(
            parameter_groups(model, roles, config.roles),
            lr=config.stepsize,
            alpha=config.alpha,
            constrained=config.constrained,
            polar=config.polar,
        )
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.stepsize,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def init_parameters(
    model: nn.Module,
    roles: Mapping[str, str],
    config: OptimizerConfig,
    generator: torch.Generator | None = None,
) -> None:
    """Initialise every trainable parameter in place as the optimizer's configuration says.

    Parameters are drawn in the model's own order, so a seed means the same weights whatever the
    order of the rules.
    """
    rules = config.roles if isinstance(config, ScionConfig) else None
    if rules is not None:
        parameters_by_role(model, roles, rules)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue  # frozen: whoever froze it wants its value
        rule = None if rules is None else rules[roles[name]]
        if rule is None or rule.init == "fan-in":
            fan_in_(parameter, generator)
        else:
            make_norm(rule.norm).init_(parameter, rule.radius, generator)


@torch.no_grad()
def fan_in_(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill with N(0, 1/d_in) in place (standard parametrisation); vectors with zeros."""
    if x.ndim < 2:
        return x.zero_()
    draw = torch.randn(x.shape, dtype=torch.float64, generator=generator, device="cpu")
    return x.copy_(draw / math.sqrt(x.shape[-1]))
