"""How often the verdict is wrong, and how often its intervals cover, on simulated sweeps.

    python benchmarks/calibration.py --sweeps 2000 --json calibration

Losses are parabolas in log2 of the stepsize over four sizes. The setting that is transferred is
best at the first three; at the last one it is worse than the best grid point by a known regret.
Each row is another kind of noise, grid or landscape; each sweep is judged by `analysis.verdict`
as a user's table would be.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import facts, keep  # noqa: E402

from analysis import Verdict, verdict  # noqa: E402

EPSILON = 0.01
SIZES = (64, 128, 256, 512)
DRIFT = -0.4
"""Octaves per doubling, of the sweeps on which intervals are tried."""
TILT = 0.6


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of sweep. Lengths along the grid are octaves, losses are in units of epsilon."""

    seeds: int = 3
    noise: float = 0.4
    """Standard deviation of a run's loss, beside what the runs of one seed share."""
    grows_with_stepsize: float = 0.0
    """The noise doubles so many times per octave."""
    grows_with_size: float = 0.0
    """And so many times per doubling of the size."""
    tails: float = math.inf
    """Degrees of freedom of Student's t, scaled to the same deviation."""
    curvature: float = 2.0
    """Loss one octave from the optimum."""
    spacing: float = 1.0
    cliff: bool = False
    """Two octaves above the optimum losses are wild, three above every run diverges."""
    unshared: bool = False
    """Seeds share nothing."""
    better_above: bool = False
    """The better setting is the larger stepsize, where growing noise is larger."""
    two: bool = False
    """A radius is varied too, over six octaves: where it doubles, the best stepsize falls by TILT
    octaves, and half the curvature is its own."""


KINDS = {
    "three seeds, noise 0.4": Kind(),
    "two seeds": Kind(seeds=2),
    "five seeds, noise 1": Kind(seeds=5, noise=1.0),
    "one seed": Kind(seeds=1),
    "noise 0.1": Kind(noise=0.1),
    "noise 3": Kind(noise=3.0),
    "noise grows with stepsize and size": Kind(grows_with_stepsize=0.3, grows_with_size=0.5),
    "the same, better setting above": Kind(
        grows_with_stepsize=0.3, grows_with_size=0.5, better_above=True
    ),
    "heavy tails (t, 3 degrees)": Kind(tails=3.0),
    "a cliff above the optimum": Kind(cliff=True),
    "half octaves": Kind(spacing=0.5),
    "flat basin": Kind(curvature=0.5),
    "steep": Kind(curvature=8.0),
    "seeds share nothing": Kind(unshared=True),
    "two hyperparameters": Kind(two=True),
    "two, noise grows": Kind(two=True, grows_with_stepsize=0.3, grows_with_size=0.5),
    "two, a cliff": Kind(two=True, cliff=True),
}
REGRETS = {"0": 0.0, "0.97": 0.97, "1.02": 1.02, "4": 4.0}


def grid_of(kind: Kind) -> np.ndarray:
    """Return the cells as rows of log2 of the stepsize and the radius; 0, 0 is transferred."""
    reach = round(5 / kind.spacing)
    stepsizes = np.arange(-reach, reach - 1) * kind.spacing
    radii = np.arange(-3.0, 3.0) if kind.two else np.zeros(1)
    return np.stack([g.ravel() for g in np.meshgrid(stepsizes, radii, indexing="ij")], axis=1)


def losses_of(kind: Kind, grid: np.ndarray, optimum: float) -> np.ndarray:
    """Return the losses without noise, in epsilon; the best radius is 1."""
    off = grid[:, 0] - optimum + TILT * grid[:, 1]
    return np.asarray(kind.curvature * (off**2 + grid[:, 1] ** 2 / 2))


def optimum_for(kind: Kind, regret: float) -> float:
    """Return the optimum at which 0 is worse than the best grid point by `regret` epsilon."""
    grid = grid_of(kind)

    def worse(optimum: float) -> float:
        return float(kind.curvature * optimum**2 - losses_of(kind, grid, optimum).min())

    low, high = -4.0, 0.0  # the regret falls towards 0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if worse(middle) > regret else (low, middle)
    return low if regret else 0.0


