"""Model families: models as a function of width and depth, and the roles of their parameters."""

from dataclasses import dataclass

from torch import nn

from transfer.config import (
    CnnConfig,
    CustomConfig,
    DataShape,
    GptConfig,
    MlpConfig,
    ModelConfig,
    VitConfig,
)
from transfer.custom import build_custom, custom_roles, custom_table
from transfer.describe import Description, describe
from transfer.roles import ParameterTable, stated_table


@dataclass(frozen=True)
class Family:
    """Models for one kind of data, at any width and depth.

    Args:
        config: Which family, with its settings.
        shape: What a model sees of the data, and how many outputs it has.

    Raises:
        ValueError: the family does not take such data.
    """

    config: ModelConfig
    shape: DataShape

    def __post_init__(self) -> None:
        self.config.require_data(self.shape)

    def build(self, width: int, depth: int) -> nn.Module:
        """Build a model; its weights are to be initialised by `init_parameters`.

        Raises:
            ValueError: no model of this size; or the function of a custom family does not exist,
                has changed since the run was planned, fails, or returns no module.
        """
        self.config.require_size(width, depth)
        match self.config:
            case MlpConfig():
                from transfer.models.mlp import Mlp

                sizes = self.shape.num_features, width, self.shape.outputs
                return Mlp(*sizes, depth, bias=self.config.bias)
            case GptConfig():
                from transfer.models.gpt import Gpt

                return Gpt(self.config, self.shape, width, depth)
            case CnnConfig():
                from transfer.models.cnn import Cnn

                return Cnn(self.shape, width, depth)
            case VitConfig():
                from transfer.models.vit import Vit

                return Vit(self.config, self.shape, width, depth)
            case CustomConfig():
                return build_custom(self.config, width, depth)

    def table(self, model: nn.Module, width: int, depth: int) -> ParameterTable:
        """Return the table of roles of a model; raises ValueError as `infer_roles`."""
        if isinstance(self.config, CustomConfig):
            return custom_table(self.config, model, width, depth)
        return model_roles(model)

    def role_names(self, width: int, depth: int) -> tuple[str, ...]:
        """Return the roles that parameters have; a custom model is built to find out."""
        if isinstance(self.config, CustomConfig):
            return custom_roles(self.config, width, depth)
        return self.config.roles(depth)

    def describe(self, width: int, depth: int) -> Description:
        """Return the number of parameters, the cost and the memory of a model.

        Raises:
            ValueError: as `build`; or a custom model that cannot be built without its weights.
        """
        return describe(lambda: self.build(width, depth), self.shape)


def model_roles(model: nn.Module) -> ParameterTable:
    """Return the table of the roles that a model states for its parameters.

    A model may also have a method `parameter_overrides`: what it says of some of them by name
    pattern, such as an initialisation of their own.

    Raises:
        ValueError: the model has no method `parameter_roles`.
    """
    roles = getattr(model, "parameter_roles", None)
    if roles is None:
        raise ValueError(
            f"{type(model).__name__} has no method parameter_roles(): pass roles=, a table from "
            "infer_roles or a mapping from parameter name to role"
        )
    overrides = getattr(model, "parameter_overrides", dict)
    return stated_table(model, roles()).override(overrides())
