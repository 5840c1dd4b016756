"""Model families, as frozen dataclasses."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from transfer.config.checks import STRICT, as_floats, require, require_positive, unknown
from transfer.config.data import DataKind, DataShape
from transfer.config.optimizers import (
    INIT_NAMES,
    NORM_NAMES,
    ROLE_NAMES,
    InitName,
    NormName,
    RoleName,
)

Names = tuple[str, str]
NAMES = ("width", "depth")
"""What errors call the two sizes."""
ResidualName = Literal["1", "1/sqrt(L)", "1/L"]


def _require_kind(family: str, shape: DataShape, *kinds: DataKind) -> None:
    wanted = f"data of {' or '.join(kinds)}"
    if shape.kind not in kinds:
        raise ValueError(f"model family {family} needs {wanted}, got data of {shape.kind}")


def _require_heads(width: int, head_dim: int, name: str) -> None:
    wanted = f"a multiple of model.head_dim = {head_dim}"
    require(width % head_dim == 0, name, wanted, width)


@dataclass(frozen=True, kw_only=True, slots=True)
class MlpConfig:
    """A multilayer perceptron with sqrt(2)-ReLU between its linear layers."""

    __pydantic_config__: ClassVar[Any] = STRICT
    family: Literal["mlp"] = "mlp"
    """Model family."""
    bias: bool = False
    """Whether the linear layers have biases."""

    def require_size(self, width: int, depth: int, names: Names = NAMES) -> None:
        """Raise ValueError unless the family has models of this size."""
        require(depth >= 2, names[1], "at least 2 (an input and an output layer)", depth)

    def require_data(self, shape: DataShape) -> None:
        """Raise ValueError unless the family takes such data."""
        _require_kind(self.family, shape, "vectors", "images")

    def roles(self, depth: int) -> tuple[str, ...]:
        """Return the roles that parameters of a model of this depth have."""
        hidden = ("hidden",) if depth > 2 else ()
        bias = ("bias",) if self.bias else ()
        return ("input", *hidden, "output", *bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class GptConfig:
    """A decoder with rotary positions, normalised queries and keys, and no gains or biases."""

    __pydantic_config__: ClassVar[Any] = STRICT
    family: Literal["gpt"] = "gpt"
    """Model family; its depth is the number of blocks."""
    head_dim: int = 64
    """Size of a head, fixed while the width grows; even."""
    activation: Literal["gelu", "relu-squared"] = "gelu"
    """sqrt(2) gelu(x), or (sqrt(2) relu(x))^2."""
    tied: bool = False
    """Whether one tensor is both embedding and head."""
    zero_residual: bool = False
    """Whether the matrices that end a residual branch start at zero, whatever the optimizer."""
    residual: ResidualName = "1"
    """Multiplier of every residual branch; L is the number of blocks."""

    def __post_init__(self) -> None:
        good = self.head_dim >= 2 and self.head_dim % 2 == 0
        require(
            good, "head_dim", "even and at least 2 (rotary positions turn pairs)", self.head_dim
        )

    def require_size(self, width: int, depth: int, names: Names = NAMES) -> None:
        """Raise ValueError unless the family has models of this size."""
        _require_heads(width, self.head_dim, names[0])

    def require_data(self, shape: DataShape) -> None:
        """Raise ValueError unless the family takes such data."""
        _require_kind(self.family, shape, "tokens")

    def roles(self, depth: int) -> tuple[str, ...]:
        """Return the roles that parameters of a model of this depth have."""
        return ("tied", "hidden") if self.tied else ("embedding", "hidden", "output")


@dataclass(frozen=True, kw_only=True, slots=True)
class CnnConfig:
    """The convolutional net of airbench (Keller Jordan) for small images.

    A fixed whitening layer from the data, three stages of 3 x 3 convolutions with max-pooling and
    batch normalisation (trained biases, no gains), a linear head. The width is that of the first
    stage; the other two are four times as wide. airbench94 has width 64.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    family: Literal["cnn"] = "cnn"
    """Model family; its depth is the number of convolutions a stage, 2 in airbench94."""

    def require_size(self, width: int, depth: int, names: Names = NAMES) -> None:
        """Raise ValueError unless the family has models of this size."""

    def require_data(self, shape: DataShape) -> None:
        """Raise ValueError unless the family takes such data."""
        _require_kind(self.family, shape, "images")
        small = min(shape.inputs[1:])
        require(small >= 25, "image size", "at least 25 pixels (three poolings)", small)

    def roles(self, depth: int) -> tuple[str, ...]:
        """Return the roles that parameters of a model of this depth have."""
        return ("bias", "convolution", "output")


@dataclass(frozen=True, kw_only=True, slots=True)
class VitConfig:
    """A vision transformer in the manner of DeiT, with RMSNorm without gains and no biases."""

    __pydantic_config__: ClassVar[Any] = STRICT
    family: Literal["vit"] = "vit"
    """Model family; its depth is the number of blocks."""
    patch: int = 16
    """Height and width of a patch; divides those of the image."""
    head_dim: int = 64
    """Size of a head, fixed while the width grows."""
    zero_residual: bool = False
    """Whether the matrices that end a residual branch start at zero, whatever the optimizer."""
    residual: ResidualName = "1"
    """Multiplier of every residual branch; L is the number of blocks."""

    def __post_init__(self) -> None:
        require(self.patch >= 1, "patch", "at least 1", self.patch)
        require(self.head_dim >= 1, "head_dim", "at least 1", self.head_dim)

    def require_size(self, width: int, depth: int, names: Names = NAMES) -> None:
        """Raise ValueError unless the family has models of this size."""
        _require_heads(width, self.head_dim, names[0])

    def require_data(self, shape: DataShape) -> None:
        """Raise ValueError unless the family takes such data."""
        _require_kind(self.family, shape, "images")
        sides = shape.inputs[1:]
        whole = all(side % self.patch == 0 for side in sides)
        require(whole, "patch", f"a divisor of {sides[0]} and {sides[1]} pixels", self.patch)

    def roles(self, depth: int) -> tuple[str, ...]:
        """Return the roles that parameters of a model of this depth have."""
        return ("embedding", "input", "hidden", "output")


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

    def require_size(self, width: int, depth: int, names: Names = NAMES) -> None:
        """Raise no error: building the model tells."""

    def require_data(self, shape: DataShape) -> None:
        """Raise no error: the model's own loss tells."""

    def roles(self, depth: int) -> None:
        """Return None: the roles are known once the model is built, see `Family.role_names`."""


ModelConfig = MlpConfig | GptConfig | CnnConfig | VitConfig | CustomConfig
MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    "mlp": MlpConfig,
    "gpt": GptConfig,
    "cnn": CnnConfig,
    "vit": VitConfig,
    "custom": CustomConfig,
}
