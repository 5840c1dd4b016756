"""Special cases equal the optimizers they are named after, over many steps, state included."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.transfer.stepping import average, copies, make_params, set_grads
from transfer.coefficients import OVERSHOOT_5
from transfer.optimizers import Scion, ScionLight

STEPS = 100
SHAPES: list[tuple[int, ...]] = [(5,), (4, 3), (2, 3, 4), ()]
scions = pytest.mark.parametrize("kind", [Scion, ScionLight], ids=lambda kind: kind.__name__)


def grads(params: list[nn.Parameter], step: int) -> list[Tensor]:
    """Set gradients and return copies of them."""
    set_grads(params, step)
    return [p.grad.clone() for p in params if p.grad is not None]


def size(tensors: list[Tensor]) -> float:
    """Return the Euclidean length of all entries together."""
    return math.sqrt(sum(x.square().sum().item() for x in tensors))


def assert_close(some: list[nn.Parameter], others: list[nn.Parameter], tolerance: float) -> None:
    """Fail unless all parameters are close."""
    for a, b in zip(some, others, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=tolerance, atol=tolerance)


# --- normalised SGD ---


@scions
def test_normalised_sgd(kind: Any) -> None:
    """The norm is that of all parameters together."""
    mine, other = make_params(SHAPES), make_params(SHAPES)
    scion = kind(mine, lr=0.1, norm="euclidean", alpha=1.0, radius=2.0, joint=True)
    sgd = torch.optim.SGD(other, lr=0.1)
    for step in range(STEPS):
        now = grads(mine, step)
        for p, g in zip(other, now, strict=True):
            p.grad = 2.0 * g / size(now)
        scion.step()
        sgd.step()
        assert [torch.equal(average(scion, p), g) for p, g in zip(mine, now, strict=True)] == [
            True
        ] * len(mine)
    assert_close(mine, other, 1e-12)


@scions
def test_momentum_normalised_sgd(kind: Any) -> None:
    """torch's momentum with equal dampening is the average; its stepsize normalises it."""
    alpha, mine, other = 0.2, make_params(SHAPES), make_params(SHAPES)
    scion = kind(mine, lr=0.1, norm="euclidean", alpha=alpha, radius=2.0, joint=True)
    sgd = torch.optim.SGD(other, lr=0.0, momentum=1 - alpha, dampening=1 - alpha)
    for p in other:  # torch would start from the first gradient instead of zero
        sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
    for step in range(STEPS):
        for p, g in zip(other, grads(mine, step), strict=True):
            p.grad = g
        buffers = [
            (1 - alpha) * sgd.state[p]["momentum_buffer"] + alpha * p.grad
            for p in other
            if p.grad is not None
        ]
        sgd.param_groups[0]["lr"] = 0.1 * 2.0 / size(buffers)
        scion.step()
        sgd.step()
    assert_close(mine, other, 1e-12)
    for p, q in zip(mine, other, strict=True):
        torch.testing.assert_close(
            average(scion, p), sgd.state[q]["momentum_buffer"], rtol=1e-12, atol=1e-13
        )


def test_without_joint_every_parameter_has_its_own_norm() -> None:
    mine, other = make_params(SHAPES), make_params(SHAPES)
    scion = Scion(mine, lr=0.1, norm="euclidean", alpha=1.0, radius=2.0)
    sgd = torch.optim.SGD(other, lr=0.1)
    for step in range(STEPS):
        for p, g in zip(other, grads(mine, step), strict=True):
            p.grad = 2.0 * g / g.norm()
        scion.step()
        sgd.step()
    assert_close(mine, other, 1e-12)


@scions
@pytest.mark.parametrize("constrained", [False, True])
def test_joint_ball_of_the_whole_group(kind: Any, constrained: bool) -> None:
    """A second group is another ball; a parameter without gradient is no part of the vector."""
    params = make_params([*SHAPES, (3,)])
    idle = nn.Parameter(torch.ones(4, dtype=torch.float64))
    scion = kind(
        [{"params": [*params[:4], idle], "radius": 3.0}, {"params": params[4:], "radius": 0.5}],
        norm="euclidean",
        joint=True,
        lr=0.25,
        constrained=constrained,
    )
    for p in params:
        p.data.zero_()
    for step in range(20):
        before = [p.detach().clone() for p in params]
        set_grads(params, step)
        scion.step()
        if constrained:
            assert size(params[:4]) <= 3.0 and size(params[4:]) <= 0.5  # type: ignore[arg-type]
        else:
            moves = [p.detach() - old for p, old in zip(params, before, strict=True)]
            assert size(moves[:4]) == pytest.approx(0.75, rel=1e-12)
            assert size(moves[4:]) == pytest.approx(0.125, rel=1e-12)
    assert torch.equal(idle.detach(), torch.ones_like(idle)) and idle not in scion.state