def sweep(rng: np.random.Generator, kind: Kind, optima: tuple[float, ...]) -> pd.DataFrame:
    """Return one sweep as a table."""
    grid, parts = grid_of(kind), []
    for index, (size, optimum) in enumerate(zip(SIZES, optima, strict=True)):
        shape = (kind.seeds, len(grid))
        raw = rng.standard_normal(shape)
        if math.isfinite(kind.tails):
            raw = rng.standard_t(kind.tails, shape) / math.sqrt(kind.tails / (kind.tails - 2))
        growth = kind.grows_with_stepsize * grid[:, 0] + kind.grows_with_size * index
        shared = 0.0 if kind.unshared else 2 * kind.noise * rng.standard_normal((kind.seeds, 1))
        above = grid[:, 0] - optimum + TILT * grid[:, 1]
        losses = losses_of(kind, grid, optimum) + kind.noise * 2.0**growth * raw + shared
        if kind.cliff:
            wild = np.exp(rng.normal(4, 1.5, shape))
            losses = np.where(above > 1.75, losses + wild, losses)
            losses = np.where(above > 2.75, np.nan, losses)
        parts.append(
            pd.DataFrame(
                {
                    "width": size,
                    "stepsize": np.tile(2.0 ** grid[:, 0], kind.seeds),
                    "radius": np.tile(2.0 ** grid[:, 1], kind.seeds),
                    "seed": np.repeat(np.arange(kind.seeds), len(grid)),
                    "val_loss": 3.0 + EPSILON * losses.ravel(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def judged(rng: np.random.Generator, kind: Kind, optima: tuple[float, ...]) -> Verdict:
    """Return the verdict on one sweep."""
    x, at = (("stepsize", "radius"), (1.0, 1.0)) if kind.two else ("stepsize", 1.0)
    return verdict(sweep(rng, kind, optima), x=x, transferred=at, epsilon=EPSILON)


def optima_of_line() -> tuple[float, ...]:
    """Return optima that drift, between grid points."""
    return tuple(-0.3 + DRIFT * k for k in range(len(SIZES)))


def count(kind: Kind, num_sweeps: int, seed: int) -> dict[str, Any]:
    """Judge sweeps of one kind and return how often what came out."""
    found: dict[str, Any] = asdict(kind)
    for name, regret in REGRETS.items():
        rng = np.random.default_rng([seed, round(100 * regret)])
        side = -1 if kind.better_above else 1
        optima = (0.0, 0.0, 0.0, side * optimum_for(kind, regret))
        statuses = [judged(rng, kind, optima).status for _ in range(num_sweeps)]
        for status in ("transfers", "does not transfer", "undecided"):
            found[f"{status} at {name}"] = statuses.count(status) / num_sweeps
    rng, lines = np.random.default_rng([seed, 7]), optima_of_line()
    of_optima, of_drifts, of_tilts = [], [], []
    for _ in range(num_sweeps):
        v = judged(rng, kind, lines)
        for row, true in zip(v.rows, lines, strict=True):
            if row.tilt is not None:
                of_tilts.append(row.tilt.low <= -TILT <= row.tilt.high)
            if kind.two:
                if row.region is not None:
                    of_optima.append(row.region.holds((true, 0.0)))
                continue
            low, high = (end.get("stepsize") for end in (row.optimum_low, row.optimum_high))
            if low is not None and high is not None:
                of_optima.append(low <= 2.0**true <= high)
        if v.drift is not None and v.drift.low is not None and v.drift.high is not None:
            of_drifts.append(v.drift.low <= DRIFT <= v.drift.high)
    found["optimum covered"], found["drift covered"] = np.mean(of_optima), np.mean(of_drifts)
    if of_tilts:
        found["interaction covered"] = np.mean(of_tilts)
    return found


def lines_of(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Return the rows as a Markdown table, in percent."""
    heads = {
        "wrong at 1.02 ε": "transfers at 1.02",
        "wrong at 0.97 ε": "does not transfer at 0.97",
        "right at 0": "transfers at 0",
        "right at 4 ε": "does not transfer at 4",
        "optimum covered": "optimum covered",
        "drift covered": "drift covered",
    }
    yield f"| sweep | {' | '.join(heads)} |"
    yield "|---|" + "---|" * len(heads)
    for name, row in rows.items():
        yield f"| {name} | {' | '.join(f'{100 * row[key]:.1f}' for key in heads.values())} |"


def main() -> None:
    """Simulate and print; JSON on request."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=2000, metavar="N", help="of each kind")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--only", nargs="+", default=list(KINDS), metavar="KIND", choices=KINDS)
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    options = parser.parse_args()
    one = partial(count, num_sweeps=options.sweeps, seed=options.seed)
    with ProcessPoolExecutor() as pool:
        counted = pool.map(one, [KINDS[name] for name in options.only])
        rows = dict(zip(options.only, counted, strict=True))
    print("\n".join(lines_of(rows)))
    if options.json:
        keep(options.json, {**facts(), "sweeps": options.sweeps, "rows": rows})


if __name__ == "__main__":
    main()
