"""lmo-transfer: norms, optimizers, model families, data, training and recipes.

Names are imported when first used: configurations are read without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfer.config import AdamWConfig, RoleConfig, RunConfig, ScionConfig
    from transfer.norms import NORMS, Norm, make_norm
    from transfer.optimizers import Scion
    from transfer.polar import NewtonSchulz, SvdPolar, make_polar
    from transfer.recipe import Recipe
    from transfer.roles import init_parameters, parameter_groups
    from transfer.train import RunRecord

_HOME = {
    "AdamWConfig": "config",
    "RoleConfig": "config",
    "RunConfig": "config",
    "ScionConfig": "config",
    "NORMS": "norms",
    "Norm": "norms",
    "make_norm": "norms",
    "Scion": "optimizers",
    "NewtonSchulz": "polar",
    "SvdPolar": "polar",
    "make_polar": "polar",
    "Recipe": "recipe",
    "init_parameters": "roles",
    "parameter_groups": "roles",
    "RunRecord": "train",
}
__all__ = [
    "AdamWConfig",
    "NORMS",
    "NewtonSchulz",
    "Norm",
    "Recipe",
    "RoleConfig",
    "RunConfig",
    "RunRecord",
    "Scion",
    "ScionConfig",
    "SvdPolar",
    "init_parameters",
    "make_norm",
    "make_polar",
    "parameter_groups",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'transfer' has no attribute {name!r}")
    return getattr(import_module(f"transfer.{_HOME[name]}"), name)
