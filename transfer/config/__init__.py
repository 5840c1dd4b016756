"""Everything that can change the result of a run, in frozen dataclasses.

No torch here: the command line reads, validates and prints configurations without it.
"""

from transfer.config.checks import as_floats, require, require_positive, unknown
from transfer.config.models import (
    CustomConfig,
    DataConfig,
    MlpConfig,
    ModelConfig,
    RoleOverride,
)
from transfer.config.optimizers import (
    INIT_NAMES,
    NORM_NAMES,
    OPTIMIZER_CONFIGS,
    ROLE_NAMES,
    AdamWConfig,
    InitName,
    MuonConfig,
    MupAdamWConfig,
    NormName,
    OptimizerConfig,
    RoleConfig,
    RoleName,
    ScionConfig,
    SgdConfig,
)
from transfer.config.run import (
    NUMERICS,
    Precision,
    RunConfig,
    ScheduleConfig,
    ScheduleName,
    canonical_json,
    optimizer_from_dict,
    require_depth,
    require_same_roles,
    run_config_from_dict,
)

__all__ = [
    "INIT_NAMES",
    "NORM_NAMES",
    "NUMERICS",
    "OPTIMIZER_CONFIGS",
    "ROLE_NAMES",
    "AdamWConfig",
    "CustomConfig",
    "DataConfig",
    "InitName",
    "MlpConfig",
    "ModelConfig",
    "MuonConfig",
    "MupAdamWConfig",
    "NormName",
    "OptimizerConfig",
    "Precision",
    "RoleConfig",
    "RoleName",
    "RoleOverride",
    "RunConfig",
    "ScheduleConfig",
    "ScheduleName",
    "ScionConfig",
    "SgdConfig",
    "as_floats",
    "canonical_json",
    "optimizer_from_dict",
    "require",
    "require_depth",
    "require_positive",
    "require_same_roles",
    "run_config_from_dict",
    "unknown",
]
