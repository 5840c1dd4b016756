"""Clusters by name: profiles in TOML files of the user's, and the one that a study was last on."""

import json
import os
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sweeps.cluster import ClusterConfig
from sweeps.study import write_json

_REMEMBERED = "cluster.json"


def profiles() -> Path:
    """Return the folder of named profiles."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "lmo-transfer"


def load_cluster(source: str) -> ClusterConfig:
    """Load a profile: a TOML file, or NAME for NAME.toml in the folder of profiles.

    Raises:
        ValueError: no such file, no TOML, or a field that is unknown or not allowed.
    """
    path = Path(source) if source.endswith(".toml") else profiles() / f"{source}.toml"
    if not path.is_file():
        raise ValueError(f"--cluster must name a profile, got {source!r}: there is no file {path}")
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return _cluster(data, path)


def remember(folder: Path, cluster: ClusterConfig | None) -> None:
    """Note in a study where it trains: on a cluster, or, with None, on this machine."""
    path = folder / _REMEMBERED
    if cluster is None:
        path.unlink(missing_ok=True)
    else:
        write_json(path, asdict(cluster))


def remembered(folder: Path) -> ClusterConfig | None:
    """Return the cluster that a study was last trained on; None if it was on this machine.

    Raises:
        ValueError: the note is damaged.
    """
    path = folder / _REMEMBERED
    try:
        return _cluster(json.loads(path.read_text("utf-8")), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {error}") from None


def idle_cores(cluster: ClusterConfig, device: str) -> str:
    """Return one line about cores that training leaves idle; an empty one if there are none."""
    if device != "cpu" or cluster.cpus == 1:
        return ""
    return (
        f"cluster.cpus is {cluster.cpus}, and training on CPUs uses one core of a process: more "
        "jobs at a time (cluster.parallelism) are faster"
    )


def _cluster(data: Any, path: Path) -> ClusterConfig:
    from pydantic import TypeAdapter, ValidationError

    names = [field.name for field in fields(ClusterConfig)]
    unknown = sorted(data.keys() - set(names))
    if unknown == ["cluster"]:
        raise ValueError(f"{path}: a profile's fields stand by themselves, without [cluster]")
    if unknown:
        raise ValueError(f"{path}: {unknown[0]} must be one of {', '.join(names)}")
    try:
        return TypeAdapter(ClusterConfig).validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        at = ".".join(map(str, problem["loc"]))
        said = str(problem.get("ctx", {}).get("error", "")) or f"cluster.{at}: {problem['msg']}"
        raise ValueError(
            f"{path}: {said}, got {problem['input']!r}" if at else f"{path}: {said}"
        ) from None
