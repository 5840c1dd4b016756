"""Stacked runs step as if each had an optimizer of its own: on the CPU bit for bit."""

import copy
import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.cases import rest_slow
from tests.transfer.stepping import assert_bitwise, average, gaussian
from transfer.config import NORM_NAMES
from transfer.norms import NORMS
from transfer.optimizers import Almond, LmoOptimizer, Scion, ScionLight

STEPS = 4
KINDS = [
    pytest.param(Scion, False, id="Scion"),
    pytest.param(Scion, True, id="constrained Scion"),
    pytest.param(Almond, False, id="Almond"),
]
# Odd sizes: where a matrix lies in memory must not change how it is rounded.
SHAPES: dict[int, list[tuple[int, ...]]] = {
    1: [(7,), (13,), (7,)],
    2: [(13, 13), (7, 5), (7, 5), (5, 12)],
    3: [(7, 5, 3), (7, 5, 3), (4, 5, 2, 3)],
}
POLARS = ["svd", "eigh@float64", "muon", "muon@bfloat16", "quintic:3", "polar-express:8@float64"]
SPECTRAL = ["spectral", "plain-spectral", "spectral-max", "embedding-spectral", "conv-spectral"]


@dataclass(frozen=True)
class Layouts:
    """Settings of a group, and shapes of one run."""

    settings: dict[str, Any]
    shapes: list[tuple[int, ...]]


LAYOUTS = {
    "split rows": Layouts({"split_sizes": (6, 4, 3)}, [(13, 5), (13, 5)]),
    "split columns": Layouts({"layout": "transposed", "split_sizes": (6, 7)}, [(5, 13)]),
    "table": Layouts({"layout": "table", "norm": "col-norm"}, [(9, 5), (3, 3, 5), (5,)]),
    "split table": Layouts({"layout": "table", "norm": "sign", "split_sizes": (2, 3)}, [(9, 5)]),
    "experts": Layouts({"layout": "batch", "split_sizes": (4, 3)}, [(3, 7, 5), (2, 2, 7, 5)]),
    "transposed experts": Layouts({"layout": "batch-transposed"}, [(3, 7, 5)]),
    "groups": Layouts({"norm": "conv-spectral", "groups": 2}, [(6, 5, 3), (4, 3, 3, 3)]),
    "groups of matrices": Layouts({"norm": "row-norm", "layout": "conv", "groups": 3}, [(6, 5, 3)]),
    "conv-transposed": Layouts(
        {"norm": "conv-spectral", "layout": "conv-transposed", "groups": 2}, [(6, 5, 3, 2)]
    ),
    "split vector": Layouts({"norm": "bias-rms", "split_sizes": (3, 4)}, [(7,)]),
    "any shape": Layouts({"norm": "max-norm"}, [(), (7,), (3, 5)]),
    "joint": Layouts({"norm": "euclidean", "joint": True}, [(), (7,), (3, 5)]),
    "joint signs": Layouts({"norm": "max-norm", "joint": True, "maximize": True}, [(7,), (3, 5)]),
    "one by one": Layouts({"foreach": False}, [(7, 5), (7, 5)]),
}


def numbers(runs: int) -> dict[str, Tensor]:
    """Return a stepsize, radius and alpha for each run."""
    k = torch.arange(runs, dtype=torch.float64)
    return {"lr": 0.3 / (k + 1), "radius": 2.0 ** (k % 5 - 2), "alpha": 1 / (1 + k % 3)}


def stack(shapes: list[tuple[int, ...]], runs: int, dtype: torch.dtype) -> list[nn.Parameter]:
    """Return Gaussian parameters of several runs."""
    return [nn.Parameter(gaussian((runs, *s), i, dtype)) for i, s in enumerate(shapes)]


def drawn(params: list[nn.Parameter], step: int) -> list[Tensor]:
    """Return gradients of very different sizes."""
    return [
        gaussian(tuple(p.shape), 1000 * step + i, p.dtype) * 10.0 ** (3 * (i % 3) - 3)
        for i, p in enumerate(params)
    ]


def slices(tensors: list[Any], r: int) -> list[Any]:
    """Return the stack of run r alone, in memory of its own."""
    return [t.detach()[r : r + 1].clone() for t in tensors]


def feed(params: list[nn.Parameter], grads: list[Tensor]) -> None:
    """Set the gradients."""
    for p, grad in zip(params, grads, strict=True):
        p.grad = grad


