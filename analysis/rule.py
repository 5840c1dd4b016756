"""The statistical rule: is one setting as good as every other, at every size?

A cell is one (size, comparator) with a loss per seed; a comparator is a
stepsize, a tuple of radii, anything hashable. The reference is the transferred
setting. For each cell D_r = loss_r(reference) - loss_r(comparator), paired by
seed r because runs of one seed see the same batches; D > 0: the reference is
worse. With v a variance with nu degrees of freedom and n paired seeds,

    upper(size) = max(0, max_s(mean D + t(nu, 1 - level) sqrt(v / n)))
    lower(size) = max_s(mean D - t(nu, 1 - level / K) sqrt(v / n)),  K = all cells.

"transfers": upper <= epsilon at every size. "does not transfer": lower >
epsilon at some size, or the reference diverges there. Otherwise "undecided".
The upper bound needs no correction for the number of comparators: the true
best is one fixed comparator.

Noise counts inside the basin only (mean regret <= 10 epsilon): far above the
optimum losses are wild, and such a cell would inflate every bound it is pooled
into. v is what all cells of the size show, times how much noisier than others the
comparator is over all sizes (see _Bounds.variance). A cell far worse than the
reference beyond doubt blocks nothing, and a reference that is so beside a calm
cell does not transfer (see _Bounds.far): how far is far depends on the noise,
and where the data do not tell the noise nothing is far.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Literal, TypeVar

import numpy as np
from scipy import special

S = TypeVar("S", bound=Hashable)
"""Type of a comparator."""

BASIN = 10.0
"""A cell is in the basin if its mean is within BASIN * epsilon of the size's best."""

