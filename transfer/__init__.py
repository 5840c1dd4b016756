"""lmo-transfer: norms, optimizers, model families, data, training and recipes.

Names are imported when first used: configurations are read without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfer.auditing import Audit, audit
    from transfer.config import (
        AdamWConfig,
        MuonConfig,
        MupAdamWConfig,
        RoleConfig,
        RoleOverride,
        RunConfig,
        ScionConfig,
        SgdConfig,
    )
    from transfer.layouts import Layout
    from transfer.norms import NORMS, Norm, make_norm
    from transfer.optimizers import Almond, Scion, ScionLight
    from transfer.polar import EighPolar, NewtonSchulz, SvdPolar, make_polar
    from transfer.recipe import Recipe
    from transfer.roles import (
        DEFAULT_RULES,
        ParameterTable,
        build_optimizer,
        infer_roles,
        init_parameters,
        parameter_groups,
        stated_table,
    )
    from transfer.train import RunRecord

_HOME = {
    "Audit": "auditing",
    "audit": "auditing",
    "AdamWConfig": "config",
    "MuonConfig": "config",
    "MupAdamWConfig": "config",
    "RoleConfig": "config",
    "RoleOverride": "config",
    "RunConfig": "config",
    "ScionConfig": "config",
    "SgdConfig": "config",
    "Layout": "layouts",
    "NORMS": "norms",
    "Norm": "norms",
    "make_norm": "norms",
    "Almond": "optimizers",
    "Scion": "optimizers",
    "ScionLight": "optimizers",
    "EighPolar": "polar",
    "NewtonSchulz": "polar",
    "SvdPolar": "polar",
    "make_polar": "polar",
    "Recipe": "recipe",
    "DEFAULT_RULES": "roles",
    "ParameterTable": "roles",
    "build_optimizer": "roles",
    "infer_roles": "roles",
    "init_parameters": "roles",
    "parameter_groups": "roles",
    "stated_table": "roles",
    "RunRecord": "train",
}
__all__ = [
    "AdamWConfig",
    "Almond",
    "Audit",
    "DEFAULT_RULES",
    "EighPolar",
    "Layout",
    "MuonConfig",
    "MupAdamWConfig",
    "NORMS",
    "NewtonSchulz",
    "Norm",
    "ParameterTable",
    "Recipe",
    "RoleConfig",
    "RoleOverride",
    "RunConfig",
    "RunRecord",
    "Scion",
    "ScionConfig",
    "ScionLight",
    "SgdConfig",
    "SvdPolar",
    "audit",
    "build_optimizer",
    "infer_roles",
    "init_parameters",
    "make_norm",
    "make_polar",
    "parameter_groups",
    "stated_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'transfer' has no attribute {name!r}")
    return getattr(import_module(f"transfer.{_HOME[name]}"), name)
