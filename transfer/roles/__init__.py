"""Roles of parameters: input, embedding, hidden, output, tied, bias, gain, convolution."""

from transfer.roles.build import (
    Roles,
    as_table,
    build_optimizer,
    init_parameters,
    parameter_groups,
    rows_to_train,
)
from transfer.roles.infer import infer_roles
from transfer.roles.table import DEFAULT_RULES, ParameterRow, ParameterTable, stated_table

__all__ = [
    "DEFAULT_RULES",
    "ParameterRow",
    "ParameterTable",
    "Roles",
    "as_table",
    "build_optimizer",
    "infer_roles",
    "init_parameters",
    "parameter_groups",
    "rows_to_train",
    "stated_table",
]