def test_joint_max_norm_is_the_same_as_apart() -> None:
    mine, other = make_params(SHAPES), make_params(SHAPES)
    one = Scion(mine, lr=0.1, norm="max-norm", joint=True)
    many = Scion(other, lr=0.1, norm="max-norm")
    for step in range(20):
        for p, g in zip(other, grads(mine, step), strict=True):
            p.grad = g
        one.step()
        many.step()
    assert_close(mine, other, 0.0)


# --- signs ---


@scions
@pytest.mark.parametrize("name", ["sign", "max-norm"])
def test_signsgd(kind: Any, name: str) -> None:
    """Sign is for matrices, max-norm for tensors of any shape; to the bit."""
    shapes = [(4, 3)] if name == "sign" else SHAPES
    mine, other = make_params(shapes), make_params(shapes)
    scion = kind(mine, lr=2**-4, norm=name, alpha=1.0)
    sgd = torch.optim.SGD(other, lr=2**-4)
    for step in range(STEPS):
        for p, g in zip(other, grads(mine, step), strict=True):
            p.grad = g.sign()
        scion.step()
        sgd.step()
    assert_close(mine, other, 0.0)


@scions
@pytest.mark.parametrize("name", ["sign", "max-norm"])
def test_signum(kind: Any, name: str) -> None:
    """Gradients, weight and stepsize are dyadic, so the average agrees to the bit too."""
    mine = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    x, d = torch.zeros_like(mine.data), torch.zeros_like(mine.data)
    scion = kind([mine], lr=2**-4, norm=name, alpha=0.25)
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        g = torch.randint(-3, 4, (4, 3), generator=generator).double()
        mine.grad = g.clone()
        d = 0.75 * d + 0.25 * g
        x = x - 2**-4 * d.sign()
        scion.step()
        if step < 20:  # then 4^-step no longer fits beside 1
            assert torch.equal(mine.detach(), x) and torch.equal(average(scion, mine), d)
    torch.testing.assert_close(mine.detach(), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(average(scion, mine), d, rtol=1e-12, atol=1e-12)


# --- Muon ---


@scions
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_muon_without_nesterov(kind: Any, shape: tuple[int, int]) -> None:
    (mine,), (other,) = make_params([shape]), make_params([shape])
    scion = kind([mine], lr=0.05, norm="plain-spectral", alpha=0.1)
    buffer = torch.zeros(shape, dtype=torch.float64)
    for step in range(STEPS):
        (g,) = grads([mine], step)
        # Muon's buffer is the average divided by alpha: the direction is the same.
        buffer = 0.9 * buffer + g
        x = buffer / buffer.norm()
        for _ in range(5):
            gram = x @ x.mT
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        with torch.no_grad():
            other -= 0.05 * x
        scion.step()
    assert_close([mine], [other], 1e-9)
    torch.testing.assert_close(average(scion, mine), 0.1 * buffer, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(24, 36), (36, 24)])
def test_torch_muon(shape: tuple[int, int]) -> None:
    """torch iterates in bfloat16, eight bits: steps agree to less than 1 %, not better.

    Its default scaling max(1, sqrt(d_out / d_in)) is the ball of `spectral-max`.
    """
    (mine,), (other,) = make_params([shape]), make_params([shape])
    scion = Scion([mine], lr=0.05, norm="spectral-max", alpha=0.1)
    muon = torch.optim.Muon([other], lr=0.05, momentum=0.9, nesterov=False, weight_decay=0.0)
    start = mine.detach().clone()
    for step in range(STEPS):
        (other.grad,) = grads([mine], step)
        scion.step()
        muon.step()
    torch.testing.assert_close(
        average(scion, mine), muon.state[other]["momentum_buffer"], rtol=1e-12, atol=1e-13
    )
    apart, moved = (mine - other).norm().item(), (mine - start).norm().item()
    assert apart < 0.01 * moved, (apart, moved)
    assert moved > 0.05 * STEPS * 0.1 / OVERSHOOT_5["muon"], "they must have gone somewhere"


# --- weight decay ---


@scions
@pytest.mark.parametrize("norm", ["spectral", "scaled-sign", "euclidean"])
def test_decoupled_weight_decay_is_the_constrained_variant(kind: Any, norm: str) -> None:
    """(1 - gamma mu) x + gamma lmo at radius rho is Algorithm 2 at gamma mu and rho / mu."""
    (mine,) = make_params([(6, 4)])
    (other,) = copies([mine])
    gamma, mu, rho = 0.2, 0.25, 3.0
    two = kind([mine], lr=gamma * mu, radius=rho / mu, constrained=True, norm=norm, polar="svd")
    one = kind([other], lr=gamma, radius=rho, norm=norm, polar="svd")
    for step in range(STEPS):
        (other.grad,) = grads([mine], step)
        with torch.no_grad():
            other.mul_(1 - gamma * mu)
        two.step()
        one.step()
    assert_close([mine], [other], 1e-10)
    torch.testing.assert_close(average(one, other), average(two, mine), rtol=1e-10, atol=1e-10)
