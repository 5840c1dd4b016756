"""Experiments in files: presets of the package, TOML files, and those that studies saved."""

import json
import re
import tomllib
from dataclasses import asdict, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from sweeps.experiment import Experiment
from sweeps.extends import extended
from transfer.config import CustomConfig, unknown


def experiment_from_dict(data: dict[str, Any], source: str) -> Experiment:
    """Validate plain data, as read from TOML or JSON.

    Raises:
        ValueError: one line that names the source, the field path, the value and what is allowed.
    """
    if isinstance(data, dict) and isinstance(data.get("data"), dict):
        data = {**data, "data": {"name": "digits", **data["data"]}}
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
    tag = 1 if loc[:1] in (["model"], ["data"]) and len(loc) > 1 else tag
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
        ValueError: no preset has this name; the nearest one is named. Or it is a path.
    """
    if "/" in name:
        raise ValueError(f"there is no study and no file {name}")
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
    if path.is_file() and path.suffix != ".toml":
        raise ValueError(
            f"an experiment must be a preset, a .toml file or a study folder, got the file {source}"
        )
    where = source if path.suffix == ".toml" else f"preset {source}"
    data = _read_toml(source)
    try:
        data = extended(data, _read_toml, (source,))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return experiment_from_dict(data, where)


def _read_toml(source: str) -> dict[str, Any]:
    """Return what a TOML file, or a preset of the package, says itself."""
    if source.endswith(".toml"):
        return _parse(tomllib.loads, Path(source))
    return tomllib.loads(preset_text(source))


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
