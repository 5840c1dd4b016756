"""Model families by name: how to build one, and which roles its parameters have."""

from collections.abc import Mapping

from torch import nn

from transfer.config import MlpConfig
from transfer.models.mlp import Mlp


def build_model(
    config: MlpConfig, *, width: int, depth: int, d_input: int, d_output: int
) -> nn.Module:
    """Build a model of the family; its weights are to be initialised by `init_parameters`."""
    return Mlp(d_input, width, d_output, depth, bias=config.bias)


def model_roles(model: nn.Module) -> Mapping[str, str]:
    """Return the roles that the model states for its parameters, by parameter name.

    Raises:
        ValueError: the model has no method `parameter_roles`.
    """
    roles = getattr(model, "parameter_roles", None)
    if roles is None:
        raise ValueError(
            f"{type(model).__name__} has no method parameter_roles(): pass roles=, a mapping from "
            "parameter name to role"
        )
    stated: Mapping[str, str] = roles()
    return stated
