"""Scion is Algorithms 1 and 2: against a plain restatement, in the ball, at any size and dtype."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.transfer.reference import Layer
from tests.transfer.stepping import gaussian, make_params, set_grads
from transfer.coefficients import OVERSHOOT_5
from transfer.config import NORM_NAMES
from transfer.norms import NORMS, make_norm
from transfer.optimizers import Scion

STEPS = 100
SHAPES = {1: (9,), 2: (7, 5), 3: (7, 5, 4)}
VECTOR_NORMS = [name for name in NORM_NAMES if NORMS[name].event_ndim == 1]
ANY_SHAPE = [name for name in NORM_NAMES if NORMS[name].any_shape]


GROUPS: dict[str, list[dict[str, Any]]] = {
    "network": [
        {"norm": "spectral-max", "radius": 2.0, "shapes": [(8, 5)]},
        {"norm": "spectral", "radius": 3.0, "shapes": [(8, 8), (8, 8), (6, 8), (8, 6)]},
        {"norm": "scaled-sign", "radius": 50.0, "shapes": [(4, 8)]},
        {"norm": "bias-rms", "radius": 0.5, "shapes": [(8,), (8,), (4,)]},
    ],
    "same norm and shape in two groups": [
        {"norm": "spectral", "radius": 2.0, "lr": 0.3, "shapes": [(5, 7), (5, 7)]},
        {"norm": "spectral", "radius": 7.0, "alpha": 1.0, "shapes": [(5, 7)]},
        {"norm": "row-norm", "radius": 7.0, "shapes": [(5, 7)]},
    ],
    "one norm throughout": [
        {"norm": "col-norm", "radius": 1.0, "shapes": [(6, 9)]},
        {"norm": "hidden-col-norm", "radius": 4.0, "shapes": [(6, 6), (6, 6), (3, 6)]},
        {"norm": "input-row-norm", "radius": 1.0, "alpha": 0.9, "shapes": [(6, 9), (1, 4)]},
        {"norm": "sign", "radius": 0.1, "shapes": [(6, 9), (1, 1)]},
    ],
    "any shape and stacked matrices": [
        {"norm": "euclidean", "radius": 1.0, "shapes": [(3,), (2, 3), (2, 3), (2, 3, 4)]},
        {"norm": "max-norm", "radius": 1.0, "shapes": [(3,), (2, 3), (2, 2, 2, 2)]},
        {"norm": "embedding-spectral", "layout": "batch", "shapes": [(3, 4, 5), (3, 4, 5)]},
        {"norm": "plain-spectral", "layout": "batch", "shapes": [(2, 3, 4, 5)]},
        {"norm": "plain-spectral", "radius": 1.0, "shapes": [(4, 5)]},
    ],
}


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("case", GROUPS)
def test_equals_the_restatement(case: str, alpha: float, constrained: bool) -> None:
    params: list[nn.Parameter] = []
    layers: list[Layer] = []
    groups = []
    for rule in GROUPS[case]:
        settings = {key: value for key, value in rule.items() if key != "shapes"}
        own = make_params(rule["shapes"], seed=len(params))
        params += own
        groups.append({"params": own, **settings})
        layers += [
            Layer(
                x=p.detach().clone(),
                norm=rule["norm"],
                radius=rule.get("radius", 1.0),
                stepsize=rule.get("lr", 0.02),
                alpha=rule.get("alpha", alpha),
                constrained=constrained,
                d=torch.zeros_like(p),
            )
            for p in own
        ]
    optimizer = Scion(groups, lr=0.02, alpha=alpha, constrained=constrained, polar="svd")
    for step in range(STEPS):
        set_grads(params, step)
        for p, layer in zip(params, layers, strict=True):
            assert p.grad is not None
            layer.step(p.grad)
        optimizer.step()
        if step % 11:  # looked at in steps 0, 11, ..., 99
            continue
        for i, (p, layer) in enumerate(zip(params, layers, strict=True)):
            torch.testing.assert_close(
                p.detach(), layer.x, rtol=1e-8, atol=1e-8, msg=lambda m, i=i: f"{case} #{i}: {m}"
            )
            d = optimizer.state[p]["average"]
            torch.testing.assert_close(d, layer.d, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("constrained", [False, True])
def test_batches_equal_one_optimizer_per_parameter(constrained: bool) -> None:
    shapes = [(6, 4), (6, 4), (4, 6), (6, 4), (3, 6, 4)]
    together, apart = make_params(shapes), make_params(shapes)
    radii = [1.0, 2.0, 3.0, 0.5, 4.0]
    one = Scion(
        [
            {"params": [p], "radius": r, "layout": "batch" if p.ndim > 2 else None}
            for p, r in zip(together, radii, strict=True)
        ],
        lr=0.1,
        constrained=constrained,
    )
    many = [
        Scion(
            [p],
            lr=0.1,
            radius=r,
            constrained=constrained,
            layout="batch" if p.ndim > 2 else None,
        )
        for p, r in zip(apart, radii, strict=True)
    ]
    for step in range(20):
        set_grads(together, step)
        set_grads(apart, step)
        one.step()
        for single in many:
            single.step()
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# --- the ball ---


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", NORM_NAMES)
def test_constrained_iterates_stay_in_the_ball(name: str, gamma: float) -> None:
    norm = make_norm(name)
    p = nn.Parameter(torch.empty(SHAPES[norm.event_ndim], dtype=torch.float64))
    norm.init_(p, 3.0, torch.Generator().manual_seed(0))
    optimizer = Scion([p], lr=gamma, norm=name, radius=3.0, constrained=True, polar="svd")
    for step in range(60):
        set_grads([p], step)
        optimizer.step()
        assert norm.norm(p.detach()).item() <= 3.0 * (1 + 1e-12)


@pytest.mark.parametrize("polar", ["muon", "quintic", "polar-express"])
def test_newton_schulz_leaves_the_ball_by_its_bound_only(polar: str) -> None:
    p = nn.Parameter(torch.zeros(24, 24, dtype=torch.float64))
    optimizer = Scion([p], lr=0.5, radius=3.0, constrained=True, polar=polar)
    drift, sizes = gaussian((24, 24), 1), []
    for _ in range(60):
        p.grad = drift
        optimizer.step()
        sizes.append(make_norm("spectral").norm(p.detach()).item())
    # The same direction again and again: the overshoot is reached, not averaged away.
    assert 3.0 < max(sizes) <= 3.0 * OVERSHOOT_5[polar]


@pytest.mark.parametrize("name", NORM_NAMES)
def test_a_step_has_norm_stepsize_times_radius(name: str) -> None:
    p = nn.Parameter(gaussian(SHAPES[NORMS[name].event_ndim], 0))
    before = p.detach().clone()
    optimizer = Scion([p], lr=0.25, norm=name, radius=8.0, polar="svd")
    set_grads([p], 3)
    optimizer.step()
    assert make_norm(name).norm(p.detach() - before).item() == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("name", NORM_NAMES)
def test_converges_on_a_quadratic(name: str) -> None:
    shape = SHAPES[NORMS[name].event_ndim]
    target, p = gaussian(shape, 1), nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    start = float(target.square().sum())
    radius = make_norm(name).norm(target).item()
    optimizer = Scion([p], lr=0.1, norm=name, radius=radius, alpha=1.0, polar="svd")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 400)
    for _ in range(400):
        optimizer.zero_grad()
        loss = (p - target).square().sum()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert loss.item() < 1e-3 * start


# --- sizes, shapes, dtypes ---


@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("name", NORM_NAMES)
def test_size_of_the_loss_does_not_matter(name: str, scale: float) -> None:
    shape = SHAPES[NORMS[name].event_ndim]
    mine, other = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
    optimizers = [Scion([p], lr=0.1, norm=name) for p in (mine, other)]
    for step in range(5):
        mine.grad = gaussian(shape, step, torch.float32)
        other.grad = mine.grad * scale
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ANY_SHAPE)
def test_scalar_parameter(name: str) -> None:
    """A learned temperature, say: any shape includes no dimension at all."""
    p = nn.Parameter(torch.tensor(1.0))
    p.grad = torch.tensor(-4.0)
    Scion([p], lr=0.25, norm=name, alpha=1.0).step()
    assert p.item() == 1.25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["spectral", "col-norm", "scaled-sign", "bias-rms", "euclidean"])
def test_dtype_kept(name: str, dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.ones((6,) if name in VECTOR_NORMS else (6, 4), dtype=dtype))
    before = p.detach().clone()
    optimizer = Scion([p], lr=0.5, norm=name)
    p.grad = torch.arange(p.numel()).reshape(p.shape).to(dtype)
    optimizer.step()
    assert p.dtype == optimizer.state[p]["average"].dtype == dtype
    assert torch.isfinite(p).all() and not torch.equal(p, before)


def test_zero_gradients_do_not_move_and_stay_finite() -> None:
    params = make_params([(4, 3), (4, 3)])
    before = [p.detach().clone() for p in params]
    optimizer = Scion(params, lr=0.5)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


def test_a_bad_gradient_spoils_its_own_parameter_only() -> None:
    params = make_params([(4, 3)] * 3)
    optimizer = Scion(params, lr=0.5)
    set_grads(params, 0)
    assert params[1].grad is not None
    params[1].grad[0, 0] = math.nan
    optimizer.step()
    assert [bool(torch.isfinite(p).all()) for p in params] == [True, False, True]
