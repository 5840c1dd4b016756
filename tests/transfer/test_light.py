"""Scion Light is Scion: same steps, exact accumulation, schedules of alpha, resumed anywhere."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.transfer.stepping import (
    assert_bitwise,
    average,
    copies,
    gaussian,
    loss,
    make_params,
    run,
)
from transfer.optimizers import Scion, ScionLight
from transfer.optimizers.folded import FoldedGradient

STEPS = 100
SHAPES: list[tuple[int, ...]] = [(6, 4), (6, 4), (5,), (), (2, 3, 4), (9, 4)]


def groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Return groups of several kinds for parameters of SHAPES."""
    return [
        {"params": params[:2], "norm": "spectral", "radius": 2.0},
        {"params": params[2:3], "norm": "bias-rms", "alpha": 0.5},
        {"params": params[3:4], "norm": "euclidean", "lr": 0.03},
        {"params": params[4:5], "norm": "conv-spectral", "alpha": 1.0},
        {"params": params[5:], "norm": "col-norm", "layout": "table"},
    ]


def pair(dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """Return equal parameters under ScionLight and under Scion."""
    mine = make_params(SHAPES, dtype=dtype)
    other = copies(mine)
    chosen = {"lr": 0.02, **settings}
    return mine, ScionLight(groups(mine), **chosen), other, Scion(groups(other), **chosen)


def averages(optimizer: Any, params: list[nn.Parameter]) -> list[Tensor]:
    """Return the averages of all parameters."""
    return [average(optimizer, p) for p in params]


# --- the same steps ---


@pytest.mark.parametrize(("constrained", "maximize"), [(False, False), (True, True)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_equals_scion_to_the_bit(dtype: torch.dtype, constrained: bool, maximize: bool) -> None:
    mine, light, other, scion = pair(dtype, constrained=constrained, maximize=maximize)
    run(mine, light, 0, STEPS)
    run(other, scion, 0, STEPS)
    assert_bitwise(mine, other)
    assert_bitwise(averages(light, mine), averages(scion, other))


@pytest.mark.parametrize("zero", ["none", "zero", "model", "never", "after the step"])
def test_zero_grad_does_no_harm(zero: str) -> None:
    mine, light, other, scion = pair()
    holder = nn.ParameterList(mine)
    for step in range(20):
        match zero:
            case "none":
                light.zero_grad(set_to_none=True)
            case "zero":
                light.zero_grad(set_to_none=False)
            case "model":
                holder.zero_grad(set_to_none=step % 2 == 0)
        loss(mine, step).backward()
        if zero == "zero":  # too late to take the gradient back
            light.zero_grad(set_to_none=False)
        light.step()
        if zero == "after the step":
            light.zero_grad()
    run(other, scion, 0, 20)
    assert_bitwise(mine, other)
    assert_bitwise(averages(light, mine), averages(scion, other))


@pytest.mark.parametrize("zero", [True, False])
def test_accumulation_is_exact(zero: bool) -> None:
    """Four backward passes before a step weigh as one with the sum of their losses."""
    mine, light, other, scion = pair()
    for step in range(STEPS):
        scion.zero_grad()
        for part in range(4):
            if zero:
                light.zero_grad()
            (loss(mine, 4 * step + part) / 4).backward()
            (loss(other, 4 * step + part) / 4).backward()
        light.step()
        scion.step()
    for some, others in ((mine, other), (averages(light, mine), averages(scion, other))):
        for a, b in zip(some, others, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_accumulation_of_whole_numbers_is_exact_to_the_bit() -> None:
    """Dyadic numbers leave no rounding: a wrong factor (1 - alpha) could not hide."""
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    light = ScionLight([p], norm="max-norm", alpha=0.25, lr=2**-3)
    wanted = torch.zeros(3, dtype=torch.float64)
    for step in range(10):
        total = torch.zeros(3, dtype=torch.float64)
        for part in range(3):
            g = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64) * (step - part)
            (p * g).sum().backward()
            total += g
        wanted = 0.75 * wanted + 0.25 * total
        assert torch.equal(average(light, p), wanted), "folded during the backward pass"
        light.step()
        light.step()  # nothing new to step with
        assert torch.equal(average(light, p), wanted)


def test_a_schedule_of_alpha() -> None:
    mine, light, other, scion = pair()
    for step in range(30):
        for optimizer in (light, scion):
            for group in optimizer.param_groups:
                group["alpha"] = (step + 1) ** -0.5
        run(mine, light, step, step + 1)
        run(other, scion, step, step + 1)
    assert_bitwise(mine, other)
    assert_bitwise(averages(light, mine), averages(scion, other))


def test_a_bad_alpha_is_refused_in_the_backward_pass() -> None:
    mine, light, _, _ = pair()
    light.param_groups[0]["alpha"] = 1.5
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\], got 1.5"):
        loss(mine, 0).backward()


def test_parameter_without_gradient_is_untouched() -> None:
    mine, light, _, _ = pair(constrained=True)
    before = [p.detach().clone() for p in mine]
    for step in range(3):
        loss(mine[:2], step).backward()
        light.step()
    moved = [not torch.equal(p, old) for p, old in zip(mine, before, strict=True)]
    assert moved == [True, True, False, False, False, False]
    assert set(light.state) == set(mine[:2])


def test_a_parameter_used_twice() -> None:
    """A tied weight has one gradient per backward pass."""
    mine, light, other, scion = pair()
    x = gaussian((4,), 3)
    for params, optimizer in ((mine, light), (other, scion)):
        for _ in range(5):
            optimizer.zero_grad()
            (params[0] @ x + params[0] @ x.square() + params[1] @ x).square().sum().backward()
            optimizer.step()
    assert_bitwise(mine, other)


def test_checkpointed_activations() -> None:
    mine, light, other, scion = pair()
    x = gaussian((3, 4), 3).requires_grad_()

    def layer(weight: Tensor, inputs: Tensor) -> Tensor:
        return (inputs @ weight.mT).relu() @ weight

    for params, optimizer in ((mine, light), (other, scion)):
        for reentrant in (False, True):
            y = torch.utils.checkpoint.checkpoint(layer, params[0], x, use_reentrant=reentrant)
            optimizer.zero_grad()
            torch.utils.checkpoint.checkpoint(
                layer, params[1], y, use_reentrant=reentrant
            ).square().sum().backward()
            optimizer.step()
    assert_bitwise(mine[:2], other[:2])


# --- resumed and copied ---


def resumed(params: list[nn.Parameter], light: ScionLight) -> tuple[list[nn.Parameter], ScionLight]:
    """Return both through a file, into an optimizer that was built with other settings."""
    file = io.BytesIO()
    torch.save(light.state_dict(), file)
    file.seek(0)
    again = copies(params)
    other = ScionLight(groups(again), lr=0.7, alpha=1.0)
    other.load_state_dict(torch.load(file, weights_only=True))
    return again, other


def copied(params: list[nn.Parameter], light: ScionLight, how: str) -> Any:
    """Return a copy of both that belongs together."""
    match how:
        case "resumed":
            return resumed(params, light)
        case "deepcopy":
            return copy.deepcopy((params, light))
        case "deepcopy of a training state":
            state = {"model": nn.ParameterList(params), "optimizer": light}
            both: Any = copy.deepcopy(state)
            return list(both["model"]), both["optimizer"]
    return pickle.loads(pickle.dumps((params, light)))


@pytest.mark.parametrize("amid", [False, True], ids=["between steps", "amid an accumulation"])
@pytest.mark.parametrize("how", ["resumed", "deepcopy", "deepcopy of a training state", "pickle"])
def test_copies_go_on_alike_and_alone(how: str, amid: bool) -> None:
    mine, light, _, _ = pair(torch.float32)
    run(mine, light, 0, 5)
    if amid:
        loss(mine, 50).backward()
    others, other = copied(mine, light, how)
    assert_bitwise(averages(light, mine), averages(other, others))
    before = [p.detach().clone() for p in mine], [x.clone() for x in averages(light, mine)]
    for params, optimizer in ((others, other), (mine, light)):
        loss(params, 51).backward()
        optimizer.step()
        run(params, optimizer, 6, 10)
        if params is others:
            assert_bitwise(mine, before[0])
            assert_bitwise(averages(light, mine), before[1])
    assert_bitwise(mine, others)
    assert_bitwise(averages(light, mine), averages(other, others))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_plain_tensors_can_be_copied_after_a_backward_pass(how: str) -> None:
    x = gaussian((4, 3), 0).requires_grad_()
    light = ScionLight([x])
    x.square().sum().backward()
    y, other = copied([x], light, how)  # type: ignore[list-item]
    (y,) = y
    assert how == "pickle" or isinstance(y.grad, FoldedGradient)
    for leaf, optimizer in ((x, light), (y, other)):
        leaf.square().sum().backward()
        optimizer.step()
    assert torch.equal(x, y)
