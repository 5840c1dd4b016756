"""Scion keeps torch's contract: state, schedulers, closures, groups, copies, and clear errors."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfer.optimizers import Scion

SHAPES = [(6, 4), (6, 4), (5,), (2, 3, 4)]


def make_params(seed: int = 0) -> list[nn.Parameter]:
    """Return float32 parameters of several shapes."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def make(params: list[nn.Parameter], **settings: Any) -> Scion:
    """Return an optimizer with three groups for these parameters."""
    groups = [
        {"params": params[:2], "norm": "spectral", "radius": 2.0},
        {"params": params[2:3], "norm": "bias-rms", "alpha": 0.5},
        {"params": params[3:], "norm": "max-norm", "lr": 0.01},
    ]
    return Scion(groups, **{"lr": 0.1, **settings})


def run(params: list[nn.Parameter], optimizer: Scion, start: int, stop: int) -> None:
    """Do the steps start to stop - 1; gradients depend on weights and step."""
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            p.grad = p.detach() + torch.randn(p.shape, generator=generator)
        optimizer.step()


def assert_bitwise(some: list[nn.Parameter], others: list[nn.Parameter]) -> None:
    """Fail unless all parameters are equal bit for bit."""
    for a, b in zip(some, others, strict=True):
        assert torch.equal(a, b), (a - b).abs().max()


# --- state ---


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("through_file", [False, True])
def test_resume_is_bit_for_bit(through_file: bool, constrained: bool) -> None:
    whole = make_params()
    optimizer = make(whole, constrained=constrained)
    run(whole, optimizer, 0, 7)
    state: dict[str, Any] = copy.deepcopy(optimizer.state_dict())
    if through_file:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    resumed = [nn.Parameter(p.detach().clone()) for p in whole]
    # Built with other settings: the state's win.
    again = make(resumed, lr=0.7, alpha=1.0, constrained=False)
    again.load_state_dict(state)
    assert [g["lr"] for g in again.param_groups] == [0.1, 0.1, 0.01]
    run(whole, optimizer, 7, 14)
    run(resumed, again, 7, 14)
    assert_bitwise(whole, resumed)
    for p, q in zip(whole, resumed, strict=True):
        assert torch.equal(optimizer.state[p]["average"], again.state[q]["average"])


def test_state_is_one_average_per_parameter() -> None:
    params = make_params()
    optimizer = make(params)
    assert not optimizer.state
    run(params, optimizer, 0, 1)
    for p in params:
        assert {k: v.shape for k, v in optimizer.state[p].items()} == {"average": p.shape}


def test_averages_start_at_zero() -> None:
    p = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = Scion([p], alpha=0.25)
    p.grad = torch.full_like(p, 8.0)
    optimizer.step()
    assert torch.equal(optimizer.state[p]["average"], torch.full_like(p, 2.0))
    assert torch.equal(p.grad, torch.full_like(p, 8.0)), "the gradient was changed"


def test_loading_other_parameters_raises() -> None:
    state = make(make_params()).state_dict()
    with pytest.raises(ValueError):
        Scion(make_params()[:2]).load_state_dict(state)


def copied(params: list[nn.Parameter], optimizer: Scion, how: str) -> Any:
    """Return copies that belong together."""
    if how == "deepcopy":
        return copy.deepcopy((params, optimizer))
    return pickle.loads(pickle.dumps((params, optimizer)))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("steps", [0, 3])
def test_copies_go_on_alike_and_alone(how: str, steps: int) -> None:
    params = make_params()
    optimizer = make(params)
    run(params, optimizer, 0, steps)
    before = [p.detach().clone() for p in params]
    others, other = copied(params, optimizer, how)
    run(others, other, steps, steps + 3)
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    run(params, optimizer, steps, steps + 3)
    assert_bitwise(params, others)


# --- torch's interface ---


def test_schedulers_change_the_stepsize() -> None:
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = Scion([p], lr=0.5, norm="max-norm", alpha=1.0, radius=2.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: [1, 0.5, 0, 0.25][step])
    moves = []
    for _ in range(4):
        before = p.detach().clone()
        p.grad = -torch.ones_like(p)
        optimizer.step()
        moves.append((p.detach() - before)[0].item())
        if len(moves) < 4:
            schedule.step()
    assert moves == [1.0, 0.5, 0.0, 0.25]


def test_scheduler_keeps_the_ratio_of_groups() -> None:
    optimizer = make(make_params())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.05, 0.05, 0.005])


def test_tensor_stepsize() -> None:
    """Some schedulers and resumed states hold the stepsize in a tensor."""
    some, others = make_params(), make_params()
    plain, tensor = Scion(some, lr=0.25, norm="max-norm"), Scion(others, norm="max-norm")
    tensor.param_groups[0]["lr"] = torch.tensor(0.25)
    run(some, plain, 0, 3)
    run(others, tensor, 0, 3)
    assert_bitwise(some, others)


