"""Everything that can change the result of a run, in frozen dataclasses.

No torch here: the command line reads, validates and prints configurations without it.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args, get_origin

from transfer.coefficients import parse_polar

NUMERICS = 1
"""Raised whenever a fix changes results: records of other numerics are other runs."""

NormName = Literal[
    "spectral",
    "plain-spectral",
    "spectral-max",
    "embedding-spectral",
    "col-norm",
    "hidden-col-norm",
    "row-norm",
    "input-row-norm",
    "sign",
    "scaled-sign",
    "conv-spectral",
    "bias-rms",
    "gain-rms",
    "euclidean",
    "max-norm",
]
NORM_NAMES: tuple[str, ...] = get_args(NormName)
InitName = Literal["boundary", "fan-in"]
ScheduleName = Literal["constant", "linear", "constant-linear"]
Precision = Literal["float32", "float64"]

# Unknown fields and silent conversions are errors wherever pydantic validates these classes.
_STRICT = {"extra": "forbid", "strict": True}


def unknown(what: str, got: object, allowed: Iterable[str]) -> str:
    """Compose the one-line message for a name that does not exist."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{what} must be one of {', '.join(names)}, got {got!r}{hint}"


def require(condition: bool, name: str, wanted: str, got: object) -> None:
    """Raise ValueError saying which field must be what, and what it is."""
    if not condition:
        raise ValueError(f"{name} must be {wanted}, got {got!r}")


def require_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    require(math.isfinite(value) and value > 0, name, "a finite number above 0", value)


def as_floats(config: Any) -> None:
    """Turn whole numbers given for float fields into floats: equal settings, equal run ids."""
    for item in fields(config):
        value = getattr(config, item.name)
        if item.type is float and type(value) is int:
            object.__setattr__(config, item.name, float(value))


@dataclass(frozen=True, kw_only=True, slots=True)
class MlpConfig:
    """A multilayer perceptron with sqrt(2)-ReLU between its linear layers."""

    __pydantic_config__: ClassVar[Any] = _STRICT
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
class DataConfig:
    """Which data, and what they hash to."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    name: Literal["digits"] = "digits"
    """Data set."""
    fingerprint: str = ""
    """SHA-256 of the data and their split, filled in when runs are planned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How the stepsize changes over a run, as a factor of its peak."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    name: ScheduleName = "linear"
    """constant; linear: decay to 0; constant-linear: constant, then linear decay to 0."""
    warmup_fraction: float = 0.0
    """Share of the steps over which the factor rises linearly from 0, in [0, 1)."""
    decay_fraction: float = 0.285
    """Share of the steps that decay, for constant-linear, in (0, 1]."""

    def __post_init__(self) -> None:
        as_floats(self)
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", "in [0, 1)", self.warmup_fraction)
        require(0 < self.decay_fraction <= 1, "decay_fraction", "in (0, 1]", self.decay_fraction)
        if self.name == "constant-linear":
            total = self.warmup_fraction + self.decay_fraction
            require(total <= 1, "warmup_fraction + decay_fraction", "at most 1", total)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleConfig:
    """Norm ball and initialisation of the parameters of one role."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    norm: NormName
    """Norm of the ball."""
    radius: float = 1.0
    """Radius rho of the ball, in units of its norm."""
    init: InitName = "boundary"
    """boundary: the norm's initialisation times the radius; fan-in: N(0, 1/d_in), biases 0."""

    def __post_init__(self) -> None:
        as_floats(self)
        require(self.norm in NORM_NAMES, "norm", f"one of {', '.join(NORM_NAMES)}", self.norm)
        require_positive("radius", self.radius)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScionConfig:
    """Scion (Pethick et al. 2025, Algorithms 1 and 2), layer by layer."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    name: Literal["scion"] = "scion"
    stepsize: float = 2**-3
    """Peak stepsize gamma; one step of a layer has norm stepsize * radius."""
    alpha: float = 0.1
    """Weight of the new gradient in the average, in (0, 1]; 1 means no averaging."""
    constrained: bool = False
    """Algorithm 2: iterates stay in the balls. Needs stepsize <= 1."""
    polar: str = "muon"
    """Polar factor of spectral norms: svd, muon, quintic or polar-express, optionally :STEPS."""
    roles: dict[str, RoleConfig] = field(default_factory=dict)
    """Norm, radius and initialisation per role."""

    def __post_init__(self) -> None:
        as_floats(self)
        require_positive("stepsize", self.stepsize)
        require(0 < self.alpha <= 1, "alpha", "in (0, 1]", self.alpha)
        if self.constrained:
            require(self.stepsize <= 1, "stepsize", "at most 1 when constrained", self.stepsize)
        parse_polar(self.polar)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWConfig:
    """AdamW (torch) in the standard parametrisation, with fan-in initialisation."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    name: Literal["adamw"] = "adamw"
    stepsize: float = 2**-6
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the first moment, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""

    def __post_init__(self) -> None:
        as_floats(self)
        require_positive("stepsize", self.stepsize)
        require(0 <= self.beta1 < 1, "beta1", "in [0, 1)", self.beta1)
        require(0 <= self.beta2 < 1, "beta2", "in [0, 1)", self.beta2)
        require_positive("eps", self.eps)
        decay = self.weight_decay
        require(0 <= decay < math.inf, "weight_decay", "a finite number, at least 0", decay)


