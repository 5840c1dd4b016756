"""How long runs take, learned from the run table; heavy packages are not needed.

A size that was timed takes what it took. Others follow from the nearest timed ones by a power law
in width, depth and batch, whose exponents are those of arithmetic unless two widths were timed.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from statistics import median
from typing import Any

from sweeps.table import StoredRun
from transfer.config import RunConfig, canonical_json

_WIDTH_EXPONENT = 1.5
"""Between vocabulary (1) and square matrices (2), where nothing better is known."""
_STEEP = (0.0, 2.0)
"""Exponents of the width that are believed."""

_Kind = str
_Size = tuple[int, int, int]


class Pace:
    """Seconds that runs take: each its share of the time of its stack, compiling included.

    Args:
        rows: Runs of the table.
        device: Where runs are to be computed: cpu, cuda or mps. Times of other kinds of devices
            do not count.
        guess: Returns seconds a step of a run of which nothing is known; None: unknown.
    """

    def __init__(
        self,
        rows: Iterable[StoredRun],
        device: str,
        guess: Callable[[RunConfig], float] | None = None,
    ) -> None:
        self._guess = guess
        times: dict[_Kind, dict[_Size, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if row.status == "done" and row.stopped_step and _device(row) == device:
                config = row.config
                size = config["width"], config["depth"], config["batch_size"]
                took = row.wall_s + row.compile_s
                times[_kind(config)][size].append(took / row.stopped_step)
        self._known = {
            kind: {size: median(found) for size, found in sizes.items()}
            for kind, sizes in times.items()
        }

    def is_known(self, config: RunConfig) -> bool:
        """Whether runs like it, of this or another size, were timed."""
        return _kind(asdict(config)) in self._known

    def seconds(self, config: RunConfig) -> float | None:
        """Return the time of a run; None if nothing like it was timed and there is no guess."""
        known = self._known.get(_kind(asdict(config)))
        if known:
            step = _scaled(known, (config.width, config.depth, config.batch_size))
        elif self._guess is not None:
            step = self._guess(config)
        else:
            return None
        return step * config.steps


def _scaled(known: dict[_Size, float], wanted: _Size) -> float:
    if wanted in known:
        return known[wanted]

    def distance(size: _Size) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(size, wanted, strict=True))

    near = min(known, key=distance)
    width, depth, batch = (a / b for a, b in zip(wanted, near, strict=True))
    return float(known[near] * width ** _exponent(known, near, wanted) * depth * batch)


def _exponent(known: dict[_Size, float], near: _Size, wanted: _Size) -> float:
    """Return how the time grows with the width, from the nearest size and the next one to it."""
    others = [s for s in known if s[1:] == near[1:] and s[0] != near[0]]
    if not others:
        return _WIDTH_EXPONENT
    other = min(others, key=lambda size: abs(math.log(size[0] / wanted[0])))
    slope = math.log(known[near] / known[other]) / math.log(near[0] / other[0])
    # Small models take as long as smaller ones; beyond the largest that is no rule.
    least = 1.0 if wanted[0] > max(near[0], other[0]) else _STEEP[0]
    return min(max(slope, least), _STEEP[1])


def _kind(config: dict[str, Any]) -> _Kind:
    """Return what tells apart runs whose times have nothing to do with each other."""
    data = {key: config["data"].get(key) for key in ("name", "sequence_length", "resolution")}
    names = config["optimizer"]["name"], config["precision"]
    return canonical_json([config["model"], data, *names])


def _device(row: StoredRun) -> str:
    """Return cpu, cuda or mps; tables call a GPU by its name."""
    name = row.versions.get("device", "cpu")
    return name if name in ("cpu", "mps") else "cuda"
