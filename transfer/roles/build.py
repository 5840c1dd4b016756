"""From a table of roles to parameter groups, an optimizer and initial weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from transfer.config import (
    MupAdamWConfig,
    OptimizerConfig,
    RoleConfig,
    ScionConfig,
    require_same_roles,
)
from transfer.norms import make_norm
from transfer.optimizers import Almond, Scion
from transfer.roles.baselines import build_baseline, d_in_grows, required_width
from transfer.roles.init import fan_in_, slicewise_
from transfer.roles.table import ParameterRow, ParameterTable, require_rules, stated_table

Roles = Mapping[str, str] | ParameterTable


def as_table(model: nn.Module, roles: Roles) -> ParameterTable:
    """Return the table; roles by parameter name get their layouts from the model's modules."""
    return roles if isinstance(roles, ParameterTable) else stated_table(model, roles)


def rows_to_train(
    model: nn.Module, table: ParameterTable
) -> list[tuple[ParameterRow, nn.Parameter]]:
    """Return the rows of the trainable parameters, in the model's own order.

    Compiled, sharded and checkpointed models may be given: what wraps a module adds to the names
    of its parameters, and is left out to find them in the table.

    Raises:
        ValueError: a trainable parameter that the table lacks, a row without a parameter, or one
            whose shape is another.
    """
    rows = {row.name: row for row in table}
    parameters = {_name_in(rows, name): p for name, p in model.named_parameters()}
    problems = [
        f"parameter {name!r} has no role"
        for name, p in parameters.items()
        if p.requires_grad and name not in rows
    ]
    for name, row in rows.items():
        if name not in parameters:
            problems.append(f"role given to {name!r}, which is no parameter")
        elif tuple(parameters[name].shape) != row.shape:
            shape = tuple(parameters[name].shape)
            problems.append(f"parameter {name!r} has shape {shape}, {row.shape} in the table")
    if problems:
        raise ValueError("; ".join(sorted(problems)))
    return [(rows[name], p) for name, p in parameters.items() if p.requires_grad]


# torch.compile, (Distributed)DataParallel, FSDP and activation checkpointing.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def _name_in(rows: Mapping[str, ParameterRow], name: str) -> str:
    """Return a parameter's name in the table, or as it is if the table has it under none."""
    bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    return bare if name not in rows and bare in rows else name


def parameter_groups(
    model: nn.Module, roles: Roles, rules: Mapping[str, RoleConfig] | None = None
) -> list[dict[str, Any]]:
    """Return groups for the LMO optimizers, each with its role, norm, radius and layout.

    Args:
        model: Any module.
        roles: A table, or roles by parameter name.
        rules: Norm, radius and initialisation per role; by default those of the table.

    Raises:
        ValueError: a parameter without a role, a role given to no parameter, a role without a
            rule, a rule for a role that no parameter has, or a norm that does not fit; each named.
    """
    table = as_table(model, roles)
    trained = rows_to_train(model, table)
    if rules is None:
        rules = table.with_rules(table.rules).rules
    else:
        _require_same(rules, trained)
    groups: dict[Any, dict[str, Any]] = {}
    order = {role: index for index, role in enumerate(rules)}
    for row, p in sorted(trained, key=lambda pair: order[pair[0].role]):
        rule = row.rule(rules)
        row.dims(rule.norm)  # says which parameter does not fit, before torch's own checks
        layout = row.layout_for(rule.norm)
        group = groups.setdefault(
            (row.role, rule.norm, rule.radius, layout),
            {
                "params": [],
                "role": row.role,
                "norm": rule.norm,
                "radius": rule.radius,
                "layout": layout.name,
                "split_sizes": layout.split_sizes,
                "groups": layout.groups,
            },
        )
        group["params"].append((row.name, p))
    return list(groups.values())


def build_optimizer(
    model: nn.Module, roles: Roles, config: OptimizerConfig, width: int | None = None
) -> torch.optim.Optimizer:
    """Build the configured optimizer for a model; raises ValueError as above.

    Args:
        model: Any module.
        roles: A table, or roles by parameter name.
        config: Which optimizer, with all its settings.
        width: Width of the model; muP-AdamW alone needs it.
    """
    if isinstance(config, ScionConfig):
        kind = Almond if config.average == "oracles" else Scion
        return kind(
            parameter_groups(model, roles, config.roles),
            lr=config.stepsize,
            alpha=config.alpha,
            constrained=config.constrained,
            polar=config.polar,
        )
    table = as_table(model, roles)
    return build_baseline(rows_to_train(model, table), config, width)


def init_parameters(
    model: nn.Module,
    roles: Roles,
    config: OptimizerConfig,
    generator: torch.Generator | None = None,
    width: int | None = None,
) -> None:
    """Initialise every trainable parameter in place as the optimizer's configuration says.

    Parameters are drawn in the model's own order, so a seed means the same weights whatever the
    order of the rules. Frozen parameters keep their values.
    """
    table = as_table(model, roles)
    trained = rows_to_train(model, table)
    if isinstance(config, ScionConfig):
        _require_same(config.roles, trained)
        for row, p in trained:
            _init_row(row, p, row.rule(config.roles), generator)
        return
    keep = getattr(config, "init", "fan-in") == "keep"
    output_scale = 1.0
    if isinstance(config, MupAdamWConfig):
        output_scale = (config.base_width / required_width(config, width)) ** 0.5
        for row, _ in trained:
            d_in_grows(row)
    for row, p in trained:
        if row.override.init == "zero":
            nn.init.zeros_(p)
        elif not keep:
            fan_in_(p, row, generator, output_scale if row.role == "output" else 1.0)


def _require_same(
    rules: Mapping[str, RoleConfig], trained: list[tuple[ParameterRow, nn.Parameter]]
) -> None:
    """Raise ValueError for a role without a rule, or a rule without a parameter."""
    require_rules(rules, [row for row, _ in trained])
    require_same_roles(rules, {row.role for row, _ in trained})


def _init_row(
    row: ParameterRow, p: nn.Parameter, rule: RoleConfig, generator: torch.Generator | None
) -> None:
    if rule.init == "keep":
        return
    if rule.init == "fan-in":
        fan_in_(p, row, generator)
    elif rule.init == "slicewise":
        slicewise_(p, row, rule, generator)
    elif rule.init == "zero":
        nn.init.zeros_(p)
    else:
        make_norm(rule.norm).init_(p, rule.radius, generator, row.layout_for(rule.norm))
