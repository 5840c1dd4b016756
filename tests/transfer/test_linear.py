"""Linear layers as one operator: products in bfloat16, gradients of weights in float32."""

import pytest
import torch
from torch import Tensor, nn

from transfer.models import linear
from transfer.models.linear import Linear

RUNS, BATCH, LENGTH, D_IN = 3, 2, 5, 16


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the operator compute on the CPU, where it is no faster."""
    monkeypatch.setattr(linear, "takes", lambda x: x.dtype == torch.bfloat16)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_elsewhere_it_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = Linear(D_IN, 8)
    torch.manual_seed(0)
    plain = nn.Linear(D_IN, 8, bias=False)
    for x in (drawn(LENGTH, D_IN, seed=0), drawn(LENGTH, D_IN, seed=0).bfloat16()):
        layer, plain = layer.to(x.dtype), plain.to(x.dtype)
        assert torch.equal(layer(x), plain(x))


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("d_out", [8, 13])
@pytest.mark.parametrize("stacked", [False, True])
def test_product_and_gradients(d_out: int, stacked: bool) -> None:
    """Outputs that are no multiple of eight are padded inside."""
    runs = RUNS if stacked else 1
    x = drawn(runs, BATCH, LENGTH, D_IN, seed=0).bfloat16().requires_grad_()
    weight = drawn(runs, d_out, D_IN, seed=1).requires_grad_()
    gradient = drawn(runs, BATCH, LENGTH, d_out, seed=2).bfloat16()
    layer = Linear(D_IN, d_out)

    def one(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(layer, {"weight": weight}, (x,))
        return out

    out = torch.vmap(one)(x, weight) if stacked else one(x[0], weight[0])[None]
    assert out.dtype == torch.bfloat16 and out.is_contiguous()
    rounded = weight.detach().bfloat16().double()
    exact = torch.einsum("rbtd,rod->rbto", x.detach().double(), rounded)
    torch.testing.assert_close(out.detach().double(), exact, rtol=2**-7, atol=1e-2)
    of_x, of_weight = torch.autograd.grad(out, (x, weight), gradient)
    wide = gradient.double()
    exact = torch.einsum("rbto,rod->rbtd", wide, rounded)
    torch.testing.assert_close(of_x.double(), exact, rtol=2**-7, atol=1e-2)
    exact = torch.einsum("rbto,rbtd->rod", wide, x.detach().double())
    torch.testing.assert_close(of_weight.double(), exact, rtol=1e-5, atol=1e-5)
    assert of_weight.stride() == weight.stride()


@pytest.mark.usefixtures("taken")
def test_runs_may_share_inputs_or_weights() -> None:
    x, weight = drawn(RUNS, BATCH, LENGTH, D_IN, seed=0).bfloat16(), drawn(RUNS, 8, D_IN, seed=1)
    expected = torch.vmap(lambda x, w: linear._linear(x, w)[0])
    for dims, given in (((None, 0), (x[0], weight)), ((1, None), (x.movedim(0, 1), weight[0]))):
        found = torch.vmap(lambda x, w: linear._linear(x, w)[0], in_dims=dims)(*given)
        same = [
            y[None].expand_as(like) if dim is None else like
            for y, like, dim in zip(given, (x, weight), dims, strict=True)
        ]
        assert torch.equal(found, expected(*same))


@pytest.mark.usefixtures("taken")
def test_weights_of_another_type_are_torchs() -> None:
    layer = Linear(D_IN, 8).bfloat16()
    x = drawn(LENGTH, D_IN, seed=0).bfloat16()
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight))
