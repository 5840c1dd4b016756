"""What Scion Light leaves in `.grad`: no memory, no arithmetic, no harm to autograd."""

import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.transfer.stepping import gaussian, make_params
from transfer.optimizers import Scion, ScionLight
from transfer.optimizers.folded import FoldedGradient

# --- what cannot be honoured raises, and says why ---


def scaler_step(p: nn.Parameter) -> None:
    scaler = torch.amp.GradScaler("cpu")
    light = ScionLight([p])
    scaler.scale(p.square().sum()).backward()
    scaler.step(light)


def unscale(p: nn.Parameter) -> None:
    scaler = torch.amp.GradScaler("cpu")
    light = ScionLight([p])
    scaler.scale(p.square().sum()).backward()
    scaler.unscale_(light)


def after_backward(use: Callable[[Tensor], Any]) -> Callable[[nn.Parameter], Any]:
    """Return a function that lets Scion Light fold a gradient, then uses `.grad`."""

    def done(p: nn.Parameter) -> Any:
        light = ScionLight([p])
        p.square().sum().backward()
        assert p.grad is not None and light.state[p]["folded"]
        return use(p.grad)

    return done


def after_parameter(use: Callable[[nn.Parameter], Any]) -> Callable[[nn.Parameter], Any]:
    """Return the same for a function of the parameter."""

    def done(p: nn.Parameter) -> Any:
        light = ScionLight([p])
        p.square().sum().backward()
        assert light.state[p]["folded"]
        return use(p)

    return done


