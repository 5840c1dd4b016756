"""State of every optimizer: resumed, copied and pickled, it goes on bit for bit."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from tests.transfer.stepping import (
    OPTIMIZERS,
    assert_bitwise,
    average,
    copies,
    every_optimizer,
    loss,
    make_params,
    run,
)
from transfer.optimizers import Almond, LmoOptimizer, Scion, ScionLight
from transfer.optimizers.groups import DEFAULTS

SHAPES: list[tuple[int, ...]] = [(6, 4), (6, 4), (5,), (2, 3, 4), (6, 2, 3)]
VARIANTS = [
    pytest.param(kind, constrained, id=f"{kind.__name__}-{constrained}")
    for kind in OPTIMIZERS
    for constrained in (False, True)
    if not (constrained and kind is Almond)
]


def make(kind: Any, params: list[nn.Parameter], **settings: Any) -> LmoOptimizer:
    """Return an optimizer with several groups for parameters of SHAPES."""
    groups = [
        {"params": params[:2], "norm": "spectral", "radius": 2.0, "split_sizes": (4, 2)},
        {"params": params[2:3], "norm": "bias-rms", "alpha": 0.5},
        {"params": params[3:4], "norm": "max-norm", "lr": 0.01, "maximize": True},
        {"params": params[4:], "norm": "conv-spectral", "groups": 2, "foreach": False},
    ]
    optimizer: LmoOptimizer = kind(groups, **{"lr": 0.1, **settings})
    return optimizer


def make_both(kind: Any, **settings: Any) -> tuple[list[nn.Parameter], LmoOptimizer]:
    """Return float32 parameters and their optimizer."""
    params = make_params(SHAPES, dtype=torch.float32)
    return params, make(kind, params, **settings)


def averages(optimizer: LmoOptimizer, params: list[nn.Parameter]) -> list[torch.Tensor]:
    """Return all averages."""
    return [average(optimizer, p) for p in params]


# --- resume ---


@pytest.mark.parametrize("lr", [0.1, "tensor"])
@pytest.mark.parametrize("through_file", [False, True])
@pytest.mark.parametrize(("kind", "constrained"), VARIANTS)
def test_resume_is_bit_for_bit(
    kind: Any, constrained: bool, through_file: bool, lr: float | str
) -> None:
    stepsize: Any = torch.tensor(0.1) if lr == "tensor" else lr
    whole, optimizer = make_both(kind, constrained=constrained, lr=stepsize)
    run(whole, optimizer, 0, 7)
    state: dict[str, Any] = copy.deepcopy(optimizer.state_dict())
    if through_file:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    resumed = copies(whole)
    # Built with other settings: the state's win.
    again = make(kind, resumed, lr=0.7, alpha=1.0, constrained=False)
    again.load_state_dict(state)
    assert [g["lr"] for g in again.param_groups] == [stepsize, stepsize, 0.01, stepsize]
    for name in ("constrained", "alpha", "split_sizes", "groups", "maximize", "foreach"):
        assert [g[name] for g in again.param_groups] == [g[name] for g in optimizer.param_groups]
    run(whole, optimizer, 7, 14)
    run(resumed, again, 7, 14)
    assert_bitwise(whole, resumed)
    assert_bitwise(averages(optimizer, whole), averages(again, resumed))


@every_optimizer
def test_state_is_one_average_per_parameter(kind: Any) -> None:
    params, optimizer = make_both(kind)
    assert not optimizer.state
    run(params, optimizer, 0, 1)
    for p in params:
        state = {k: v for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)}
        assert {k: (v.shape, v.dtype) for k, v in state.items()} == {"average": (p.shape, p.dtype)}


@every_optimizer
def test_averages_start_at_zero(kind: Any) -> None:
    p = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = kind([p], alpha=0.25, norm="max-norm", radius=8.0)
    grad = torch.full_like(p, 8.0)
    p.grad = grad
    optimizer.step()
    assert torch.equal(average(optimizer, p), torch.full_like(p, -2.0 if kind is Almond else 2.0))
    assert torch.equal(grad, torch.full_like(p, 8.0)), "the gradient was changed"


# --- refused states change nothing ---


@every_optimizer
def test_loading_other_parameters_raises(kind: Any) -> None:
    state = make_both(kind)[1].state_dict()
    with pytest.raises(ValueError):
        kind(make_params([(3, 2)])).load_state_dict(state)


@every_optimizer
def test_refused_state_changes_nothing(kind: Any) -> None:
    params, optimizer = make_both(kind)
    run(params, optimizer, 0, 3)
    before = copy.deepcopy(optimizer.state_dict())
    state = copy.deepcopy(before)
    state["param_groups"][0]["lr"] = 0.9
    state["param_groups"][3]["groups"] = 5
    with pytest.raises(ValueError, match="parameter #0: conv-spectral: .* groups must divide"):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, kept in before["state"].items():
        assert torch.equal(after["state"][number]["average"], kept["average"])
    run(params, optimizer, 3, 4)


# --- states from before a key existed ---


@every_optimizer
def test_old_states_without_the_newer_keys_load(kind: Any) -> None:
    """What a group has now stays where the state says nothing."""
    whole, optimizer = make_both(kind)
    run(whole, optimizer, 0, 5)
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        for key in ("layout", "split_sizes", "groups", "joint", "maximize", "foreach"):
            del group[key]
    resumed = copies(whole)
    again = make(kind, resumed)
    again.load_state_dict(state)
    run(whole, optimizer, 5, 8)
    run(resumed, again, 5, 8)
    assert_bitwise(whole, resumed)


@every_optimizer
def test_old_pickles_without_the_newer_keys_load(kind: Any) -> None:
    (p,) = make_params([(6, 4)])
    optimizer = kind([p], lr=0.1, radius=2.0)
    run([p], optimizer, 0, 2)
    if kind is ScionLight:
        optimizer.close()
    state = optimizer.__getstate__()
    for table in (state["defaults"], *state["param_groups"]):
        for key in ("layout", "split_sizes", "groups", "joint", "maximize", "foreach"):
            del table[key]
    old = kind.__new__(kind)
    old.__setstate__(state)
    assert {key: old.param_groups[0][key] for key in ("layout", "joint")} == {
        "layout": None,
        "joint": False,
    }
    old.add_param_group({"params": make_params([(3, 2)], seed=5)})
    assert set(DEFAULTS) < set(old.param_groups[1])
    run([p], old, 2, 3)


# --- copies ---


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(("kind", "constrained"), VARIANTS)
def test_copies_go_on_alike_and_alone(kind: Any, constrained: bool, how: str, steps: int) -> None:
    params, optimizer = make_both(kind, constrained=constrained)
    run(params, optimizer, 0, steps)
    before = [p.detach().clone() for p in params]
    both = (params, optimizer)
    others, other = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert type(other) is kind and other.param_groups[0]["split_sizes"] == (4, 2)
    run(others, other, steps, steps + 3)
    assert_bitwise(params, before)
    run(params, optimizer, steps, steps + 3)
    assert_bitwise(params, others)
    other.add_param_group({"params": make_params([(2, 2)]), "norm": "sign"})
    assert len(optimizer.param_groups) == 4


def test_kinds_may_be_exchanged() -> None:
    """Scion's state serves Scion Light and back: both keep the average of the gradients."""
    params, scion = make_both(Scion)
    run(params, scion, 0, 4)
    others = copies(params)
    light = make(ScionLight, others)
    light.load_state_dict(copy.deepcopy(scion.state_dict()))
    run(params, scion, 4, 8)
    run(others, light, 4, 8)
    assert_bitwise(params, others)
    again = make(Scion, params)
    again.load_state_dict(copy.deepcopy(light.state_dict()))
    loss(params, 8).backward()
    again.step()


def test_defaults_are_those_of_the_signature() -> None:
    """They stand in two places: in the signature, for readers, and for groups of old pickles."""
    given = Scion([nn.Parameter(torch.zeros(2, 2))]).defaults
    assert {key: value for key, value in given.items() if key != "lr"} == DEFAULTS