OptimizerConfig = ScionConfig | AdamWConfig
OPTIMIZER_CONFIGS: dict[str, type[ScionConfig] | type[AdamWConfig]] = {
    "scion": ScionConfig,
    "adamw": AdamWConfig,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training run: two equal configurations give the same result on the same machine."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    model: MlpConfig
    width: int
    depth: int
    data: DataConfig
    batch_size: int
    steps: int
    label_smoothing: float
    schedule: ScheduleConfig
    optimizer: OptimizerConfig
    precision: Precision
    seed: int
    numerics: int = NUMERICS

    def __post_init__(self) -> None:
        as_floats(self)
        for name in ("width", "depth", "batch_size", "steps"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.depth >= 2, "depth", "at least 2 (an input and an output layer)", self.depth)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)
        require(self.seed >= 0, "seed", "at least 0", self.seed)
        if isinstance(self.optimizer, ScionConfig):
            require_same_roles(self.optimizer.roles, self.model.roles(self.depth))

    @property
    def run_id(self) -> str:
        """Hash of the canonical JSON: the same on every machine and in every process."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:16]


def require_same_roles(rules: Iterable[str], roles: Iterable[str]) -> None:
    """Raise ValueError naming every role without a rule and every rule without parameters."""
    problems = [f"role {role!r} has no rule" for role in sorted(set(roles) - set(rules))]
    problems += [
        f"rule for role {role!r}, which no parameter has"
        for role in sorted(set(rules) - set(roles))
    ]
    if problems:
        raise ValueError("; ".join(problems))


def canonical_json(value: object) -> str:
    """Serialise with sorted keys and no spaces; floats as their shortest exact text.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _require_type(name: str, kind: Any, value: object) -> None:
    """Check plain values; nested ones are built by their own classes."""
    if get_origin(kind) is Literal:
        require(
            value in get_args(kind), name, f"one of {', '.join(map(str, get_args(kind)))}", value
        )
    elif kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(number, name, "a number", value)
    elif kind in (int, str, bool):
        require(type(value) is kind, name, f"of type {kind.__name__}", value)


def _require_table(where: str, data: object) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be a table of fields, got {data!r}")


def _build(cls: Any, data: Any, where: str) -> Any:
    """Build one dataclass, naming the field path of what does not belong."""
    _require_table(where, data)
    types = {f.name: f.type for f in fields(cls)}
    for key, value in data.items():
        if key not in types:
            raise ValueError(unknown(f"{where} field", key, types))
        _require_type(f"{where}.{key}", types[key], value)
    try:
        return cls(**{k: float(v) if types[k] is float else v for k, v in data.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def optimizer_from_dict(data: Any) -> OptimizerConfig:
    """Build an optimizer configuration from what `asdict` gave.

    Raises:
        ValueError: an unknown name, field or a value that is not allowed.
    """
    _require_table("optimizer", data)
    name = data.get("name")
    if not isinstance(name, str) or name not in OPTIMIZER_CONFIGS:
        raise ValueError(unknown("optimizer name", name, OPTIMIZER_CONFIGS))
    parts = dict(data)
    if "roles" in parts:
        _require_table("optimizer.roles", parts["roles"])
        parts["roles"] = {
            role: _build(RoleConfig, rule, f"optimizer.roles.{role}")
            for role, rule in parts["roles"].items()
        }
    optimizer: OptimizerConfig = _build(OPTIMIZER_CONFIGS[name], parts, "optimizer")
    return optimizer


def run_config_from_dict(data: Any) -> RunConfig:
    """Build a run configuration from what `asdict` gave, for example from a record.

    Raises:
        ValueError: an unknown field or a value that is not allowed.
    """
    _require_table("run", data)
    parts = dict(data)
    for key, cls in (("model", MlpConfig), ("data", DataConfig), ("schedule", ScheduleConfig)):
        if key in parts:
            parts[key] = _build(cls, parts[key], key)
    if "optimizer" in parts:
        parts["optimizer"] = optimizer_from_dict(parts["optimizer"])
    config: RunConfig = _build(RunConfig, parts, "run")
    return config