nets = torch.nn.utils
REFUSED: dict[str, Callable[[nn.Parameter], Any]] = {
    "GradScaler.step": scaler_step,
    "GradScaler.unscale_": unscale,
    "clip_grad_norm_": after_parameter(lambda p: nets.clip_grad_norm_([p], 1.0)),
    "clip_grad_norm_ foreach": after_parameter(
        lambda p: nets.clip_grad_norm_([p], 1.0, foreach=True)
    ),
    "clip_grad_norm_ by one": after_parameter(
        lambda p: nets.clip_grad_norm_([p], 1.0, foreach=False)
    ),
    "clip_grad_norm_ max": after_parameter(
        lambda p: nets.clip_grad_norm_([p], 1.0, norm_type=float("inf"))
    ),
    "clip_grad_value_": after_parameter(lambda p: nets.clip_grad_value_([p], 1.0)),
    "clip_grad_value_ by one": after_parameter(
        lambda p: nets.clip_grad_value_([p], 1.0, foreach=False)
    ),
    "get_total_norm": after_backward(lambda g: nets.get_total_norm([g])),
    "norm": after_backward(lambda g: g.norm()),
    "data": after_backward(lambda g: g.data.norm()),
    "detach": after_backward(lambda g: g.detach()),
    "clone": after_backward(lambda g: g.clone()),
    "times": after_backward(lambda g: 2 * g),
    "in place": after_backward(lambda g: g.mul_(2)),
    "isnan": after_backward(lambda g: torch.isnan(g).any()),
    "to_dense": after_backward(lambda g: g.to_dense()),
    "transpose": after_backward(lambda g: g.T),
    "real": after_backward(lambda g: g.real),
    "numpy": after_backward(lambda g: g.numpy()),
    "item": after_backward(lambda g: g[0, 0].item()),
    "bool": after_backward(lambda g: bool(g)),
    "pickle": after_backward(lambda g: pickle.dumps(g)),
    "as source": after_backward(lambda g: torch.zeros(4, 3).copy_(g)),
    "stack": after_backward(lambda g: torch.stack([g])),
    "torch.optim.SGD": after_parameter(lambda p: torch.optim.SGD([p], lr=0.1).step()),
    "another Scion": after_parameter(lambda p: Scion([p]).step()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_arithmetic_is_refused_with_the_reason(what: str) -> None:
    (p,) = make_params([(4, 3)], dtype=torch.float32)
    reason = "ScionLight folds every gradient .*clipping by norm, GradScaler.*use Scion"
    with pytest.raises(RuntimeError, match=reason):
        REFUSED[what](p)


def test_adam_takes_it_for_sparse() -> None:
    """Not our reason, but no silence."""
    (p,) = make_params([(4, 3)])
    light = ScionLight([p])
    p.square().sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        torch.optim.Adam([p]).step()
    light.step()


def test_looking_is_allowed() -> None:
    (p,) = make_params([(4, 3)], dtype=torch.bfloat16)
    light = ScionLight([p])
    p.square().sum().backward()
    assert light and p.grad is not None
    assert (p.grad.shape, p.grad.dtype, p.grad.device) == (p.shape, p.dtype, p.device)
    assert "FoldedGradient" in repr(p.grad)
    assert not p.grad.requires_grad and p.grad.grad_fn is None


def test_disabled_grad_scaler_works() -> None:
    (mine,), (other,) = make_params([(4, 3)]), make_params([(4, 3)])
    for p, optimizer in ((mine, ScionLight([mine])), (other, Scion([other]))):
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        for step in range(5):
            optimizer.zero_grad()
            loss = (p * gaussian((4, 3), step)).sum()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    assert torch.equal(mine, other)


def test_sparse_gradient_is_refused() -> None:
    embedding = nn.Embedding(5, 3, sparse=True)
    light = ScionLight(embedding.named_parameters(), layout="table", norm="col-norm")
    with pytest.raises(RuntimeError, match="parameter weight has a sparse gradient"):
        embedding(torch.tensor([1, 2])).sum().backward()
    assert not light.state


# --- autograd ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 4, 5)])
def test_a_gradient_after_it_is_exact(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Even where nobody calls zero_grad, and with negative zeros and infinities."""
    (p,) = make_params([shape], dtype=dtype)
    for seed in range(3):
        g = gaussian(shape, seed, dtype)
        g = g.where(g < 1, -0.0).where(g > -1, torch.inf) if shape else g
        p.grad = FoldedGradient.like(p)
        (p * g).sum().backward()
        assert type(p.grad) is Tensor and p.grad.layout == torch.strided
        assert torch.equal(p.grad, g)


def test_memory_format_of_the_average_is_the_weight_s() -> None:
    p = nn.Parameter(gaussian((6, 4, 3, 3), 0).to(memory_format=torch.channels_last))
    light = ScionLight([p], norm="conv-spectral")
    for _ in range(2):
        p.square().sum().backward()
    light.step()
    assert light.state[p]["average"].is_contiguous(memory_format=torch.channels_last)
    assert p.is_contiguous(memory_format=torch.channels_last)


def test_grad_of_grad_is_free() -> None:
    """torch.autograd.grad writes no `.grad`, so nothing is folded."""
    (p,) = make_params([(4, 3)])
    light = ScionLight([p])
    (g,) = torch.autograd.grad(p.pow(3).sum(), p, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(g.sum(), p)[0], 6 * p.detach())
    assert not light.state and p.grad is None


# --- memory ---


def held(dtype: torch.dtype) -> int:
    """Return the bytes of all tensors of this dtype that Python or autograd can reach."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        try:
            if not issubclass(type(thing), Tensor):
                continue
            tensors = [thing, *([thing.grad] if thing.is_leaf and thing.grad is not None else [])]
        except ReferenceError:
            continue
        for x in tensors:
            with torch._C.DisableTorchFunctionSubclass():
                parts = [x._indices(), x._values()] if x.is_sparse else [x]
                for part in parts:
                    storage = part.untyped_storage()
                    if part.dtype == dtype and storage.nbytes():
                        found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(ScionLight, torch.bfloat16), (ScionLight, torch.float32), (Scion, torch.float32)],
)
def test_weights_and_one_average_are_all_the_memory(
    kind: Any, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    gc.collect()
    gc.freeze()  # what there is already is not looked through again and again
    request.addfinalizer(gc.unfreeze)
    base = held(dtype)
    model = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(16))).to(dtype)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert weights == 16 * 256 * 256 * dtype.itemsize
    optimizer = kind(model.parameters(), lr=0.01)
    x = torch.ones(1, 256, dtype=dtype)
    small = 64 * 256 * dtype.itemsize  # inputs and activations
    for _ in range(2):
        model(x).square().sum().backward()
        after_backward = held(dtype) - base
        optimizer.step()
        after_step = held(dtype) - base
    tensors = 2 if kind is ScionLight else 3  # Scion keeps the gradients too
    for bytes_held in (after_backward, after_step):
        assert tensors * weights <= bytes_held <= tensors * weights + small


def test_the_backward_pass_holds_one_gradient_at_a_time() -> None:
    """A hook behind the first layer's looks at the gradients that are there."""
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(6)))
    light = ScionLight(model.parameters())
    alive = []

    def look(_: Tensor) -> None:
        grads = [p.grad for p in model.parameters()]
        alive.append(sum(g is not None and not isinstance(g, FoldedGradient) for g in grads))

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(look)  # after ours
    model(torch.ones(2, 8)).sum().backward()
    assert light.state and alive == [0] * 6
