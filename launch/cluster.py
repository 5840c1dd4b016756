"""What a SLURM cluster is asked for: a profile, in a TOML file of the user's."""

import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from transfer.config import require

_WORD = re.compile(r"[A-Za-z0-9_.,:=@%\[\]&|()*+/-]*")
"""What may be handed to sbatch as a value: nothing that ends a line or an argument."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Resources of one job, and how jobs are made.

    Only `setup` holds shell code. Every other text goes to sbatch as a value.

    Raises:
        ValueError: a field is out of range; it is named.
    """

    partition: str = ""
    """One or several, separated by commas; empty: the cluster's default."""
    account: str = ""
    qos: str = ""
    gres: str = ""
    """Such as gpu:a100:1."""
    constraint: str = ""
    exclude: str = ""
    """Nodes that are not used."""
    cpus: int = 1
    mem_gb: int = 4
    time_min: int = 60
    """Limit of one job; what it has not done by then it goes on with in the next one."""
    parallelism: int = 16
    """Most jobs of one stage that run at a time."""
    runs_per_job: int = 0
    """Most runs of a job; 0: as many as fit one stack."""
    signal_delay_s: int = 90
    """So long before the limit a job hands itself on."""
    requeues: int = 3
    """So often."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job, such as `module load cuda`."""
    extra: dict[str, str] = field(default_factory=dict)
    """Other options of sbatch, by name."""

    def __post_init__(self) -> None:
        for name in ("partition", "account", "qos", "gres", "constraint", "exclude"):
            value = getattr(self, name)
            require(bool(_WORD.fullmatch(value)), f"cluster.{name}", "one word for sbatch", value)
        for key, value in self.extra.items():
            plain = bool(re.fullmatch(r"[a-z][a-z-]*", key)) and bool(_WORD.fullmatch(value))
            require(plain, f"cluster.extra.{key}", "an option's name and one word", value)
        for name in ("cpus", "mem_gb", "time_min", "parallelism"):
            require(getattr(self, name) >= 1, f"cluster.{name}", "at least 1", getattr(self, name))
        for name in ("runs_per_job", "signal_delay_s", "requeues"):
            require(getattr(self, name) >= 0, f"cluster.{name}", "at least 0", getattr(self, name))


def profiles() -> Path:
    """Return the folder of named profiles."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "lmo-transfer"


def load_cluster(source: str) -> ClusterConfig:
    """Load a profile: a TOML file, or NAME for NAME.toml in the folder of profiles.

    Raises:
        ValueError: no such file, no TOML, or a field that is unknown or not allowed.
    """
    from pydantic import TypeAdapter, ValidationError

    path = Path(source) if source.endswith(".toml") else profiles() / f"{source}.toml"
    if not path.is_file():
        raise ValueError(f"--cluster must name a profile, got {source!r}: there is no file {path}")
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    unknown = sorted(data.keys() - set(ClusterConfig.__dataclass_fields__))
    if unknown:
        names = ", ".join(ClusterConfig.__dataclass_fields__)
        raise ValueError(f"{path}: {unknown[0]} must be one of {names}")
    try:
        return TypeAdapter(ClusterConfig).validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        at = ".".join(map(str, problem["loc"]))
        said = str(problem.get("ctx", {}).get("error", "")) or f"{at}: {problem['msg']}"
        raise ValueError(
            f"{path}: {said}, got {problem['input']!r}" if at else f"{path}: {said}"
        ) from None
