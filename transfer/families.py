"""Model families: how to build a model, and which roles its parameters have."""

from torch import nn

from transfer.config import CustomConfig, MlpConfig, ModelConfig
from transfer.custom import build_custom, custom_roles, custom_table
from transfer.models.mlp import Mlp
from transfer.roles import ParameterTable, stated_table


def build_model(
    config: ModelConfig, *, width: int, depth: int, d_input: int, d_output: int
) -> nn.Module:
    """Build a model of the family; its weights are to be initialised by `init_parameters`.

    Raises:
        ValueError: the function of a custom family does not exist, has changed since the run was
            planned, fails, or returns no module.
    """
    if isinstance(config, MlpConfig):
        return Mlp(d_input, width, d_output, depth, bias=config.bias)
    return build_custom(config, width, depth)


def build_table(config: ModelConfig, model: nn.Module, *, width: int, depth: int) -> ParameterTable:
    """Return the table of roles of a model of the family; raises ValueError as `infer_roles`."""
    if isinstance(config, CustomConfig):
        return custom_table(config, model, width, depth)
    return model_roles(model)


def role_names(config: ModelConfig, *, width: int, depth: int) -> tuple[str, ...]:
    """Return the roles that parameters of a model have; a custom one is built to find out."""
    if isinstance(config, CustomConfig):
        return custom_roles(config, width, depth)
    return config.roles(depth)


def model_roles(model: nn.Module) -> ParameterTable:
    """Return the table of the roles that a model states for its parameters.

    Raises:
        ValueError: the model has no method `parameter_roles`.
    """
    roles = getattr(model, "parameter_roles", None)
    if roles is None:
        raise ValueError(
            f"{type(model).__name__} has no method parameter_roles(): pass roles=, a table from "
            "infer_roles or a mapping from parameter name to role"
        )
    return stated_table(model, roles())