_FLOOR_SDS = 4.0
_BET_ON_WORSE, _BET_ON_BETTER = 2.0, 0.1
"""Levels of bets, as parts of the level. The one on a better setting is taken from the bound beside
it, which mostly serves better. The one on a worse setting comes on top: Markov's bound is reached
only by losses that lie at the floor but for rare blow-ups."""
_BETS = (0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Noise:
    """Variance of one run's loss, for tables with a single seed."""

    variance: float
    df: int


@dataclass(frozen=True, slots=True)
class Cell(Generic[S]):
    """What the data say about one comparator at one size."""

    size: float
    comparator: S
    difference: float | None
    """Mean of loss(reference) - loss(comparator); None: nothing to compare."""
    num_pairs: int
    num_diverged: int
    std_error: float | None
    df: int
    lower: float
    """One-sided bound at level / K; -inf where the data give none."""
    upper: float
    """One-sided bound at level; +inf where the data give none."""
    far_worse: bool
    """Far worse than the reference on its own evidence: blocks nothing."""
    diverged: bool
    """At least one seed diverged: no comparator."""


@dataclass(frozen=True, slots=True)
class SizeJudgement(Generic[S]):
    """The bounds on the reference's true regret at one size."""

    size: float
    regret: float | None
    """Mean loss of the reference minus that of the best cell."""
    lower: float | None
    upper: float | None
    """None: no bound (the reference diverged, or the noise is unknown)."""
    binding: S | None
    """The comparator that decides: of `lower` if that exceeds epsilon, else of `upper`."""
    blocking: tuple[S, ...]
    """Comparators whose upper bound exceeds epsilon."""
    reference_diverged: bool
    untested: bool = False
    """The reference was not run here."""


@dataclass(frozen=True, slots=True)
class Judgement(Generic[S]):
    status: Literal["transfers", "does not transfer", "undecided"]
    sizes: tuple[SizeJudgement[S], ...]
    cells: tuple[Cell[S], ...]
    level: float
    epsilon: float


@dataclass(frozen=True, slots=True)
class _Pair:
    """Seed-by-seed differences of one cell, before any bound."""

    values: tuple[float, ...]
    num_diverged: int
    in_basin: bool
    """Both the reference and the comparator are in the size's basin."""
    calm: bool
    """The comparator is in the size's basin."""
    mean: float
    variance: float
    """Of the differences; 0 with fewer than two."""

    @property
    def df(self) -> int:
        return max(len(self.values) - 1, 0)


def _mean(values: Collection[float]) -> float:
    # Numpy's takes ten times as long for a handful of seeds.
    return sum(values) / len(values) if values else math.nan


def _variance(values: Collection[float]) -> float:
    mean = _mean(values)
    return sum((v - mean) ** 2 for v in values) / (len(values) - 1) if len(values) > 1 else 0.0


def judge(
    cells: Mapping[tuple[float, S], Mapping[int, float]],
    reference: S,
    epsilon: float,
    *,
    level: float = 0.05,
    noise: Noise | None = None,
    num_cells: int = 0,
) -> Judgement[S]:
    """Judge whether `reference` is within `epsilon` of every comparator at every size.

    Args:
        cells: Loss per seed for each (size, comparator), NaN for a diverged
            run. Where the reference was not run, nothing is known.
        reference: The transferred setting.
        epsilon: Loss difference that matters, in the loss's units; positive.
        level: Chance of a wrong "transfers", and of a wrong "does not
            transfer". Halve it at each further look at a grown table.
        noise: Variance of one run, used where no cell has two paired seeds.
        num_cells: K, if it is more than the cells here: those that may be looked at later.

    Raises:
        ValueError: epsilon or level out of range, or the reference is missing at every size.
    """
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise ValueError(f"epsilon must be a positive loss difference, got {epsilon}")
    if not 0 < level < 0.5:
        raise ValueError(f"level must be in (0, 0.5), got {level}")
    sizes = sorted({size for size, _ in cells})
    tested = [size for size in sizes if cells.get((size, reference))]
    if not tested:
        raise ValueError(f"the reference {reference!r} has no run at any size")

    pairs = {
        key: pair
        for size in tested
        for key, pair in _pairs_at(cells, size, reference, epsilon).items()
    }
    noise_at = {size: _noise_at(cells, size, reference, epsilon) for size in tested}
    bounds = _Bounds(pairs, level, epsilon, noise, num_cells, noise_at)
    judged = tuple(bounds.cell(size, s) for size, s in pairs)
    per_size = tuple(
        _judge_size(cells, judged, size, reference, epsilon)
        if size in tested
        else SizeJudgement(size, None, None, None, None, (), False, untested=True)
        for size in sizes
    )
    return Judgement(_status(per_size, epsilon), per_size, judged, level, epsilon)


def _pairs_at(
    cells: Mapping[tuple[float, S], Mapping[int, float]], size: float, reference: S, epsilon: float
) -> dict[tuple[float, S], _Pair]:
    ours = {s: losses for (w, s), losses in cells.items() if w == size}
    means = {s: _mean(losses.values()) for s, losses in ours.items()}
    finite = [m for m in means.values() if math.isfinite(m)]
    edge = min(finite) + BASIN * epsilon if finite else -math.inf
    base = ours[reference]
    pairs = {}
    for s, losses in ours.items():
        if s == reference:
            continue
        values = tuple(base[r] - losses[r] for r in sorted(losses.keys() & base.keys()))
        # A wild reference makes every difference wild, so both must be in the basin.
        calm = means[s] <= edge
        in_basin = calm and means[reference] <= edge
        bad = sum(not math.isfinite(v) for v in losses.values())
        pairs[size, s] = _Pair(values, bad, in_basin, calm, _mean(values), _variance(values))
    return pairs


def _noise_at(
    cells: Mapping[tuple[float, S], Mapping[int, float]], size: float, reference: S, epsilon: float
) -> Noise:
    """Variance of one run at one size, beside what runs of one seed share; df 0 if unknown.

    What is left of the losses in the basin when the means of every seed and of every comparator
    are taken off.
    """
    ours = {s: losses for (w, s), losses in cells.items() if w == size}
    means = {s: _mean(losses.values()) for s, losses in ours.items()}
    edge = min((m for m in means.values() if math.isfinite(m)), default=-math.inf)
    seeds = sorted(ours[reference])
    together = [
        [losses[r] for r in seeds]
        for s, losses in ours.items()
        if means[s] <= edge + BASIN * epsilon and losses.keys() >= set(seeds)
    ]
    df = (len(seeds) - 1) * (len(together) - 1)
    if df < 1:
        return Noise(0.0, 0)
    x = np.array(together)
    left = x - x.mean(0) - x.mean(1, keepdims=True) + x.mean()
    return Noise(float((left**2).sum() / df), df)


def _pooled(peers: Sequence[_Pair]) -> tuple[float, int, int]:
    """Variance of a comparator's differences over all sizes, its degrees of freedom, and how many
    are left without the size that has most of them."""
    dfs = [q.df for q in peers]
    df = sum(dfs)
    variance = sum(q.df * q.variance for q in peers) / df
    return variance, df, df - max(dfs) if len(dfs) > 1 else df


class _Bounds(Generic[S]):
    """Turns differences into bounds; holds what the cells share."""

    def __init__(
        self,
        pairs: Mapping[tuple[float, S], _Pair],
        level: float,
        epsilon: float,
        noise: Noise | None,
        num_cells: int,
        noise_at: Mapping[float, Noise],
    ) -> None:
        usable = {k: p for k, p in pairs.items() if p.values and not p.num_diverged}
        usable = {k: p for k, p in usable.items() if all(map(math.isfinite, p.values))}
        self.pairs, self.usable = pairs, usable
        self.level, self.epsilon, self.noise = level, epsilon, noise
        self.num_cells = max(len(usable), num_cells, 1)
        self.basin: dict[S, list[_Pair]] = {}
        for (_, s), p in usable.items():
            if p.in_basin and p.df:
                self.basin.setdefault(s, []).append(p)
        self.noise_at = noise_at
        self.pooled = {s: _pooled(peers) for s, peers in self.basin.items()}
        self.common = self._common_noise()

    def cell(self, size: float, s: S) -> Cell[S]:
        """Bound one comparator's advantage over the reference at one size."""
        p = self.pairs[size, s]
        if (size, s) not in self.usable:
            # Without a seed in common nothing is known; a diverged cell is no comparator.
            diverged = p.num_diverged > 0
            top = -math.inf if diverged else math.inf
            n = len(p.values)
            return Cell(size, s, None, n, p.num_diverged, None, 0, -math.inf, top, False, diverged)
        mean, n = p.mean, len(p.values)
        variance, df = self.variance(p, size, s)
        wild = not p.in_basin
        bet = _BET_ON_BETTER * self.level / self.num_cells if wild else 0.0
        share = self.level / self.num_cells - bet
        # Worse than H0 "better by epsilon", and better than H0 "worse by epsilon at most".
        less = [-v for v in p.values]
        far_worse = wild and self.far(less, -self.epsilon, _BET_ON_WORSE * self.level)
        # Of a wild comparator the losses have no floor that the reference's could be held against.
        far_better = wild and p.calm and self.far(p.values, self.epsilon, bet)
        if df == 0:
            low, high, se = -math.inf, math.inf, None
        else:
            se = math.sqrt(variance / n)
            low = mean - t_quantile(df, 1 - share) * se
            high = mean + t_quantile(df, 1 - self.level) * se
        if far_better:
            low = max(low, math.nextafter(self.epsilon, math.inf))
        return Cell(size, s, mean, n, 0, se, df, low, high, far_worse, False)

    def variance(self, p: _Pair, size: float, s: S) -> tuple[float, int]:
        """Variance of a difference and its degrees of freedom; (0, 0) if unknown."""
        if p.df and not p.in_basin:
            return p.variance, p.df
        if s not in self.pooled:
            return self.common
        # Noise may grow with the size and along the grid. So what all cells of this size show is
        # multiplied by how much noisier the comparator is than others over all sizes. Where a size
        # has too few cells for that, the cell's own variance counts if it is the larger one; that
        # is as sure as what is left without one size's.
        pooled, df, df_of_others = self.pooled[s]
        here = self.noise_at[size]
        if p.df and min(here.df, df) > df_of_others:
            noisier = max(1.0, pooled / self.common[0]) if self.common[0] else 1.0
            return max(2 * here.variance * noisier, pooled), min(here.df, df)
        return max(p.variance, pooled), df_of_others

    def _common_noise(self) -> tuple[float, int]:
        """Noise of the whole basin, or of the curves' smoothness; (0, 0) if unknown."""
        every = [q for peers in self.basin.values() for q in peers]
        if every:
            total = sum(q.df for q in every)
            # Cells of one size share the reference's noise, so they count as one.
            return sum(q.df * q.variance for q in every) / total, max(q.df for q in every)
        if self.noise is not None and self.noise.df > 0:
            return 2 * self.noise.variance, self.noise.df
        return 0.0, 0

    def far(self, excess: Sequence[float], mean: float, level: float) -> bool:
        """Is one setting worse than another beyond doubt, by losses too wild for a variance?

        Wild losses have no useful variance (20 +- 12, 400 +- 100), but they have a floor: no run
        beats a basin by more than its depth and noise. Were the expected excess `mean`, then
        Y = (excess + floor) / (mean + floor) would be non-negative with expectation 1 at most, and
        so would be every product over seeds of 1 - b + b Y with 0 <= b <= 1, and their average.
        By Markov's inequality it reaches 1 / level with probability `level` at most
        (Waudby-Smith and Ramdas 2023, arXiv:2010.09686, section 4).

        Without a noise there is no floor, and no doubt is ever lifted: with losses that scatter
        over many epsilon the basin is empty by chance.
        """
        variance, df = self.common
        if df == 0 or _mean(excess) <= BASIN * self.epsilon:
            return False
        # Few degrees of freedom may show a tenth of the true noise, which t makes up for.
        sds = max(_FLOOR_SDS, t_quantile(df, 1 - level))
        floor = BASIN * self.epsilon + sds * math.sqrt(variance)
        if min(excess) < -floor:
            return False
        ratios = [(e + floor) / (mean + floor) for e in excess]
        bets = [math.prod(1 - b + b * y for y in ratios) for b in _BETS]
        return _mean(bets) * level >= 1


def _judge_size(
    cells: Mapping[tuple[float, S], Mapping[int, float]],
    judged: tuple[Cell[S], ...],
    size: float,
    reference: S,
    epsilon: float,
) -> SizeJudgement[S]:
    base = list(cells[size, reference].values())
    if not all(map(math.isfinite, base)):
        return SizeJudgement(size, None, None, None, None, (), True)
    ours = [c for c in judged if c.size == size and not c.diverged]
    means = [_mean(cells[size, c.comparator].values()) for c in ours]
    regret = max(0.0, _mean(base) - min(means, default=math.inf))
    live = [c for c in ours if not c.far_worse]
    top = max(live, key=lambda c: c.upper, default=None)
    low = max(ours, key=lambda c: (c.lower, c.difference or 0.0), default=None)
    # Comparators that all diverged bracket the reference; none at all say nothing.
    nothing = all(c.size != size for c in judged)
    upper = math.inf if nothing else max(0.0, top.upper if top else 0.0)
    lower = low.lower if low else -math.inf
    binding = low if low and lower > epsilon else top
    return SizeJudgement(
        size,
        regret,
        lower if math.isfinite(lower) else None,
        upper if math.isfinite(upper) else None,
        binding.comparator if binding else None,
        tuple(c.comparator for c in live if c.upper > epsilon),
        False,
    )


def _status(
    sizes: tuple[SizeJudgement[S], ...], epsilon: float
) -> Literal["transfers", "does not transfer", "undecided"]:
    if any(j.reference_diverged or (j.lower is not None and j.lower > epsilon) for j in sizes):
        return "does not transfer"
    if all(j.upper is not None and j.upper <= epsilon for j in sizes):
        return "transfers"
    return "undecided"


@lru_cache(maxsize=4096)
def t_quantile(df: float, p: float) -> float:
    """Quantile of Student's t; scipy.special is 50 times faster than scipy.stats here."""
    return float(special.stdtrit(df, p))
