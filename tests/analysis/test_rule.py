"""The rule by hand on small cells, and its error rates on simulated sweeps."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.rule import Noise, judge
from sweeps.adaptive import around
from tests.cases import rest_slow

EPSILON = 0.005
SIGMA = 0.3 * EPSILON
NUM_SWEEPS = 400
# 5 % and three standard errors of a share of 400.
MOST_WRONG = 0.05 + 3 * math.sqrt(0.05 * 0.95 / NUM_SWEEPS)

Cells = dict[tuple[float, float], dict[int, float]]


def test_bounds_by_hand() -> None:
    """Two sizes, three seeds: nu = (2 - 1)(3 - 1) = 2, v the larger of own and mean."""
    d1, d2 = np.array([0.001, 0.002, 0.006]), np.array([0.0, 0.001, 0.002])
    cells: dict[tuple[float, str], dict[int, float]] = {}
    for size, d in ((1.0, d1), (2.0, d2)):
        base = np.array([0.5, 0.6, 0.7])
        cells[size, "home"] = dict(enumerate(base))
        cells[size, "away"] = dict(enumerate(base - d))
    result = judge(cells, "home", EPSILON)
    pooled = (d1.var(ddof=1) + d2.var(ddof=1)) / 2
    for j, d in zip(result.sizes, (d1, d2), strict=True):
        se = math.sqrt(max(pooled, d.var(ddof=1)) / 3)
        assert j.upper == pytest.approx(d.mean() + stats.t.ppf(0.95, 2) * se)
        assert j.lower == pytest.approx(d.mean() - stats.t.ppf(1 - 0.05 / 2, 2) * se)
        assert j.regret == pytest.approx(d.mean()) and j.binding == "away"


def test_any_hashable_and_halved_level() -> None:
    cells = {(1.0, ("a", 1)): {0: 1.0, 1: 1.1}, (1.0, ("b", 2)): {0: 1.0, 1: 1.104}}
    wide = judge(cells, ("a", 1), EPSILON, level=0.025).sizes[0].upper
    narrow = judge(cells, ("a", 1), EPSILON).sizes[0].upper
    assert wide is not None and narrow is not None and wide > narrow


def test_nothing_to_compare_is_undecided() -> None:
    assert judge({(1.0, "a"): {0: 1.0, 1: 1.0}}, "a", EPSILON).status == "undecided"


def test_diverged_comparators_bracket() -> None:
    cells = {(1.0, "a"): {0: 1.0, 1: 1.0}, (1.0, "b"): {0: math.nan, 1: 0.1}}
    assert judge(cells, "a", EPSILON).status == "transfers"


def test_one_seed_uses_the_given_noise() -> None:
    cells = {(1.0, "a"): {0: 1.0}, (1.0, "b"): {0: 1.001}}
    (known,) = judge(cells, "a", EPSILON, noise=Noise(1e-6, 8)).sizes
    assert known.upper == pytest.approx(-0.001 + stats.t.ppf(0.95, 8) * math.sqrt(2e-6))
    (unknown,) = judge(cells, "a", EPSILON).sizes
    assert unknown.upper is None


def test_missing_reference_is_named() -> None:
    with pytest.raises(ValueError, match="'a' has no run at any size"):
        judge({(1.0, "b"): {0: 1.0}, (2.0, "b"): {0: 1.0}}, "a", EPSILON)


def test_nothing_is_known_where_the_reference_was_not_run() -> None:
    cells: Cells = {(1.0, 0.0): {0: 1.0, 1: 1.1}, (1.0, 1.0): {0: 1.1, 1: 1.2001}}
    part = judge({**cells, (2.0, 1.0): {0: 1.0, 1: 1.0}}, 0.0, EPSILON)
    assert judge(cells, 0.0, EPSILON).status == "transfers" and part.status == "undecided"
    assert [(j.untested, j.upper, j.regret is None) for j in part.sizes] == [
        (False, 0.0, False),
        (True, None, True),
    ]


def simulate(
    rng: np.random.Generator,
    optima: tuple[float, ...],
    *,
    seeds: int = 3,
    curvature: float = 0.01,
    growth: float = 0.0,
    cliff: bool = False,
) -> Cells:
    """A sweep over log2 stepsizes -7..0; noise grows by 2^growth a cell, seeds share effects."""
    grid = np.arange(-7.0, 1.0)
    cells: Cells = {}
    for i, optimum in enumerate(optima):
        sd = SIGMA * 2.0 ** (growth * (grid + 3))
        shape = (seeds, grid.size)
        losses = 0.58 + curvature * (grid - optimum) ** 2 + sd * rng.standard_normal(shape)
        losses += 2 * SIGMA * rng.standard_normal((seeds, 1))
        if cliff:
            wild = np.exp((1.0, 3.0, 6.0, 2.0)[i] + rng.standard_normal((seeds, 2)))
            losses[:, -2:] += wild
        for g, column in zip(grid, losses.T, strict=True):
            cells[2.0**i, float(g)] = dict(enumerate(column.tolist()))
    return cells


def share(status: str, regret: float, **kwargs: Any) -> float:
    """Share of sweeps judged `status`; at the last of four sizes the regret at -3 is `regret`."""
    rng = np.random.default_rng(0)
    curvature = float(kwargs.get("curvature", 0.01))
    # With the best grid point at -4: loss(-3) - loss(-4) = curvature * (-7 - 2 * optimum).
    last = -(regret * EPSILON / curvature + 7) / 2 if regret else -3.0
    hits = 0
    for _ in range(NUM_SWEEPS):
        cells = simulate(rng, (-3.0, -3.0, -3.0, last), **kwargs)
        hits += judge(cells, -3.0, EPSILON).status == status
    return hits / NUM_SWEEPS


CASES = [
    {},
    {"seeds": 2},
    {"cliff": True},
    {"growth": 0.3},
    {"curvature": 0.03, "cliff": True},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_regret_above_epsilon_rarely_transfers(case: dict[str, float | bool]) -> None:
    assert share("transfers", 1.01, **case) <= MOST_WRONG


@pytest.mark.parametrize("case", CASES, ids=str)
def test_regret_below_epsilon_is_rarely_refused(case: dict[str, float | bool]) -> None:
    assert share("does not transfer", 0.99, **case) <= MOST_WRONG


@pytest.mark.parametrize("case", [{}, {"cliff": True}, {"curvature": 0.004}], ids=str)
def test_power(case: dict[str, float | bool]) -> None:
    assert share("transfers", 0.0, **case) >= 0.9
    assert share("does not transfer", 4.0, **case) >= 0.9


def _noisy(rng: np.random.Generator, shape: str, regret: float, sd: float, seeds: int) -> Cells:
    """Four sizes; noise of `sd` epsilon; at the last size the reference -3 has `regret` epsilon."""
    grid = np.arange(-7.0, 1.0)
    cells: Cells = {}
    for i in range(4):
        # A parabola's best grid point is then -4 at the last size, as in `share`.
        optimum = -3.5 - regret / 4 if i == 3 and regret else -3.0
        flat = -regret * EPSILON * (grid == -4) if i == 3 else 0 * grid
        mean = flat if shape == "flat" else 2 * EPSILON * (grid - optimum) ** 2
        noise = rng.standard_normal((seeds, grid.size)) + 2 * rng.standard_normal((seeds, 1))
        losses = 0.58 + mean + sd * EPSILON * noise
        for g, column in zip(grid, losses.T, strict=True):
            cells[2.0**i, float(g)] = dict(enumerate(column.tolist()))
    return cells


# Every other noise with every number of seeds, the shapes in turn.
NOISES, SEEDS, SHAPES = [0.3, 1.0, 20.0, 60.0, 200.0], [2, 3, 4], ["flat", "parabola"]
OFTEN = [(*c, SHAPES[i % 2]) for i, c in enumerate(product(NOISES[::2], SEEDS))]


@pytest.mark.parametrize(("sd", "seeds", "shape"), rest_slow(OFTEN, product(NOISES, SEEDS, SHAPES)))
def test_errors_are_rare_at_any_noise(sd: float, seeds: int, shape: str) -> None:
    """Noise far above epsilon leaves basins empty by chance; that must not look like evidence."""
    rng = np.random.default_rng(2)
    claims = ((0.0, "does not transfer"), (1.0, "does not transfer"), (1.02, "transfers"))
    for regret, wrong in claims:
        tables = [_noisy(rng, shape, regret, sd, seeds) for _ in range(NUM_SWEEPS)]
        rate = sum(judge(t, -3.0, EPSILON).status == wrong for t in tables) / NUM_SWEEPS
        assert rate <= MOST_WRONG, f"{wrong!r} at regret {regret} epsilon: {rate}"


def _lopsided(reference: list[float], comparator: list[float]) -> Cells:
    """Size 1 is calm; at size 2 one of the two cells has the given losses."""
    calm = {0: 0.6, 1: 0.6005, 2: 0.601}
    return {
        (1.0, 0.0): calm,
        (1.0, 1.0): {0: 0.6008, 1: 0.601, 2: 0.6016},
        (2.0, 0.0): dict(enumerate(reference)),
        (2.0, 1.0): dict(enumerate(comparator)),
    }


CALM = [0.6, 0.6005, 0.601]


def _scale(odds: float, multiples: tuple[float, ...], floor: float) -> float:
    """Return x for which losses x * multiples above another's are far from it at 1 in `odds`.

    By hand: the mean over b of the products of 1 - b + b (loss + floor) / (epsilon + floor).
    """

    def surplus(x: float) -> float:
        ratios = [(m * x + floor) / (EPSILON + floor) for m in multiples]
        bets = [np.prod([1 - b + b * y for y in ratios]) for b in (0.5, 1.0)]
        return float(np.mean(bets)) - odds

    return float(optimize.brentq(surplus, 0.0, 100.0))


def test_wild_comparator_blocks_unless_it_is_beyond_doubt() -> None:
    """One seed near the reference does not matter where the others are far enough."""
    for losses, status in (
        ([0.9, 5.0, 400.0], "transfers"),
        ([0.62, 5.0, 400.0], "transfers"),
        ([0.61, 0.65, 0.7], "undecided"),
        ([0.3, 5.0, 400.0], "undecided"),  # below the floor: the assumption is wrong
    ):
        assert judge(_lopsided(CALM, losses), 0.0, EPSILON).status == status


WILD = (1.0, 2.0, 6.0)
"""Too different for a variance to say anything."""


def test_wild_reference_fails_only_beyond_doubt() -> None:
    floor = 10 * EPSILON  # the basin's noise is 0.0002 and adds little
    x = _scale(2 * 10 / 0.05, WILD, floor)  # two cells, a tenth of the level
    for factor, status in ((1.05, "does not transfer"), (0.95, "undecided")):
        losses = [calm + factor * x * m for calm, m in zip(CALM, WILD, strict=True)]
        assert judge(_lopsided(losses, CALM), 0.0, EPSILON).status == status


def test_nothing_is_far_where_the_noise_is_unknown() -> None:
    """Cells apart by more than the basin at every size: no pair tells the noise of a run."""
    apart: Cells = {(1.0, 0.0): {0: 5.0, 1: 50.0}, (1.0, 1.0): {0: 0.6, 1: 0.7}}
    assert judge(apart, 0.0, EPSILON).status == "undecided"
    assert not any(c.far_worse for c in judge(apart, 1.0, EPSILON).cells)


def test_few_seeds_make_the_floor_wide() -> None:
    """By hand: two seeds, one calm pair with sd 0.01 and one degree of freedom, two cells."""
    calm = {0: 0.60, 1: 0.60}
    cells: Cells = {
        (1.0, 0.0): calm,
        (1.0, 1.0): {0: 0.60 - 0.01 / math.sqrt(2), 1: 0.60 + 0.01 / math.sqrt(2)},
    }
    sd = 0.01
    floor = 10 * EPSILON + stats.t.ppf(1 - 0.05 / 10 / 2, 1) * sd
    x = _scale(2 * 10 / 0.05, (1.0, 3.0), floor)
    for factor, status in ((1.01, "does not transfer"), (0.99, "undecided")):
        cells[2.0, 0.0] = {0: 0.6 + factor * x, 1: 0.6 + factor * 3 * x}
        cells[2.0, 1.0] = calm
        assert judge(cells, 0.0, EPSILON).status == status


def test_a_wild_comparator_is_no_evidence_against_the_reference() -> None:
    """Two wild cells beside a calm one: only the calm one may show that the reference is far."""
    cells = _lopsided([40.0, 50.0, 400.0], [1.0, 3.0, 9.0])
    cells[2.0, 2.0] = dict(zip((3, 4, 5), CALM, strict=True))  # no seed in common
    result = judge(cells, 0.0, EPSILON)
    assert result.status == "undecided"
    cells[2.0, 2.0] = dict(enumerate(CALM))
    assert judge(cells, 0.0, EPSILON).status == "does not transfer"


def test_the_level_is_shared_by_all_comparators_of_a_far_reference() -> None:
    """What two cells show beyond doubt, 14 must show more clearly."""
    x = _scale(1000, WILD, 10 * EPSILON)  # 2 cells ask for 400, 14 for 2,800
    few = _lopsided([c + x * m for c, m in zip(CALM, WILD, strict=True)], CALM)
    many = dict(few)
    for k in range(2, 8):
        for size in (1.0, 2.0):
            many[size, float(k)] = {r: v + 0.001 * k for r, v in few[size, 1.0].items()}
    assert judge(few, 0.0, EPSILON).status == "does not transfer"
    assert judge(many, 0.0, EPSILON).status == "undecided"


def test_the_level_is_that_of_what_may_block_too() -> None:
    """Two of three seeds are better by ten epsilon: a rare wild one is no proof at any level."""
    losses = [0.55, 0.551, 40.0]
    found = [judge(_lopsided(CALM, losses), 0.0, EPSILON, level=v).status for v in (0.05, 0.001)]
    assert found == ["transfers", "undecided"]


def test_the_noise_of_a_size_by_hand() -> None:
    """Three settings of the basin and a far one at each of two sizes, three seeds."""
    rng = np.random.default_rng(5)
    x = 1 + 0.001 * rng.standard_normal((2, 4, 3)) * np.array([1.0, 3.0])[:, None, None]
    x[:, 3] += 0.2
    cells: Cells = {
        (float(w), float(s)): dict(enumerate(x[w, s].tolist())) for w in (0, 1) for s in range(4)
    }
    left = x[:, :3] - x[:, :3].mean(1, keepdims=True) - x[:, :3].mean(2, keepdims=True)
    left += x[:, :3].mean((1, 2), keepdims=True)
    here = (left**2).sum((1, 2)) / 4
    differences = x[:, :1] - x[:, 1:3]
    own = differences.var(2, ddof=1)  # (size, comparator)
    for c in judge(cells, 0.0, EPSILON).cells:
        w, s = int(c.size), int(c.comparator)
        if s == 3:
            continue  # far: on its own
        noisier = max(1.0, own[:, s - 1].mean() / own.mean())
        variance = max(2 * here[w] * noisier, own[:, s - 1].mean())
        assert c.df == 4 and c.std_error == pytest.approx(math.sqrt(variance / 3))


def test_basin_does_not_pool_with_wild_cells() -> None:
    wild = judge(_lopsided(CALM, [0.9, 5.0, 400.0]), 0.0, EPSILON)
    alone = judge({k: v for k, v in _lopsided(CALM, CALM).items() if k[0] == 1}, 0.0, EPSILON)
    assert wild.sizes[0].upper == alone.sizes[0].upper


# --- two looks -------------------------------------------------------------------------------


def part_of(cells: Cells) -> Cells:
    """What an adaptive sweep begins with; the smallest size is 1, the reference -3."""
    part = {key: losses for key, losses in cells.items() if key[0] == 1.0}
    for size in {size for size, _ in cells} - {1.0}:
        grid = sorted(s for w, s in cells if w == size)
        means = [float(np.mean([*cells[size, s].values()])) for s in grid]
        chosen = around(len(grid), grid.index(-3.0), lambda i, means=means: means[i])
        part |= {(size, grid[i]): cells[size, grid[i]] for i in chosen}
    return part


def two_looks(cells: Cells) -> tuple[str, float]:
    """Return the status of an adaptive sweep, and the share of the cells that it took."""
    part = part_of(cells)
    first = judge(part, -3.0, EPSILON, num_cells=len(cells) - 4).status
    if first != "undecided":
        return first, len(part) / len(cells)
    return judge(cells, -3.0, EPSILON).status, 1.0


@pytest.mark.parametrize("seeds", [2, 4])
@pytest.mark.parametrize("sd", [0.3, 20.0])
@pytest.mark.slow
def test_a_look_at_a_part_makes_no_error_more_frequent(sd: float, seeds: int) -> None:
    """Where losses rise away from the optimum."""
    rng = np.random.default_rng(3)
    for regret, wrong in ((1.0, "does not transfer"), (1.02, "transfers")):
        tables = [_noisy(rng, "parabola", regret, sd, seeds) for _ in range(NUM_SWEEPS)]
        rate = sum(two_looks(t)[0] == wrong for t in tables) / NUM_SWEEPS
        whole = sum(judge(t, -3.0, EPSILON).status == wrong for t in tables) / NUM_SWEEPS
        assert rate <= min(MOST_WRONG, whole + 0.01), f"{wrong!r} at {regret} epsilon: {rate}"


def test_a_better_basin_far_away_goes_unseen() -> None:
    """The limit that the documentation names: -7 is four cells from the reference."""
    cells = simulate(np.random.default_rng(0), (-3.0,) * 4)
    cells[8.0, -7.0] = {r: loss - 4 * EPSILON for r, loss in cells[8.0, -3.0].items()}
    assert judge(cells, -3.0, EPSILON).status == "does not transfer"
    assert two_looks(cells)[0] == "transfers"


@pytest.mark.parametrize("regret", [0.0, 4.0])
def test_a_part_decides_as_the_whole_does(regret: float) -> None:
    rng = np.random.default_rng(4)
    tables = [_noisy(rng, "parabola", regret, 0.3, 3) for _ in range(NUM_SWEEPS)]
    looks = [two_looks(t) for t in tables]
    same = [s == judge(t, -3.0, EPSILON).status for t, (s, _) in zip(tables, looks, strict=True)]
    assert sum(same) / NUM_SWEEPS >= 0.98
    assert np.mean([cost for _, cost in looks]) <= 0.85


def test_cells_that_may_come_count_for_the_lower_bound() -> None:
    cells = {(1.0, 0.0): {0: 1.0, 1: 1.1, 2: 1.2}, (1.0, 1.0): {0: 0.98, 1: 1.082, 2: 1.178}}
    alone, many = (judge(cells, 0.0, EPSILON, num_cells=k).sizes[0] for k in (0, 20))
    assert alone.lower is not None and many.lower is not None and many.lower < alone.lower
    assert alone.upper == many.upper
