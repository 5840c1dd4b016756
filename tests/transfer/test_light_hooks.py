"""Hooks of Scion Light: put on, taken off, and what happens to gradients beside them."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from tests.transfer.stepping import assert_bitwise, copies, gaussian, loss, make_params, run
from tests.transfer.test_light import pair
from transfer.optimizers import Scion, ScionLight
from transfer.optimizers.folded import FoldedGradient

# --- gradients that autograd did not make ---


def test_gradients_set_by_hand_count() -> None:
    """Sharding libraries write `.grad` themselves; ignoring them would be a silent stop."""
    mine, light, other, scion = pair()
    for step in range(10):
        for i, (p, q) in enumerate(zip(mine, other, strict=True)):
            p.grad = gaussian(tuple(p.shape), 100 * step + i)
            q.grad = p.grad.clone()
        light.step()
        scion.step()
        assert all(p.grad is None for p in mine)
    assert_bitwise(mine, other)


def test_frozen_parameters_may_thaw() -> None:
    mine, light, other, scion = pair()
    run(mine, light, 0, 2)
    frozen = make_params([(3, 2)])[0].requires_grad_(False)
    thawed = copies([frozen])[0]
    light.add_param_group({"params": [frozen], "radius": 3.0})
    scion.add_param_group({"params": [thawed], "radius": 3.0})
    frozen.requires_grad_()
    mine, other = [*mine, frozen], [*other, thawed]
    run(other[:-1], scion, 0, 2)
    run(mine, light, 2, 6)
    run(other, scion, 2, 6)
    assert_bitwise(mine, other)


def test_group_added_later() -> None:
    mine, light, other, scion = pair()
    for params, optimizer in ((mine, light), (other, scion)):
        run(params, optimizer, 0, 3)
        late = make_params([(4, 4)], seed=9)
        optimizer.add_param_group({"params": late, "norm": "sign", "lr": 0.5})
        params += late
        run(params, optimizer, 3, 8)
    assert_bitwise(mine, other)
    loss(mine, 9).backward()
    assert isinstance(mine[-1].grad, FoldedGradient)


# --- the end ---


def test_close_gives_the_parameters_back() -> None:
    mine, light, other, scion = pair()
    run(mine, light, 0, 3)
    run(other, scion, 0, 3)
    light.close()
    assert all(p.grad is None for p in mine)
    run(mine, Scion(mine, norm="max-norm", layout="whole"), 3, 6)
    run(other, Scion(other, norm="max-norm", layout="whole"), 3, 6)
    assert_bitwise(mine, other)
    light.close()


def test_hooks_end_with_the_optimizer() -> None:
    mine, light, other, scion = pair()
    run(mine, light, 0, 3)
    run(other, scion, 0, 3)
    gone = weakref.ref(light)
    del light
    gc.collect()
    assert gone() is None, "the hooks keep the optimizer alive"
    run(mine, Scion(mine, norm="max-norm", layout="whole"), 3, 6)
    run(other, Scion(other, norm="max-norm", layout="whole"), 3, 6)
    assert_bitwise(mine, other)
    hooks: Any = [p._post_accumulate_grad_hooks for p in mine]  # type: ignore[attr-defined]
    assert not any(hooks), "left behind, they would pile up"


def test_two_on_the_same_parameters_are_told_apart() -> None:
    mine, light, _, _ = pair()
    other = ScionLight(mine, norm="max-norm", layout="whole")
    with pytest.raises(RuntimeError, match=r"parameter #0 was folded by another .* call close\(\)"):
        loss(mine[:1], 0).backward()
    light.close()
    run(mine, other, 0, 2)


def test_refused_group_is_not_hooked() -> None:
    mine, light, _, _ = pair()
    late = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="radius"):
        light.add_param_group({"params": [late], "radius": -1.0})
    late.square().sum().backward()
    assert late.grad is not None and not isinstance(late.grad, FoldedGradient)
    light.step()
    assert late not in light.state
