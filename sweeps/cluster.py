"""What a SLURM cluster is asked for."""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transfer.config import require, require_positive

_WORD = re.compile(r"[A-Za-z0-9_.,:=@%\[\]&|()*+/-]*")
"""What may be handed to sbatch as a value: nothing that ends a line or an argument."""
_OURS = frozenset(
    "partition account qos gres constraint exclude cpus-per-task mem time array signal job-name "
    "output error open-mode nodes ntasks ntasks-per-node tasks-per-node mem-per-cpu requeue "
    "no-requeue wrap parsable wait test-only export chdir uid".split()
)
"""Options of sbatch that have a field of their own, or that the jobs rest on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Resources of one job, and how runs become jobs; for `--on slurm`.

    Only `setup` holds shell code. Every other text goes to sbatch as a value.

    Raises:
        ValueError: a field is out of range; it is named.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True}
    partition: str = ""
    """One or several, separated by commas; empty: the cluster's default."""
    account: str = ""
    """Whose hours are used; empty: the user's default."""
    qos: str = ""
    """Quality of service."""
    gres: str = ""
    """Such as gpu:a100:1."""
    constraint: str = ""
    """Features that a node must have."""
    exclude: str = ""
    """Nodes that are not used."""
    cpus: int = 1
    """Of each process."""
    tasks_per_node: int = 1
    """Processes of a job, each with a GPU of its own, that train the same runs together."""
    mem_gb: int = 4
    """Memory of a job on its node."""
    time_min: int = 60
    """Limit of one job; what it has not done by then it goes on with in the next one."""
    target_min: float = 30.0
    """Length that jobs are packed to, as far as the times of earlier runs tell."""
    parallelism: int = 16
    """Most jobs of one submission that run at a time."""
    runs_per_job: int = 0
    """Most runs of a job; 0: as many as the target allows."""
    signal_delay_s: int = 90
    """So long before the limit a job hands itself on."""
    requeues: int = 3
    """So often."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job, such as `module load cuda`."""
    extra: dict[str, str] = field(default_factory=dict)
    """Other options of sbatch, by name; an empty value is a switch."""

    def __post_init__(self) -> None:
        for name in ("partition", "account", "qos", "gres", "constraint", "exclude"):
            value = getattr(self, name)
            require(bool(_WORD.fullmatch(value)), f"cluster.{name}", "one word for sbatch", value)
        for key, value in self.extra.items():
            plain = bool(re.fullmatch(r"[a-z][a-z-]*", key)) and bool(_WORD.fullmatch(value))
            require(plain, f"cluster.extra.{key}", "an option's name and one word", value)
            wanted = "an option that is not set already, by a field or by the jobs"
            require(key not in _OURS, f"cluster.extra.{key}", wanted, value)
        for line in self.setup:
            require("\n" not in line, "cluster.setup", "lines without line breaks", line)
        for name in ("cpus", "tasks_per_node", "mem_gb", "time_min", "parallelism"):
            require(getattr(self, name) >= 1, f"cluster.{name}", "at least 1", getattr(self, name))
        for name in ("runs_per_job", "signal_delay_s", "requeues"):
            require(getattr(self, name) >= 0, f"cluster.{name}", "at least 0", getattr(self, name))
        if self.tasks_per_node > 1:
            wanted = f"one with {self.tasks_per_node} GPUs, as many as cluster.tasks_per_node"
            at, asked = next(iter(self._asked().items()), ("", ""))
            require(self.gpus in (0, self.tasks_per_node), f"cluster.{at}", wanted, asked)
        require_positive("cluster.target_min", self.target_min)
        delay, limit = self.signal_delay_s, 60 * self.time_min
        wanted = f"less than the limit of {limit} s (cluster.time_min)"
        require(delay < limit, "cluster.signal_delay_s", wanted, delay)

    @property
    def gpus(self) -> int:
        """Number of GPUs of a job, as `gres` or --gpus and its kin say; 0 if they say none."""
        number = sum(_gpus(part) for text in self._asked().values() for part in text.split(","))
        return number * (self.tasks_per_node if "gpus-per-task" in self.extra else 1)

    def _asked(self) -> dict[str, str]:
        """Return what asks for GPUs, by field."""
        asked = {"gres": self.gres}
        asked |= {f"extra.{k}": f"gpu:{v}" for k, v in self.extra.items() if k.startswith("gpus")}
        return {field: text for field, text in asked.items() if any(map(_gpus, text.split(",")))}


def _gpus(part: str) -> int:
    """Count the GPUs of one resource such as gpu, gpu:4, gpu:a100:4 or gpu:a100:4(S:0-1)."""
    words = part.partition("(")[0].replace("=", ":").split(":")
    if words[0] not in ("gpu", "gres/gpu"):
        return 0
    return int(words[-1]) if words[-1].isdigit() else 1