def assert_runs_are_alone(
    kind: Any,
    settings: dict[str, Any],
    shapes: list[tuple[int, ...]],
    runs: int,
    dtype: torch.dtype,
    own: dict[str, Any],
) -> None:
    """Fail unless every run of a stack equals, bit for bit, the stack of that run alone."""
    together = stack(shapes, runs, dtype)
    apart = [[nn.Parameter(t) for t in slices(together, r)] for r in range(runs)]
    one = kind(together, stacked=True, **settings, **own)
    each = [
        {k: v[r : r + 1] if isinstance(v, Tensor) else v for k, v in own.items()}
        for r in range(runs)
    ]
    many = [kind(p, stacked=True, **settings, **e) for p, e in zip(apart, each, strict=True)]
    for step in range(STEPS):
        grads = drawn(together, step)
        feed(together, grads)
        one.step()
        for r, (params, optimizer) in enumerate(zip(apart, many, strict=True)):
            feed(params, slices(grads, r))
            optimizer.step()
    for r, (params, optimizer) in enumerate(zip(apart, many, strict=True)):
        assert all(torch.isfinite(p).all() for p in params)
        assert_bitwise(slices(list(together), r), [p.detach() for p in params])
        kept = [average(one, p) for p in together]
        assert_bitwise(slices(kept, r), [average(optimizer, p) for p in params])


