"""One training run as a frozen dataclass, its identity, and how it is read back from JSON."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from transfer.config.checks import STRICT, as_floats, require, unknown
from transfer.config.data import DATA_CONFIGS, WHERE_DATA_LIE, DataConfig
from transfer.config.models import MODEL_CONFIGS, CustomConfig, ModelConfig, Option, RoleOverride
from transfer.config.optimizers import (
    OPTIMIZER_CONFIGS,
    OptimizerConfig,
    RoleConfig,
    ScionConfig,
)

NUMERICS = 2
"""Raised whenever a fix changes results: records of other numerics are other runs."""

# Fields added since the first run tables, with the value that every run before had. At that value
# they are left out of the hash: those runs keep their ids and are not trained again.
_ADDED_LATER: dict[str, dict[str, object]] = {
    "optimizer": {"average": "gradients", "init": "fan-in", "clip_norm": 0.0},
    "data": {"val_views": "plain"},
}

ScheduleName = Literal["constant", "linear", "constant-linear", "cosine"]
Precision = Literal["float32", "float64", "tf32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How the stepsize changes over a run, as a factor of its peak."""

    __pydantic_config__: ClassVar[Any] = STRICT
    name: ScheduleName = "linear"
    """constant; linear: decay to 0; constant-linear: constant, then linear decay to 0; cosine:
    half a cosine down to 0."""
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


# Without slots, for the cached property: everything that plans, looks up or trains runs asks for
# their ids again and again.
@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run: two equal configurations give the same result on the same machine."""

    __pydantic_config__: ClassVar[Any] = STRICT
    model: ModelConfig
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
        self.model.require_size(self.width, self.depth)
        self.model.require_data(self.data.shape)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)
        require(self.seed >= 0, "seed", "at least 0", self.seed)
        views = getattr(self.data, "val_views", "plain")
        if isinstance(self.model, CustomConfig):
            wanted = "plain for a family of your own, which has its own loss"
            require(views == "plain", "data.val_views", wanted, views)
        if isinstance(self.optimizer, ScionConfig):
            roles = self.model.roles(self.depth)
            if roles is not None:
                require_same_roles(self.optimizer.roles, roles)

    @cached_property
    def run_id(self) -> str:
        """Hash of the canonical JSON: the same on every machine and in every process."""
        settings = asdict(self)
        for name in WHERE_DATA_LIE:
            settings["data"].pop(name, None)
        for part, added in _ADDED_LATER.items():
            for name, value in added.items():
                if settings[part].get(name) == value:
                    del settings[part][name]
        return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]


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
    elif kind == dict[str, Option]:
        plain = isinstance(value, dict) and all(isinstance(v, Option) for v in value.values())
        require(plain, name, "a table of numbers, texts, true and false", value)
    elif get_origin(kind) in (Union, UnionType):
        _require_some_type(name, kind, value)


def _require_some_type(name: str, union: Any, value: object) -> None:
    """Check a value that may be of several types; None is one of them."""
    problems = []
    for kind in get_args(union):
        if kind is type(None) and value is None:
            return
        if get_origin(kind) is tuple:
            numbers = isinstance(value, (list, tuple)) and all(type(v) is int for v in value)
            if numbers:
                return
        elif kind is not type(None):
            try:
                return _require_type(name, kind, value)
            except ValueError as error:
                problems.append(error)
    raise problems[0] if problems else ValueError(f"{name} is not allowed to be {value!r}")


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
        return cls(**{key: _as_declared(types[key], value) for key, value in data.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _as_declared(kind: Any, value: Any) -> Any:
    """Turn JSON's whole numbers and lists into the floats and tuples that the fields declare."""
    if type(value) is int and kind in (float, float | None):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def optimizer_from_dict(data: Any) -> OptimizerConfig:
    """Build an optimizer configuration from what `asdict` gave.

    Raises:
        ValueError: an unknown name, field or a value that is not allowed.
    """
    kind = _tagged("optimizer", data, "name", OPTIMIZER_CONFIGS)
    parts = _with_table(data, "optimizer", "roles", RoleConfig)
    optimizer: OptimizerConfig = _build(kind, parts, "optimizer")
    return optimizer


def _model_from_dict(data: Any) -> ModelConfig:
    kind = _tagged("model", data, "family", MODEL_CONFIGS)
    parts = _with_table(data, "model", "overrides", RoleOverride)
    model: ModelConfig = _build(kind, parts, "model")
    return model


def _tagged(where: str, data: Any, tag: str, kinds: dict[str, Any]) -> Any:
    """Return the class that the tag of plain data names."""
    _require_table(where, data)
    name = data.get(tag)
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(unknown(f"{where} {tag}", name, kinds))
    return kinds[name]


def _with_table(data: dict[str, Any], where: str, key: str, cls: Any) -> dict[str, Any]:
    """Return plain data with the table at `key`, if there is one, built into dataclasses."""
    if key not in data:
        return dict(data)
    _require_table(f"{where}.{key}", data[key])
    rows = {name: _build(cls, row, f"{where}.{key}.{name}") for name, row in data[key].items()}
    return {**data, key: rows}


def run_config_from_dict(data: Any) -> RunConfig:
    """Build a run configuration from what `asdict` gave, for example from a record.

    Raises:
        ValueError: an unknown field or a value that is not allowed.
    """
    _require_table("run", data)
    parts = dict(data)
    if "schedule" in parts:
        parts["schedule"] = _build(ScheduleConfig, parts["schedule"], "schedule")
    if "data" in parts:
        kind = _tagged("data", parts["data"], "name", DATA_CONFIGS)
        parts["data"] = _build(kind, parts["data"], "data")
    if "model" in parts:
        parts["model"] = _model_from_dict(parts["model"])
    if "optimizer" in parts:
        parts["optimizer"] = optimizer_from_dict(parts["optimizer"])
    config: RunConfig = _build(RunConfig, parts, "run")
    return config
