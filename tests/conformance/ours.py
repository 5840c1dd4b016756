"""Adapters of this project's own optimizers."""

from typing import Any

import torch
from torch import nn

from tests.conformance.protocol import Spec
from transfer import (
    DEFAULT_RULES,
    ParameterTable,
    RoleConfig,
    RoleOverride,
    Scion,
    ScionConfig,
    ScionLight,
    init_parameters,
    parameter_groups,
    stated_table,
)


def _table(model: nn.Module, specs: list[Spec]) -> ParameterTable:
    table = stated_table(model, {spec.name: spec.role for spec in specs})
    return table.override({s.name: RoleOverride(norm=s.norm, radius=s.radius) for s in specs})


def _make(
    kind: type[Scion] | type[ScionLight], model: nn.Module, specs: list[Spec], **settings: Any
) -> torch.optim.Optimizer:
    groups = parameter_groups(model, _table(model, specs))
    return kind(groups, lr=settings.pop("stepsize"), **settings)


def scion(model: nn.Module, specs: list[Spec], **settings: Any) -> torch.optim.Optimizer:
    return _make(Scion, model, specs, **settings)


def scion_light(model: nn.Module, specs: list[Spec], **settings: Any) -> torch.optim.Optimizer:
    return _make(ScionLight, model, specs, **settings)


def scion_one_by_one(model: nn.Module, specs: list[Spec], **settings: Any) -> torch.optim.Optimizer:
    return _make(Scion, model, specs, foreach=False, **settings)


class _ScionExact:
    """Scion with the exact polar factor, which the suite may hold to tighter bounds."""

    exact = True

    def __call__(
        self, model: nn.Module, specs: list[Spec], **settings: Any
    ) -> torch.optim.Optimizer:
        return _make(Scion, model, specs, polar="svd", **settings)


scion_exact = _ScionExact()


def init(model: nn.Module, specs: list[Spec], seed: int) -> None:
    rules = {s.role: RoleConfig(norm=DEFAULT_RULES[s.role].norm) for s in specs}
    generator = torch.Generator().manual_seed(seed)
    init_parameters(model, _table(model, specs), ScionConfig(roles=rules), generator)