@pytest.mark.parametrize("runs", [1, 3, 8])
@pytest.mark.parametrize("name", NORM_NAMES)
@pytest.mark.parametrize(("kind", "constrained"), KINDS)
def test_runs_are_alone(kind: Any, constrained: bool, name: str, runs: int) -> None:
    settings = {"norm": name, "constrained": constrained}
    shapes = SHAPES[NORMS[name].event_ndim]
    assert_runs_are_alone(kind, settings, shapes, runs, torch.float32, numbers(runs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NORM_NAMES)
@pytest.mark.parametrize("kind", [Scion, Almond])
def test_runs_are_alone_in_other_precisions(kind: Any, name: str, dtype: torch.dtype) -> None:
    shapes = SHAPES[NORMS[name].event_ndim]
    assert_runs_are_alone(kind, {"norm": name}, shapes, 8, dtype, numbers(8))


# Each norm and each polar factor meets both numbers of runs.
OFTEN = [
    (name, polar, (3, 8)[(i + j) % 2])
    for i, name in enumerate(SPECTRAL)
    for j, polar in enumerate(POLARS)
]


@pytest.mark.parametrize(
    ("name", "polar", "runs"), rest_slow(OFTEN, product(SPECTRAL, POLARS, [3, 8]))
)
def test_every_polar_factor(name: str, polar: str, runs: int) -> None:
    shapes = SHAPES[NORMS[name].event_ndim]
    for dtype in (torch.float32, torch.float64):
        settings = {"norm": name, "polar": polar}
        assert_runs_are_alone(Scion, settings, shapes, runs, dtype, numbers(runs))


@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.parametrize(("kind", "constrained"), KINDS)
def test_layouts(kind: Any, constrained: bool, case: str) -> None:
    settings = {**LAYOUTS[case].settings, "constrained": constrained}
    assert_runs_are_alone(kind, settings, LAYOUTS[case].shapes, 5, torch.float32, numbers(5))


@pytest.mark.parametrize("varied", ["lr", "radius", "alpha", None])
@pytest.mark.parametrize("kind", [Scion, Almond])
def test_numbers_for_all_runs(kind: Any, varied: str | None) -> None:
    """Each setting is a number for all runs or a vector of one for each."""
    own = {key: value if key == varied else value[1].item() for key, value in numbers(3).items()}
    assert_runs_are_alone(kind, {}, SHAPES[2], 3, torch.float32, own)


# --- against the optimizer without a stack ---


def unstacked(
    kind: Any, params: list[nn.Parameter], settings: dict[str, Any], r: int, own: dict[str, Tensor]
) -> tuple[list[nn.Parameter], LmoOptimizer]:
    """Return the parameters of run r and its ordinary optimizer."""
    alone = [nn.Parameter(p.detach()[r].clone()) for p in params]
    return alone, kind(alone, **settings, **{key: v[r].item() for key, v in own.items()})


CASES = {name: Layouts({"norm": name}, SHAPES[NORMS[name].event_ndim]) for name in NORM_NAMES}


@pytest.mark.parametrize("case", [*CASES, *LAYOUTS])
@pytest.mark.parametrize(("kind", "constrained"), KINDS)
def test_equals_the_optimizer_without_a_stack(kind: Any, constrained: bool, case: str) -> None:
    chosen = {**CASES, **LAYOUTS}[case]
    settings = {**chosen.settings, "constrained": constrained}
    own, params = numbers(3), stack(chosen.shapes, 3, torch.float64)
    apart = [unstacked(kind, params, settings, r, own) for r in range(3)]
    together = kind(params, stacked=True, **settings, **own)
    for step in range(STEPS):
        grads = drawn(params, step)
        feed(params, grads)
        together.step()
        for r, (alone, optimizer) in enumerate(apart):
            feed(alone, [grad[r].clone() for grad in grads])
            optimizer.step()
    for r, (alone, optimizer) in enumerate(apart):
        for p, q in zip(params, alone, strict=True):
            torch.testing.assert_close(p.detach()[r], q.detach(), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(
                average(together, p)[r], average(optimizer, q), rtol=1e-12, atol=1e-12
            )


def test_stacked_and_other_groups_together() -> None:
    """A batch (runs, m, n) of a stack is not one of experts, whose radius is one number."""
    stacked, experts = stack([(7, 5)], 3, torch.float64)[0], stack([(7, 5)], 3, torch.float64)[0]
    own = numbers(3)
    optimizer = Scion(
        [
            {"params": [stacked], "stacked": True, **own},
            {"params": [experts], "layout": "batch", "lr": 0.3, "radius": 0.25, "alpha": 1.0},
        ]
    )
    feed([stacked, experts], [gaussian((3, 7, 5), 1)] * 2)
    before = stacked.detach().clone()
    optimizer.step()
    moves = [p.detach() - before for p in (stacked, experts)]
    ratio = (own["lr"] * own["radius"] / (0.3 * 0.25)).reshape(3, 1, 1)
    torch.testing.assert_close(moves[0], moves[1] * ratio, rtol=1e-10, atol=1e-10)


# --- one run spoiled ---


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", NORM_NAMES)
@pytest.mark.parametrize(("kind", "constrained"), KINDS)
def test_a_diverged_run_does_not_touch_the_others(
    kind: Any, constrained: bool, name: str, bad: float
) -> None:
    shapes, own = SHAPES[NORMS[name].event_ndim], numbers(3)
    clean, spoiled = (stack(shapes, 3, torch.float32) for _ in range(2))
    settings = {"norm": name, "constrained": constrained, "stacked": True, **own}
    optimizers = [kind(params, **settings) for params in (clean, spoiled)]
    for step in range(STEPS):
        for params, optimizer in zip((clean, spoiled), optimizers, strict=True):
            grads = drawn(params, step)
            if params is spoiled:
                for grad in grads:
                    grad[1].reshape(-1)[2] = bad
            feed(params, grads)
            optimizer.step()
    for r in (0, 2):
        assert_bitwise(slices(list(clean), r), slices(list(spoiled), r))
    assert all(torch.isnan(p[1]).all() for p in spoiled)


# --- settings ---


def test_a_stepsize_set_anew_each_step() -> None:
    """As a trainer does it, in place of a scheduler."""
    (p,) = stack([(3,)], 2, torch.float64)
    optimizer = Scion([p], norm="max-norm", alpha=1.0, stacked=True)
    moves = []
    for step in range(3):
        optimizer.param_groups[0]["lr"] = torch.tensor([0.5, 1.0]) / 2**step
        before = p.detach().clone()
        p.grad = -torch.ones_like(p)
        optimizer.step()
        moves.append((p.detach() - before)[:, 0].tolist())
    torch.testing.assert_close(
        torch.tensor(moves), torch.tensor([[0.5, 1.0], [0.25, 0.5], [0.125, 0.25]])
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": torch.ones(3)}, "lr must be one number or a vector of 2, one per run, got tensor"),
        ({"radius": torch.ones(2, 1)}, "radius must be one number or a vector of 2"),
        ({"lr": torch.tensor([0.5, -0.5])}, "lr must be a finite number, at least 0, got -0.5"),
        ({"lr": torch.tensor([0.5, math.nan])}, "lr must be a finite number, at least 0, got nan"),
        ({"radius": torch.tensor([0.5, 0.0])}, "radius must be a finite number above 0, got 0.0"),
        ({"alpha": "0.5"}, "alpha must be a number or a tensor, got '0.5'"),
        ({"alpha": torch.tensor([0.5, 1.5])}, r"alpha must be in \(0, 1\], got 1.5"),
        ({"lr": torch.tensor([0.5, 1.5]), "constrained": True}, "lr must be at most 1 when"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    params = stack([(4, 3)], 2, torch.float32)
    with pytest.raises(ValueError, match=message):
        Scion([{"params": params, **settings}], stacked=True)
    optimizer = Scion(params, stacked=True)
    optimizer.param_groups[0].update(settings)
    before = [p.detach().clone() for p in params]
    feed(params, drawn(params, 0))
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert_bitwise([p.detach() for p in params], before)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 4, 3), (3, 4, 3)], r"stacked must be False unless the first .* \(3, 4, 3\)"),
        ([()], "stacked must be False unless the first"),
        ([(4, 3)], r"parameter #0: spectral: layout 'matrix' needs .* got shape \(3,\)"),
        ([(0, 4, 3)], "stacked must be False unless"),
    ],
)
def test_parameters_that_do_not_fit(shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scion([nn.Parameter(torch.zeros(shape)) for shape in shapes], stacked=True)


def test_scion_light_does_not_stack() -> None:
    with pytest.raises(ValueError, match="stacked must be False for ScionLight, got True"):
        ScionLight(stack([(4, 3)], 2, torch.float32), stacked=True)


def test_state_is_resumed_bit_for_bit() -> None:
    params, others = (stack(SHAPES[2], 3, torch.float32) for _ in range(2))
    one, two = (Scion(p, stacked=True, **numbers(3)) for p in (params, others))
    for step in range(4):
        feed(params, drawn(params, step))
        one.step()
        if step == 1:
            for p, q in zip(params, others, strict=True):
                q.data.copy_(p.data)
            two.load_state_dict(copy.deepcopy(one.state_dict()))
        if step > 1:
            feed(others, drawn(others, step))
            two.step()
    assert_bitwise(list(params), list(others))
