"""Model families and data, as frozen dataclasses."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from transfer.config.checks import STRICT, as_floats, require, require_positive, unknown
from transfer.config.optimizers import (
    INIT_NAMES,
    NORM_NAMES,
    ROLE_NAMES,
    InitName,
    NormName,
    RoleName,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MlpConfig:
    """A multilayer perceptron with sqrt(2)-ReLU between its linear layers."""

    __pydantic_config__: ClassVar[Any] = STRICT
    family: Literal["mlp"] = "mlp"
    """Model family."""
    bias: bool = False
    """Whether the linear layers have biases."""

    def roles(self, depth: int) -> tuple[str, ...]:
        """Return the roles that parameters of a model of this depth have."""
        hidden = ("hidden",) if depth > 2 else ()
        bias = ("bias",) if self.bias else ()
        return ("input", *hidden, "output", *bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleOverride:
    """What is said of parameters by name, against what would be inferred; None: as inferred."""

    __pydantic_config__: ClassVar[Any] = STRICT
    role: RoleName | None = None
    """Role."""
    norm: NormName | None = None
    """Norm, instead of the one of the role's rule."""
    radius: float | None = None
    """Radius, instead of the one of the role's rule."""
    init: InitName | None = None
    """Initialisation, instead of the one of the role's rule."""
    layout: str | None = None
    """How the tensor holds its matrices, see transfer.layouts."""
    split_sizes: tuple[int, ...] | None = None
    """Sizes of fused blocks along d_out; () for none."""
    split: int | None = None
    """Number of equal fused blocks along d_out, instead of their sizes."""

    def __post_init__(self) -> None:
        as_floats(self)
        for name, value, allowed in (
            ("role", self.role, ROLE_NAMES),
            ("norm", self.norm, NORM_NAMES),
            ("init", self.init, INIT_NAMES),
        ):
            if value is not None and value not in allowed:
                raise ValueError(unknown(name, value, allowed))
        if self.radius is not None:
            require_positive("radius", self.radius)
        if self.split is not None:
            require(self.split >= 1, "split", "at least 1", self.split)
            require(self.split_sizes is None, "split", "absent beside split_sizes", self.split)


Option = int | float | str | bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomConfig:
    """Your own family: a function build(width, depth, **options) -> nn.Module with a loss."""

    __pydantic_config__: ClassVar[Any] = STRICT
    family: Literal["custom"] = "custom"
    """Model family."""
    build: str
    """Where the function is: package.module:function."""
    options: dict[str, Option] = field(default_factory=dict)
    """Keyword arguments passed on to it."""
    overrides: dict[str, RoleOverride] = field(default_factory=dict)
    """Roles by name pattern (such as blocks.*.router.weight) where the inferred one is wrong."""
    fingerprint: str = ""
    """SHA-256 of the module's source file, filled in when runs are planned."""

    def __post_init__(self) -> None:
        module, _, function = self.build.partition(":")
        dotted = all(part.isidentifier() for part in module.split("."))
        good = dotted and function.isidentifier() and not module.endswith(".py")
        require(good, "build", "package.module:function (a module's name, no file's)", self.build)

    def roles(self, depth: int) -> None:
        """Return None: the roles are known once the model is built, see `families.role_names`."""


ModelConfig = MlpConfig | CustomConfig
MODEL_CONFIGS: dict[str, type[ModelConfig]] = {"mlp": MlpConfig, "custom": CustomConfig}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which data, and what they hash to."""

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["digits"] = "digits"
    """Data set."""
    fingerprint: str = ""
    """SHA-256 of the data and their split, filled in when runs are planned."""
