"""An experiment: what is tuned, what is swept and how it is judged, from a TOML file."""

import json
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from transfer.config import (
    CustomConfig,
    DataConfig,
    MlpConfig,
    OptimizerConfig,
    Precision,
    ScheduleConfig,
    require,
    require_depth,
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
        require(self.octaves_below >= 1, "octaves_below", "at least 1", self.octaves_below)
        require(self.octaves_above >= 1, "octaves_above", "at least 1", self.octaves_above)


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
        _require_distinct("seeds", self.seeds)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Stepsizes over widths, and the star of radii at every width."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Widths, increasing; tuning is done at the first."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of every cell."""
    star_neighbours: int = 1
    """Octaves on either side of the tuned stepsize at which the star is tried too."""

    def __post_init__(self) -> None:
        require(len(self.widths) >= 1, "widths", "at least one width", self.widths)
        increasing = all(a < b for a, b in zip(self.widths, self.widths[1:], strict=False))
        require(increasing and self.widths[0] >= 1, "widths", "positive, increasing", self.widths)
        _require_distinct("seeds", self.seeds)
        require(self.star_neighbours >= 0, "star_neighbours", "at least 0", self.star_neighbours)


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
        Annotated[MlpConfig, Tag("mlp")] | Annotated[CustomConfig, Tag("custom")],
        Discriminator(_family_of),
    ] = field(default_factory=MlpConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    arms: dict[str, ArmConfig]
    """Optimizers side by side, by a name of your own."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    verdict: VerdictConfig

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
        require_depth("train.depth", self.model, self.train.depth)
        stated = self.model.roles(self.train.depth)
        if stated is not None:
            self.require_roles(stated)
        shared = sorted(set(self.tune.seeds) & set(self.sweep.seeds))
        require(not shared, "tune.seeds", "other seeds than sweep.seeds", shared)

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


def _require_distinct(name: str, seeds: tuple[int, ...]) -> None:
    good = len(seeds) >= 1 and len(set(seeds)) == len(seeds) and min(seeds, default=0) >= 0
    require(good, name, "one or more different numbers, each at least 0", seeds)


# --- reading -------------------------------------------------------------------------------


def experiment_from_dict(data: dict[str, Any], source: str) -> Experiment:
    """Validate plain data, as read from TOML or JSON.

    Raises:
        ValueError: one line that names the source, the field path, the value and what is allowed.
    """
    try:
        # JSON mode is strict about numbers and texts, yet takes lists for tuples.
        return TypeAdapter(Experiment).validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        lines = "; ".join(_explain(problem) for problem in error.errors())
        raise ValueError(f"{source}: {lines}") from None


def experiment_to_dict(experiment: Experiment) -> dict[str, Any]:
    """Return plain data that `experiment_from_dict` takes back; the arms keep their order."""
    plain: dict[str, Any] = _without_none(
        json.loads(json.dumps(asdict(experiment), allow_nan=False))
    )
    return plain


def _without_none(value: Any) -> Any:
    """Leave out what is not said, which TOML cannot say."""
    if isinstance(value, dict):
        return {key: _without_none(v) for key, v in value.items() if v is not None}
    return value


def _explain(problem: Any) -> str:
    """Put one pydantic error into the project's words."""
    loc = [part for part in problem["loc"]]
    # A discriminated union puts its tag into the path; a reader's file has no such level.
    tag = 3 if loc[:1] == ["arms"] and loc[2:3] == ["optimizer"] else None
    tag = 1 if loc[:1] == ["model"] and len(loc) > 1 else tag
    path = ".".join(str(part) for i, part in enumerate(loc) if i != tag) or "experiment"
    if problem["type"] == "unexpected_keyword_argument":
        return f"{path}: " + unknown("field", loc[-1], _names_at(Experiment, loc[:-1]))
    if problem["type"] == "value_error":
        return f"{path}: {problem['ctx']['error']}" if loc else str(problem["ctx"]["error"])
    if problem["type"] in ("literal_error", "union_tag_invalid"):
        said = problem["ctx"].get("expected") or problem["ctx"]["expected_tags"]
        got = problem["ctx"].get("tag", problem["input"])
        tag_name = "family" if loc[:1] == ["model"] else "name"
        where = f"{path}.{tag_name}" if "tag" in problem["ctx"] else path
        return unknown(where, got, re.findall(r"'([^']*)'", said))
    if problem["type"] == "missing":
        return f"{path} is missing"
    got = f", got {problem['input']!r}" if not isinstance(problem["input"], dict) else ""
    return f"{path}: {problem['msg'][0].lower() + problem['msg'][1:]}{got}"


def _names_at(kind: Any, loc: list[Any]) -> list[str]:
    """Return the field names of the dataclass that a path leads to."""
    for part in loc:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        if get_origin(kind) in (Union, UnionType):
            kinds = [get_args(k)[0] if get_origin(k) is Annotated else k for k in get_args(kind)]
            tags = [(tag, k) for tag in ("name", "family") for k in kinds]
            kind = next(k for tag, k in tags if get_type_hints(k).get(tag) == Literal[part])
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            kind = get_type_hints(kind, include_extras=True)[part]
    return [f.name for f in fields(kind)] if is_dataclass(kind) else []


def list_presets() -> list[str]:
    """Return the names of the presets in the package."""
    folder = resources.files("sweeps") / "presets"
    return sorted(
        item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")
    )


def preset_text(name: str) -> str:
    """Return a preset's TOML text.

    Raises:
        ValueError: no preset has this name; the nearest one is named.
    """
    if name not in list_presets():
        raise ValueError(unknown("preset", name, list_presets()))
    return (resources.files("sweeps") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def load_experiment(source: str) -> Experiment:
    """Load a preset by name, a TOML file, or the experiment of a study folder.

    Raises:
        ValueError: nothing of that name, or contents that are not allowed.
    """
    path = Path(source)
    if path.is_dir():
        saved = path / "experiment.json"
        if not saved.is_file():
            raise ValueError(f"{source} is a folder without experiment.json: no study")
        return load_experiment_file(saved)
    if path.suffix == ".toml":
        return experiment_from_dict(_parse(tomllib.loads, path), source)
    return experiment_from_dict(tomllib.loads(preset_text(source)), f"preset {source}")


def load_experiment_file(path: Path) -> Experiment:
    """Load an experiment that a study saved as JSON; raises as `load_experiment`."""
    return experiment_from_dict(_parse(json.loads, path), str(path))


def with_family(experiment: Experiment, build: str) -> Experiment:
    """Return the experiment with a family of the user's own, under a name of its own.

    Raises:
        ValueError: `build` is not package.module:function.
    """
    model = CustomConfig(build=build)
    # Its loss is its own, so there is nothing that smoothing could be applied to.
    train = replace(experiment.train, label_smoothing=0.0)
    name = f"{experiment.name}-{build.partition(':')[0].rpartition('.')[2]}"
    summary = f"{build} in place of the model of {experiment.name}"
    return replace(experiment, name=name, summary=summary, model=model, train=train)


def _parse(parser: Any, path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = parser(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    return data