def test_closure() -> None:
    p = nn.Parameter(torch.tensor([3.0, -4.0]))
    optimizer = Scion([p], lr=0.5, norm="max-norm", alpha=1.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 25.0
    assert p.tolist() == [2.5, -3.5]
    with torch.no_grad():
        assert optimizer.step(closure).item() == 18.5
    assert optimizer.step() is None


def test_gradients_that_are_none() -> None:
    params = make_params()
    before = [p.detach().clone() for p in params]
    optimizer = make(params, constrained=True)
    optimizer.step()
    params[1].grad = torch.ones_like(params[1])
    optimizer.step()
    moved = [not torch.equal(p, old) for p, old in zip(params, before, strict=True)]
    assert moved == [False, True, False, False]
    assert list(optimizer.state) == [params[1]]


def test_group_added_later() -> None:
    params, late = make_params(), nn.Parameter(torch.zeros(2, 2))
    optimizer = make(params)
    run(params, optimizer, 0, 2)
    optimizer.add_param_group({"params": [late], "norm": "sign", "radius": 4.0, "lr": 0.5})
    assert optimizer.param_groups[-1]["alpha"] == 0.1
    run([*params, late], optimizer, 2, 3)
    assert torch.equal(late.detach().abs(), torch.full((2, 2), 2.0))


def test_group_refused_leaves_the_optimizer_as_it_was() -> None:
    params = make_params()
    optimizer = make(params)
    late = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="radius"):
        optimizer.add_param_group({"params": [late], "norm": "sign", "radius": -1.0})
    assert len(optimizer.param_groups) == 3
    optimizer.add_param_group({"params": [late], "norm": "sign"})


# --- errors ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "spectrl"}, "norm must be one of .*'spectrl'; did you mean 'spectral'"),
        ({"polar": "mun"}, "polar must be one of .*'mun'"),
        ({"polar": "muon:0"}, "polar 'muon' takes 1 to 100 steps"),
        ({"alpha": 0.0}, r"alpha must be in \(0, 1\], got 0.0"),
        ({"alpha": 1.5}, r"alpha must be in \(0, 1\], got 1.5"),
        ({"alpha": float("nan")}, "alpha must be in"),
        ({"radius": 0.0}, "radius must be a finite number above 0, got 0.0"),
        ({"radius": -2.0}, "radius must be a finite number above 0, got -2.0"),
        ({"radius": float("inf")}, "radius must be a finite number above 0, got inf"),
        ({"lr": -0.1}, "lr must be a finite number, at least 0, got -0.1"),
        ({"lr": float("nan")}, "lr must be a finite number, at least 0, got nan"),
        ({"lr": 1.5, "constrained": True}, "lr must be at most 1 when constrained, got 1.5"),
    ],
)
@pytest.mark.parametrize("where", ["defaults", "group"])
def test_settings_out_of_range(settings: dict[str, Any], message: str, where: str) -> None:
    p = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=message):
        if where == "defaults":
            Scion([p], **settings)
        else:
            Scion([{"params": [p], **settings}])


def test_bounds_are_allowed() -> None:
    Scion([nn.Parameter(torch.zeros(3, 2))], lr=1.0, alpha=1.0, constrained=True)
    Scion([nn.Parameter(torch.zeros(3, 2))], lr=0.0)
    Scion([nn.Parameter(torch.zeros(3, 2))], lr=8.0)


@pytest.mark.parametrize("group", [0, 1])
def test_constrained_stepsize_raised_later(group: int) -> None:
    params = make_params()
    optimizer = make(params, constrained=True)
    run(params, optimizer, 0, 2)
    optimizer.param_groups[group]["lr"] = 1.25
    with pytest.raises(ValueError, match="lr must be at most 1 when constrained, got 1.25"):
        run(params, optimizer, 2, 3)


def test_refused_step_changes_nothing() -> None:
    """Whoever catches the error can lower the stepsize and go on."""
    params = make_params()
    before = [p.detach().clone() for p in params]
    optimizer = make(params, constrained=True)
    optimizer.param_groups[1]["lr"] = 1.25
    with pytest.raises(ValueError):
        run(params, optimizer, 0, 1)
    assert [torch.equal(p, old) for p, old in zip(params, before, strict=True)] == [True] * 4
    assert not optimizer.state


@pytest.mark.parametrize(
    ("norm", "shape"), [("spectral", (3,)), ("bias-rms", (3, 2)), ("sign", (0, 2))]
)
def test_misfit_names_the_parameter(norm: str, shape: tuple[int, ...]) -> None:
    fine = nn.Parameter(torch.zeros(2, 2) if norm != "bias-rms" else torch.zeros(2))
    named = [("fine", fine), ("blocks.0.w", nn.Parameter(torch.zeros(shape)))]
    with pytest.raises(ValueError) as caught:
        Scion(named, norm=norm)
    assert "parameter blocks.0.w: " in str(caught.value) and str(shape) in str(caught.value)
    with pytest.raises(ValueError, match="parameter #1: "):
        Scion([p for _, p in named], norm=norm)
