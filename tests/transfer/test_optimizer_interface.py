"""Every optimizer keeps torch's contract: stepsizes and schedulers, closures, groups, scalers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from tests.transfer.stepping import (
    average,
    copies,
    every_optimizer,
    gaussian,
    loss,
    make_params,
    run,
    set_grads,
)
from tests.transfer.test_optimizer_state import VARIANTS, make_both
from transfer.optimizers import Almond, Scion

# --- stepsizes ---


@every_optimizer
def test_schedulers_change_the_stepsize(kind: Any) -> None:
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = kind([p], lr=0.5, norm="max-norm", alpha=1.0, radius=2.0)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda step: [1, 0.5, 0, 0.25][step])
    moves = []
    for _ in range(4):
        before = p.detach().clone()
        p.grad = -torch.ones_like(p)
        optimizer.step()
        moves.append((p.detach() - before)[0].item())
        if len(moves) < 4:
            schedule.step()
    assert moves == [1.0, 0.5, 0.0, 0.25]


@every_optimizer
def test_scheduler_keeps_the_ratio_of_groups(kind: Any) -> None:
    optimizer = make_both(kind)[1]
    schedule = lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.05])


@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-d", "1-d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "constrained"), VARIANTS)
def test_tensor_stepsize(
    kind: Any, constrained: bool, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """From the start, in some groups only; 0.25 is exact in every precision."""
    some, one = make_both(kind, constrained=constrained, lr=0.25)
    others, two = make_both(kind, constrained=constrained, lr=torch.full(shape, 0.25, dtype=dtype))
    run(some, one, 0, 5)
    run(others, two, 0, 5)
    for a, b in zip(some, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(average(one, a), average(two, b), rtol=1e-5, atol=1e-6)
    assert isinstance(two.param_groups[0]["lr"], Tensor)


@pytest.mark.parametrize("joint", [False, True])
@every_optimizer
def test_tensor_stepsize_of_one_vector(kind: Any, joint: bool) -> None:
    some = make_params([(3,), (), (2, 3)])
    others = copies(some)
    settings: dict[str, Any] = {"norm": "euclidean", "joint": joint}
    run(some, kind(some, lr=0.25, **settings), 0, 5)
    run(others, kind(others, lr=torch.tensor([0.25]), **settings), 0, 5)
    for a, b in zip(some, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "constrained"), VARIANTS)
def test_schedulers_fill_a_tensor_stepsize(kind: Any, constrained: bool) -> None:
    (some,), (others,) = make_params([(4, 3)]), make_params([(4, 3)])
    plain = kind([some], lr=0.5, constrained=constrained)
    stepsize = torch.tensor(0.5, dtype=torch.float64)
    tensor = kind([others], lr=stepsize, constrained=constrained)
    schedules = [lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=8) for o in (plain, tensor)]
    for step in range(8):
        run([some], plain, step, step + 1)
        run([others], tensor, step, step + 1)
        for schedule in schedules:
            schedule.step()
    torch.testing.assert_close(some, others, rtol=1e-12, atol=1e-12)
    assert tensor.param_groups[0]["lr"] is stepsize and stepsize.item() == pytest.approx(0.05)


# --- closures, gradients, groups ---


@every_optimizer
def test_closure(kind: Any) -> None:
    p = nn.Parameter(torch.tensor([3.0, -4.0]))
    optimizer = kind([p], lr=0.5, norm="max-norm", alpha=1.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = p.square().sum()
        value.backward()
        return value

    assert optimizer.step(closure).item() == 25.0
    assert p.tolist() == [2.5, -3.5]
    with torch.no_grad():
        assert optimizer.step(closure).item() == 18.5
    assert optimizer.step() is None


@every_optimizer
def test_gradients_that_are_none(kind: Any) -> None:
    params, optimizer = make_both(kind, constrained=kind is not Almond)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    params[1].grad = torch.ones_like(params[1])
    optimizer.step()
    moved = [not torch.equal(p, old) for p, old in zip(params, before, strict=True)]
    assert moved == [False, True, False, False, False]
    assert list(optimizer.state) == [params[1]]


@every_optimizer
def test_frozen_parameters_stay(kind: Any) -> None:
    params = make_params([(4, 3), (4, 3)])
    params[0].requires_grad_(False)
    optimizer = kind(params, lr=0.1)
    before = params[0].detach().clone()
    params[1].square().sum().backward()
    optimizer.step()
    assert torch.equal(params[0], before)


@every_optimizer
def test_group_added_later(kind: Any) -> None:
    params, optimizer = make_both(kind)
    late = nn.Parameter(torch.zeros(2, 2))
    run(params, optimizer, 0, 2)
    optimizer.add_param_group(
        {"params": late, "norm": "sign", "radius": 4.0, "lr": 0.5, "alpha": 1.0}
    )
    assert optimizer.param_groups[-1]["radius"] == 4.0
    run([*params, late], optimizer, 2, 3)
    assert torch.equal(late.detach().abs(), torch.full((2, 2), 2.0))


@every_optimizer
def test_generators_and_names(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    optimizer = kind({"params": p} for p in model.parameters())
    assert len(optimizer.param_groups) == 2
    named = kind([{"params": model.named_parameters(), "radius": 2.0}])
    assert named.param_groups[0]["param_names"] == ["0.weight", "1.weight"]
    for group in named.param_groups:  # a group of one optimizer serves another
        assert kind([group]).param_groups[0]["radius"] == 2.0


# --- maximize, foreach ---


@every_optimizer
def test_maximize_is_the_way_up(kind: Any) -> None:
    """It equals minimising the negative loss."""
    some = make_params([(6, 4), (6, 4), (5, 4)])
    others = copies(some)
    up, down = kind(some, lr=0.1, maximize=True), kind(others, lr=0.1)
    for step in range(20):
        up.zero_grad()
        down.zero_grad()
        loss(some, step).backward()
        (-loss(others, step)).backward()
        up.step()
        down.step()
    for a, b in zip(some, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("joint", [False, True])
@every_optimizer
def test_maximize_in_one_ball(kind: Any, joint: bool) -> None:
    params = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))]
    optimizer = kind(params, lr=1.0, alpha=1.0, norm="max-norm", joint=joint, maximize=True)
    (params[0].sum() - 2 * params[1].sum()).backward()
    optimizer.step()
    assert [p.tolist() for p in params] == [[1.0] * 3, [-1.0] * 2]


@pytest.mark.parametrize(("kind", "constrained"), VARIANTS)
def test_foreach_only_changes_how_it_is_computed(kind: Any, constrained: bool) -> None:
    some = make_params([(6, 4), (6, 4), (4, 6), (6, 4)])
    others = copies(some)
    settings: dict[str, Any] = {"lr": 0.1, "constrained": constrained, "split_sizes": (2, 2)}
    groups = [[some[:2], some[3:]], [others[:2], others[3:]]]
    one, two = (
        kind([{"params": own, "radius": 1.0 + i} for i, own in enumerate(g)], foreach=f, lr=0.1)
        for g, f in zip(groups, (True, False), strict=True)
    )
    for params, optimizer in ((some, one), (others, two)):
        rest = {**settings, "params": params[2:3], "foreach": optimizer is one}
        optimizer.add_param_group(rest)
        run(params, optimizer, 0, 20)
    for a, b in zip(some, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


# --- gradient scaling and clipping (Scion Light refuses both: test_light_stand_in.py) ---


@pytest.mark.parametrize("kind", [Scion, Almond])
def test_grad_scaler(kind: Any) -> None:
    """Scaling by powers of two changes nothing; a gradient that overflowed skips its step."""
    (mine,), (other,) = make_params([(4, 3)]), make_params([(4, 3)])
    scaled, plain = kind([mine], lr=0.1), kind([other], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(6):
        overflow = step == 3
        if not overflow:
            run([other], plain, step, step + 1)
        scaled.zero_grad()
        scaler.scale(loss([mine], step) * (torch.inf if overflow else 1.0)).backward()
        before = mine.detach().clone()
        scaler.step(scaled)
        scaler.update()
        assert torch.equal(mine, before) == overflow
    assert scaler.get_scale() == 2.0**9
    assert torch.equal(mine, other)
    assert torch.equal(average(scaled, mine), average(plain, other))


@pytest.mark.parametrize("kind", [Scion, Almond])
def test_clipping_by_norm_counts(kind: Any) -> None:
    (mine,), (other,) = make_params([(4, 3)]), make_params([(4, 3)])
    clipped, plain = kind([mine], lr=0.1), kind([other], lr=0.1)
    for step in range(5):
        set_grads([mine], step)
        assert mine.grad is not None
        other.grad = mine.grad * min(1.0, 0.5 / mine.grad.norm().item())
        nn.utils.clip_grad_norm_([mine], 0.5)
        clipped.step()
        plain.step()
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


# --- one suite for all: converge, keep the dtype ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@every_optimizer
def test_dtype_kept(kind: Any, dtype: torch.dtype) -> None:
    params = make_params([(6, 4), (5, 4)], dtype=dtype)
    before = copies(params)
    optimizer = kind(params, lr=0.5)
    run(params, optimizer, 0, 2)
    for p, old in zip(params, before, strict=True):
        assert p.dtype == average(optimizer, p).dtype == dtype
        assert torch.isfinite(p).all() and not torch.equal(p, old)


@every_optimizer
def test_mixed_precisions_in_one_group(kind: Any) -> None:
    dtypes = (torch.bfloat16, torch.float32, torch.float64)
    params = [make_params([(6, 4)], dtype=dtype)[0] for dtype in dtypes]
    alone = [copies([p]) for p in params]
    run(params, kind(params, lr=0.1), 0, 1)
    for p, own in zip(params, alone, strict=True):
        own[0].grad = p.detach() * 0  # shape and dtype only
        optimizer = kind(own, lr=0.1)
        optimizer.zero_grad()
        index = dtypes.index(p.dtype)
        noise = gaussian((6, 4), index, p.dtype)
        (0.5 * own[0].square() + own[0] * noise).sum().backward()
        optimizer.step()
        torch.testing.assert_close(p, own[0], rtol=1e-5, atol=1e-6)


@every_optimizer
def test_converges_on_a_quadratic(kind: Any) -> None:
    target = gaussian((6, 4), 1)
    p = nn.Parameter(torch.zeros_like(target))
    optimizer = kind([p], lr=0.1, radius=3.0, alpha=0.5, polar="svd")
    schedule = lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 300)
    for _ in range(300):
        optimizer.zero_grad()
        value = (p - target).square().sum()
        value.backward()
        optimizer.step()
        schedule.step()
    assert value.item() < 1e-3 * target.square().sum().item()
