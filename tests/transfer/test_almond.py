"""ALMOND averages oracles: against a plain restatement, and against Scion where they meet."""

from typing import Any

import pytest
import torch

from tests.transfer.reference import Layer
from tests.transfer.stepping import average, copies, make_params, set_grads
from transfer.config import NORM_NAMES
from transfer.norms import NORMS, make_norm
from transfer.optimizers import Almond, Scion

STEPS = 100
SHAPES: dict[int, tuple[int, ...]] = {1: (9,), 2: (7, 5), 3: (7, 5, 4)}


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_equals_the_restatement(alpha: float) -> None:
    """One group per norm, two parameters in each, so that batches form."""
    params, layers, groups = [], [], []
    for i, name in enumerate(NORM_NAMES):
        own = make_params([SHAPES[NORMS[name].event_ndim]] * 2, seed=2 * i)
        radius = 0.5 + i
        groups.append({"params": own, "norm": name, "radius": radius})
        for p in own:
            x, d = p.detach().clone(), torch.zeros_like(p)
            layers.append(Layer(x, name, radius, 0.02, alpha, False, d))
        params += own
    optimizer = Almond(groups, lr=0.02, alpha=alpha, polar="svd")
    for step in range(STEPS):
        set_grads(params, step)
        for p, layer in zip(params, layers, strict=True):
            assert p.grad is not None
            layer.almond_step(p.grad)
        optimizer.step()
    for p, layer in zip(params, layers, strict=True):

        def told(message: str, norm: str = layer.norm) -> str:
            return f"{norm}: {message}"

        torch.testing.assert_close(p.detach(), layer.x, rtol=1e-8, atol=1e-8, msg=told)
        torch.testing.assert_close(average(optimizer, p), layer.d, rtol=1e-8, atol=1e-8, msg=told)


@pytest.mark.parametrize("name", NORM_NAMES)
def test_equals_scion_without_averaging(name: str) -> None:
    (mine,) = make_params([SHAPES[NORMS[name].event_ndim]])
    (other,) = copies([mine])
    settings: dict[str, Any] = {"lr": 0.1, "norm": name, "radius": 2.0, "alpha": 1.0}
    almond, scion = Almond([mine], **settings), Scion([other], **settings)
    for step in range(STEPS):
        set_grads([mine], step)
        assert mine.grad is not None
        other.grad = mine.grad.clone()
        almond.step()
        scion.step()
    torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", NORM_NAMES)
def test_steps_are_bounded_by_stepsize_times_radius(name: str) -> None:
    """They reach the bound only while the gradients agree; Scion's always do."""
    norm = make_norm(name)
    (p,) = make_params([SHAPES[norm.event_ndim]])
    optimizer = Almond([p], lr=0.25, norm=name, radius=8.0, alpha=0.5, polar="svd")
    sizes = []
    for step in range(20):
        before = p.detach().clone()
        set_grads([p], step if step < 10 else 10)
        if step >= 10:
            assert p.grad is not None
            p.grad.copy_(torch.linspace(1, 2, p.numel()).reshape(p.shape))
        optimizer.step()
        sizes.append(norm.norm(p.detach() - before).item())
        assert norm.norm(average(optimizer, p)).item() <= 8.0 * (1 + 1e-12)
    assert max(sizes) <= 2.0 * (1 + 1e-12)
    assert sizes[0] == pytest.approx(1.0, rel=1e-12), "the average starts at zero"
    assert sizes[-1] == pytest.approx(2.0, rel=1e-2), "the same gradient again and again"


def test_differs_from_scion_with_averaging() -> None:
    mine = make_params([(6, 4)])
    other = copies(mine)
    almond, scion = Almond(mine, lr=0.1, alpha=0.3), Scion(other, lr=0.1, alpha=0.3)
    for step in range(5):
        set_grads(mine, step)
        set_grads(other, step)
        almond.step()
        scion.step()
    assert not torch.allclose(mine[0], other[0])


@pytest.mark.parametrize("where", ["defaults", "group", "later"])
def test_constrained_is_refused(where: str) -> None:
    (p,) = make_params([(6, 4)])
    with pytest.raises(ValueError, match="constrained must be False for Almond, got True"):
        if where == "defaults":
            Almond([p], lr=0.1, constrained=True)
        elif where == "group":
            Almond([{"params": [p], "constrained": True}], lr=0.1)
        else:
            optimizer = Almond([p], lr=0.1)
            state = optimizer.state_dict()
            state["param_groups"][0]["constrained"] = True
            optimizer.load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_tensor_stepsize_is_not_rounded(dtype: torch.dtype) -> None:
    """The first parameter is in bfloat16, whose eight bits must not reach the second's stepsize."""
    first = make_params([(4, 3)], dtype=torch.bfloat16)
    plain, tensor = make_params([(4, 3)], dtype=dtype), make_params([(4, 3)], dtype=dtype)
    one = Almond([*first, *plain], lr=0.3, norm="max-norm")
    two = Almond([*copies(first), *tensor], lr=torch.tensor(0.3), norm="max-norm")
    for step in range(10):
        set_grads(plain, step)
        set_grads(tensor, step)
        for group in (one.param_groups[0], two.param_groups[0]):
            set_grads(group["params"][:1], step)
        one.step()
        two.step()
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(plain[0], tensor[0], rtol=tolerance, atol=tolerance)
