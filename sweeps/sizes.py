"""The sizes of a sweep: which one axis grows, and what it is set to."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from transfer.config import require

Axis = Literal["width", "depth", "batch_size", "steps"]
SIZE_FIELDS: dict[Axis, str] = {
    "width": "widths",
    "depth": "depths",
    "batch_size": "batch_sizes",
    "steps": "steps",
}
"""Field of `SweepConfig` that holds the sizes along each axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One size of a sweep: one axis as swept, the others as fixed."""

    width: int
    depth: int
    batch_size: int
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Stepsizes over sizes along one axis, and the star of radii at every size."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True}
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Widths, increasing; tuning is done at the first. A single one where another axis grows."""
    depths: tuple[int, ...] = ()
    """Depths instead, increasing, at the single width."""
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes instead, increasing, at the single width."""
    steps: tuple[int, ...] = ()
    """Numbers of steps instead, increasing, at the single width."""
    fixed_examples: bool = False
    """With batch_sizes: keep the number of examples seen, train.batch_size x train.steps, by
    taking fewer steps with larger batches."""
    check_factor: int = 2
    """The tuned setting is tried at so many times the largest size, which is not swept; 0: not."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of every cell."""
    star_neighbours: int = 1
    """Octaves on either side of the tuned stepsize at which the star is tried too."""
    adaptive: bool = False
    """At larger sizes first the stepsizes around the tuned one and around the optimum; the others
    only where those leave the verdict open and more can close it."""

    def __post_init__(self) -> None:
        require(len(self.widths) >= 1, "widths", "at least one width", self.widths)
        for field in SIZE_FIELDS.values():
            sizes = getattr(self, field)
            increasing = all(a < b for a, b in zip(sizes, sizes[1:], strict=False))
            require(increasing and min(sizes, default=1) >= 1, field, "positive, increasing", sizes)
        others = [f for f in ("depths", "batch_sizes", "steps") if getattr(self, f)]
        growing = [*others, *(["widths"] if len(self.widths) > 1 else [])]
        require(len(growing) <= 1, "sweep", "along one axis", f"sizes in {' and '.join(growing)}")
        batches = bool(self.batch_sizes) or not self.fixed_examples
        require(batches, "fixed_examples", "false unless batch_sizes are swept", True)
        good = self.check_factor == 0 or self.check_factor >= 2
        require(good, "check_factor", "0 or at least 2", self.check_factor)
        require_distinct("seeds", self.seeds)
        require(self.star_neighbours >= 0, "star_neighbours", "at least 0", self.star_neighbours)

    @property
    def axis(self) -> Axis:
        """What grows."""
        others: tuple[Axis, ...] = ("depth", "batch_size", "steps")
        return next((axis for axis in others if getattr(self, SIZE_FIELDS[axis])), "width")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes along the axis, increasing; tuning is done at the first."""
        sizes: tuple[int, ...] = getattr(self, SIZE_FIELDS[self.axis])
        return sizes

    @property
    def check_size(self) -> int | None:
        """The size beyond the sweep at which the tuned setting is tried; None for none."""
        return self.check_factor * self.sizes[-1] or None


def require_distinct(name: str, seeds: tuple[int, ...]) -> None:
    """Raise ValueError unless seeds are given and differ."""
    good = len(seeds) >= 1 and len(set(seeds)) == len(seeds) and min(seeds, default=0) >= 0
    require(good, name, "one or more different numbers, each at least 0", seeds)
