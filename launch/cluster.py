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
_KINDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    tuple[str, ...]: "a list of texts",
    dict[str, str]: "a table of texts",
}
"""What a field of a profile is to be, by its type."""


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
        why = "is no file" if path.exists() else "is not there"
        raise ValueError(f"--cluster must name a profile, got {source!r}: {path} {why}")
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not written as TOML: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be TOML in UTF-8, got other bytes") from None
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


def mismatches(cluster: ClusterConfig, device: str) -> list[str]:
    """Return a line for each resource that is asked for and not used, or used and not asked for."""
    found = []
    if device == "cpu" and cluster.cpus > 1:
        found.append(
            f"cluster.cpus is {cluster.cpus}, and training on CPUs uses one core of a process: "
            "with cluster.cpus 1 and a larger cluster.parallelism more of them are used"
        )
    if device == "cpu" and cluster.gpus:
        found.append(
            f"the jobs ask for {cluster.gpus} GPU{'s' * (cluster.gpus > 1)}, and compute.device is "
            "cpu: with --device cuda they are used"
        )
    if device == "cuda" and not cluster.gpus:
        found.append(
            "compute.device is cuda, and the jobs ask for no GPU: where the partition gives none "
            "by itself, set cluster.gres, such as gpu:a100:1"
        )
    return found


def _cluster(data: Any, path: Path) -> ClusterConfig:
    from pydantic import TypeAdapter, ValidationError

    types = {field.name: field.type for field in fields(ClusterConfig)}
    names = list(types)
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
        wanted = "a text" if "." in at else _KINDS.get(types.get(at), problem["msg"])
        said = str(problem.get("ctx", {}).get("error", "")) or f"cluster.{at} must be {wanted}"
        raise ValueError(
            f"{path}: {said}, got {problem['input']!r}" if at else f"{path}: {said}"
        ) from None
