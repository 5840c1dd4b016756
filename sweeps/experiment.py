"""An experiment: what is tuned, what is swept and how it is judged, from a TOML file."""

from dataclasses import dataclass, field, replace
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
)

from pydantic import Discriminator, Tag

from sweeps.cluster import ClusterConfig
from sweeps.sizes import Point, SweepConfig, require_distinct
from transfer.config import (
    CnnConfig,
    ComputeConfig,
    CustomConfig,
    DataConfig,
    DigitsConfig,
    GptConfig,
    MlpConfig,
    OptimizerConfig,
    Precision,
    ScheduleConfig,
    VitConfig,
    require,
    require_positive,
    unknown,
)

_STRICT = {"extra": "forbid", "strict": True}
Log2Range = tuple[float, float]
_MOST_OCTAVES = 60
"""Farthest power of two searched; beyond lies what float32 cannot tell from 0 or infinity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """What every run of the experiment shares; the fixed axes of its verdict."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    depth: int = 3
    """Depth of the model; for the MLP, its number of linear layers."""
    steps: int = 60
    """Optimizer steps."""
    batch_size: int = 128
    """Examples a step."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, in training and validation."""
    precision: Precision = "float32"
    """Number format of weights and arithmetic."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        require(self.depth >= 1, "depth", "at least 1", self.depth)
        require(self.steps >= 1, "steps", "at least 1", self.steps)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "label_smoothing", "in [0, 1)", smoothing)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmConfig:
    """One optimizer of the comparison: how it is tuned, swept, and varied."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    optimizer: Annotated[OptimizerConfig, Discriminator("name")]
    search: dict[str, Log2Range] = field(default_factory=dict)
    """Tuned settings: `stepsize`, or a role for its radius; each with its log2 range."""
    schedule: ScheduleConfig | None = None
    """Schedule of this arm, where it is not that of all runs."""
    octaves_below: int = 4
    """Powers of two swept below the tuned stepsize."""
    octaves_above: int = 4
    """Powers of two swept above it; a constrained arm stops at stepsize 1."""
    star: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Factors on the tuned radius of a role, tried one at a time at every width."""

    def __post_init__(self) -> None:
        roles = getattr(self.optimizer, "roles", {})
        for name, (low, high) in self.search.items():
            if name != "stepsize" and name not in roles:
                raise ValueError(unknown("search", name, {"stepsize", *roles}))
            require(low < high, f"search.{name}", "a range LOW HIGH with LOW < HIGH", (low, high))
            whole = float(low).is_integer() and float(high).is_integer()
            require(whole, f"search.{name}", "whole powers of two", (low, high))
            within = -_MOST_OCTAVES <= low and high <= _MOST_OCTAVES
            limits = f"between -{_MOST_OCTAVES} and {_MOST_OCTAVES}"
            require(within, f"search.{name}", limits, (low, high))
        if getattr(self.optimizer, "constrained", False) and "stepsize" in self.search:
            top = self.search["stepsize"][1]
            require(top <= 0, "search.stepsize", "at most 2^0 when constrained", f"2^{top:g}")
        if self.search and "stepsize" not in self.search:
            raise ValueError("search must contain stepsize, got only " + ", ".join(self.search))
        for role, factors in self.star.items():
            if role not in roles:
                raise ValueError(unknown("star", role, roles))
            require(len(set(factors)) == len(factors), f"star.{role}", "different factors", factors)
            for value in factors:
                require_positive(f"star.{role}", value)
                require(value != 1, f"star.{role}", "factors other than 1", value)
        require(self.octaves_below >= 0, "octaves_below", "at least 0", self.octaves_below)
        require(self.octaves_above >= 0, "octaves_above", "at least 0", self.octaves_above)


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """Search at the smallest width."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    trials: int = 32
    """Trials of an arm that tunes more than its stepsize; a multiple of batch."""
    batch: int = 8
    """Trials asked for at a time, trained together, then told."""
    seeds: tuple[int, ...] = (101, 102)
    """Seeds whose mean loss is a trial's value; none of them is a seed of the sweep."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Optuna's sampler. An arm that tunes its stepsize alone is enumerated instead."""
    sampler_seed: int = 0
    """Seed of the sampler."""

    def __post_init__(self) -> None:
        require(self.batch >= 1, "batch", "at least 1", self.batch)
        require(self.trials >= 1, "trials", "at least 1", self.trials)
        require(
            self.trials % self.batch == 0,
            "trials",
            f"a multiple of batch = {self.batch} (batches then stay the same when trials grow)",
            self.trials,
        )
        require_distinct("seeds", self.seeds)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictConfig:
    """How the sweep is judged."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    epsilon: float
    """Loss difference that matters, in nats, fixed before looking."""
    level: float = 0.05
    """Significance level."""

    def __post_init__(self) -> None:
        require_positive("epsilon", self.epsilon)
        require(0 < self.level < 0.5, "level", "in (0, 0.5)", self.level)


def _family_of(model: Any) -> Any:
    """Return the tag of a model's table; a table that does not say is an MLP's."""
    return model.get("family", "mlp") if isinstance(model, dict) else model.family


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """All that a study needs to be carried out, and carried out again."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    name: str
    """Name of the study's folder under studies/."""
    summary: str = ""
    """One line for the list of presets."""
    model: Annotated[
        Annotated[MlpConfig, Tag("mlp")]
        | Annotated[GptConfig, Tag("gpt")]
        | Annotated[CnnConfig, Tag("cnn")]
        | Annotated[VitConfig, Tag("vit")]
        | Annotated[CustomConfig, Tag("custom")],
        Discriminator(_family_of),
    ] = field(default_factory=MlpConfig)
    data: Annotated[DataConfig, Discriminator("name")] = field(default_factory=DigitsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    arms: dict[str, ArmConfig]
    """Optimizers side by side, by a name of your own."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    verdict: VerdictConfig
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        for what, name, marks in [
            ("name", self.name, "-_."),
            *(("arms", a, "-_") for a in self.arms),
        ]:
            plain = name and name[0].isalnum() and all(c.isalnum() or c in marks for c in name)
            wanted = f"letters, digits and {' '.join(marks)}, a letter or digit first"
            require(bool(plain), what, wanted, name)
        require(len(self.arms) >= 1, "arms", "at least one", self.arms)
        folded = [name.casefold() for name in self.arms]
        require(len(set(folded)) == len(folded), "arms", "names that differ", list(self.arms))
        if isinstance(self.model, CustomConfig):
            smoothing = self.train.label_smoothing
            wanted = "0 for a family of your own, which has its own loss"
            require(smoothing == 0, "train.label_smoothing", wanted, smoothing)
        self.model.require_data(self.data.shape)
        for size in (*self.sweep.sizes, self.sweep.check_size):
            self._require_size(size)
        shared = sorted(set(self.tune.seeds) & set(self.sweep.seeds))
        require(not shared, "tune.seeds", "other seeds than sweep.seeds", shared)

    def at(self, size: int) -> Point:
        """Return width, depth, batch size and steps at one size of the sweep's axis."""
        train, sweep = self.train, self.sweep
        fixed = Point(
            width=sweep.widths[0],
            depth=train.depth,
            batch_size=train.batch_size,
            steps=train.steps,
        )
        point = replace(fixed, **{sweep.axis: size})
        if sweep.fixed_examples:
            examples = train.batch_size * train.steps
            wanted = f"divisors of the {examples} examples seen, as sweep.fixed_examples keeps them"
            require(examples % size == 0, "sweep.batch_sizes (check included)", wanted, size)
            point = replace(point, steps=examples // size)
        return point

    def _require_size(self, size: int | None) -> None:
        """Check one size of the sweep, naming the fields that give it."""
        if size is None:
            return
        point, deep = self.at(size), self.sweep.axis == "depth"
        checked = " (check included)" if size == self.sweep.check_size else ""
        names = f"sweep.widths{checked}", f"sweep.depths{checked}" if deep else "train.depth"
        self.model.require_size(point.width, point.depth, names)
        stated = self.model.roles(point.depth)
        if stated is not None:
            self.require_roles(stated)

    def require_roles(self, roles: tuple[str, ...]) -> None:
        """Raise ValueError unless every arm has rules for these roles, and varies no others."""
        for name, arm in self.arms.items():
            for role in sorted({*arm.search, *arm.star} - {"stepsize", *roles}):
                where = f"arms.{name}: a role in search and star"
                raise ValueError(unknown(where, role, roles) + "; remove it there")
            rules = getattr(arm.optimizer, "roles", dict.fromkeys(roles))
            for role in roles:
                where, wanted = f"arms.{name}.optimizer.roles", f"a table with {role!r}"
                require(role in rules, where, wanted, sorted(rules))
