"""Steps through layouts equal steps of the matrices kept apart, state included."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.transfer.stepping import (
    OPTIMIZERS,
    average,
    copies,
    every_optimizer,
    gaussian,
    make_params,
    set_grads,
)
from transfer.norms import make_norm
from transfer.optimizers import LmoOptimizer, Scion

STEPS = 100


def assert_same_steps(
    whole: list[nn.Parameter],
    one: LmoOptimizer,
    parts: list[nn.Parameter],
    many: LmoOptimizer,
    views: Any,
) -> None:
    """Step both with the same gradients; `views` cuts a tensor of `whole` as `parts` are cut."""
    for step in range(STEPS):
        set_grads(whole, step)
        cut = [view for p in whole for view in views(p.grad)]
        for part, grad in zip(parts, cut, strict=True):
            part.grad = grad.clone()
        one.step()
        many.step()
    weights = [view for p in whole for view in views(p.detach())]
    averages = [view for p in whole for view in views(average(one, p))]
    for part, weight, kept in zip(parts, weights, averages, strict=True):
        torch.testing.assert_close(part.detach(), weight, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(average(many, part), kept, rtol=1e-11, atol=1e-11)


def apart(params: list[nn.Parameter], views: Any) -> list[nn.Parameter]:
    """Return the parts as parameters of their own."""
    return [nn.Parameter(view.clone()) for p in params for view in views(p.detach())]


CONSTRAINED = [
    pytest.param(kind, constrained, id=f"{kind.__name__}-{constrained}")
    for kind in OPTIMIZERS
    for constrained in (False, True)
    if not (constrained and kind.__name__ == "Almond")
]


@pytest.mark.parametrize("sizes", [(6, 2, 2)], ids=str)
@pytest.mark.parametrize("layout", ["matrix", "transposed", "vector"])
@pytest.mark.parametrize(("kind", "constrained"), CONSTRAINED)
def test_fused_projection_is_three(
    kind: Any, constrained: bool, layout: str, sizes: tuple[int, ...]
) -> None:
    total = sum(sizes)
    shape = {"matrix": (total, 6), "transposed": (6, total), "vector": (total,)}[layout]
    norm = "bias-rms" if layout == "vector" else "spectral"
    settings = {"norm": norm, "layout": layout, "lr": 0.02, "radius": 2.0, "polar": "svd"}
    if constrained:
        settings["constrained"] = True
    whole = make_params([shape])

    def views(x: Tensor) -> list[Tensor]:
        return list(x.split(sizes, -1 if layout == "transposed" else 0))

    parts = apart(whole, views)
    one = kind([{"params": whole, "split_sizes": sizes, **settings}])
    many = kind([{"params": parts, **settings}])
    assert_same_steps(whole, one, parts, many, views)
    # It is not what the fused matrix as one would do.
    other = copies(whole)
    set_grads(whole, STEPS)
    set_grads(other, STEPS)
    one.step()
    kind([{"params": other, **settings}]).step()
    assert not torch.allclose(whole[0], other[0])


@pytest.mark.parametrize(
    ("layout", "single"), [("batch", None), ("batch-transposed", "transposed")]
)
@every_optimizer
def test_experts_are_separate(kind: Any, layout: str, single: str | None) -> None:
    whole = make_params([(3, 6, 4)])
    parts = apart(whole, list)
    one = kind([{"params": whole, "layout": layout}], lr=0.02, radius=2.0)
    many = kind([{"params": parts, "layout": single}], lr=0.02, radius=2.0)
    assert_same_steps(whole, one, parts, many, list)


@every_optimizer
def test_split_experts(kind: Any) -> None:
    """Gate and up projections of several experts, fused."""
    whole = make_params([(3, 7, 4)])

    def views(x: Tensor) -> list[Tensor]:
        return [part for expert in x for part in expert.split((4, 3))]

    parts = apart(whole, views)
    one = kind([{"params": whole, "layout": "batch", "split_sizes": (4, 3)}], lr=0.02)
    many = kind(parts, lr=0.02)
    assert_same_steps(whole, one, parts, many, views)


@pytest.mark.parametrize("norm", ["spectral", "scaled-sign", "row-norm"])
@every_optimizer
def test_convolution_is_its_matrix(kind: Any, norm: str) -> None:
    whole = make_params([(5, 4, 2, 3)])

    def views(x: Tensor) -> list[Tensor]:
        return [x.flatten(1)]

    parts = apart(whole, views)
    one = kind([{"params": whole, "layout": "conv"}], lr=0.02, norm=norm)
    many = kind(parts, lr=0.02, norm=norm)
    assert_same_steps(whole, one, parts, many, views)


@every_optimizer
def test_grouped_convolution_is_one_matrix_per_group(kind: Any) -> None:
    """With radius times sqrt(out / in) / prod(k) of one group."""
    whole = make_params([(6, 4, 2, 3)])

    def views(x: Tensor) -> list[Tensor]:
        return [part.flatten(1) for part in x.split(3)]

    parts = apart(whole, views)
    one = kind([{"params": whole, "groups": 2}], lr=0.02, norm="conv-spectral", radius=2.0)
    radius = 2.0 * (3 / 4) ** 0.5 / 6
    many = kind(parts, lr=0.02, norm="plain-spectral", radius=radius)
    assert_same_steps(whole, one, parts, many, views)


@pytest.mark.parametrize("norm", ["col-norm", "sign", "embedding-spectral"])
@every_optimizer
def test_embedding_is_a_matrix_kept_transposed(kind: Any, norm: str) -> None:
    whole = make_params([(9, 4)])

    def views(x: Tensor) -> list[Tensor]:
        return [x.T]

    parts = apart(whole, views)
    one = kind([{"params": whole, "layout": "table"}], lr=0.02, norm=norm)
    many = kind(parts, lr=0.02, norm=norm)
    assert_same_steps(whole, one, parts, many, views)


@pytest.mark.parametrize("groups", [1, 2])
def test_memory_format_does_not_matter(groups: int) -> None:
    (plain,) = make_params([(6, 4, 3, 3)])
    last = nn.Parameter(plain.detach().clone().to(memory_format=torch.channels_last))
    one, other = (Scion([p], norm="conv-spectral", groups=groups, lr=0.1) for p in (plain, last))
    for step in range(5):
        plain.grad = gaussian((6, 4, 3, 3), step)
        last.grad = plain.grad.to(memory_format=torch.channels_last)
        one.step()
        other.step()
    torch.testing.assert_close(plain.detach(), last.detach().contiguous(), rtol=1e-12, atol=0)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_constrained_blocks_stay_in_their_own_balls() -> None:
    norm = make_norm("spectral")
    p = nn.Parameter(torch.empty(9, 4, dtype=torch.float64))
    layout = norm.layout(split_sizes=(4, 3, 2))
    norm.init_(p, 3.0, torch.Generator().manual_seed(0), layout)
    optimizer = Scion([p], lr=0.3, radius=3.0, constrained=True, split_sizes=(4, 3, 2), polar="svd")
    for step in range(50):
        set_grads([p], step)
        optimizer.step()
        sizes = [norm.norm(block).item() for block in layout.blocks(p.detach())]
        assert max(sizes) <= 3.0 * (1 + 1e-12), sizes
