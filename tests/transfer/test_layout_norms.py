"""Norms read through layouts equal plain restatements on the matrices written out by hand."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Size, Tensor, nn

from tests.transfer.reference import TABLE
from tests.transfer.stepping import gaussian
from transfer.config import NORM_NAMES
from transfer.layouts import Layout, fitting_layouts
from transfer.norms import NORMS, make_norm

RHO = 2.5
# Input and output channels, groups; the last two are depthwise.
CHANNELS = [(6, 9, 1), (6, 4, 2), (9, 6, 3), (5, 5, 5), (4, 8, 4)]
KERNELS = [(3,), (1,), (1, 4), (3, 3), (2, 1, 3)]
_KINDS: dict[tuple[str, int], Any] = {
    ("conv", 1): nn.Conv1d,
    ("conv", 2): nn.Conv2d,
    ("conv", 3): nn.Conv3d,
    ("conv-transposed", 1): nn.ConvTranspose1d,
    ("conv-transposed", 2): nn.ConvTranspose2d,
    ("conv-transposed", 3): nn.ConvTranspose3d,
}


def by_hand(weight: Tensor, transposed: bool, groups: int) -> list[Tensor]:
    """Return each group's kernels (d_out, d_in, positions), entry by entry of the weight."""
    per_group = weight.shape[0] // groups
    parts = []
    for group in range(groups):
        rows = [weight[group * per_group + i].flatten(1) for i in range(per_group)]
        parts.append(torch.stack(rows, dim=1 if transposed else 0))
    return parts


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("name", ["conv", "conv-transposed"])
def test_convolution_of_modules(
    name: str, kernel: tuple[int, ...], channels: tuple[int, int, int]
) -> None:
    d_in, d_out, groups = channels
    module = _KINDS[name, len(kernel)](d_in, d_out, kernel, groups=groups, bias=False).double()
    norm, weight = make_norm("conv-spectral"), module.weight.detach()
    layout = norm.layout(name, groups=groups)
    parts = by_hand(weight, name == "conv-transposed", groups)
    for part in parts:  # d_in is that of one group
        assert part.shape == (d_out // groups, d_in // groups, math.prod(kernel))
    events, row = layout.to_events(weight, 3), TABLE["conv-spectral"]
    for got, formula in ((norm.norm(events), row.norm), (norm.dual_norm(events), row.dual_norm)):
        wanted = torch.tensor([formula(part) for part in parts], dtype=torch.float64)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)
    wanted = RHO * torch.stack([row.lmo(part) for part in parts])
    torch.testing.assert_close(norm.lmo(events, RHO), wanted, rtol=1e-10, atol=1e-11)
    move = layout.from_events(norm.lmo(events, RHO), weight.shape)
    back = torch.stack(by_hand(move, name == "conv-transposed", groups))
    torch.testing.assert_close(back, wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["spectral", "scaled-sign", "row-norm", "col-norm"])
@pytest.mark.parametrize("layout", ["conv", "conv-transposed"])
def test_matrix_norms_see_positions_as_inputs(name: str, layout: str) -> None:
    norm, weight = make_norm(name), gaussian((4, 6, 2, 3), 0)
    read = norm.layout(layout, groups=2).to_events(weight, norm.event_ndim)
    parts = [part.flatten(1) for part in by_hand(weight, layout == "conv-transposed", 2)]
    wanted = torch.tensor([TABLE[name].norm(part) for part in parts], dtype=torch.float64)
    torch.testing.assert_close(norm.norm(read), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["col-norm", "sign", "embedding-spectral"])
def test_embedding_is_the_transpose_of_its_weight(name: str) -> None:
    """d_in is the vocabulary, d_out the width."""
    embedding, norm = nn.Embedding(9, 4).double(), make_norm(name)
    weight = embedding.weight.detach()
    layout, row = norm.layout("table"), TABLE[name]
    events = layout.to_events(weight, 2)
    assert norm.norm(events).item() == pytest.approx(row.norm(weight.T), rel=1e-12)
    assert norm.dual_norm(events).item() == pytest.approx(row.dual_norm(weight.T), rel=1e-12)
    move = layout.from_events(norm.lmo(events, RHO), weight.shape)
    torch.testing.assert_close(move, RHO * row.lmo(weight.T).T, rtol=1e-10, atol=1e-11)
    if name == "col-norm":  # every token's vector has root mean square RHO
        size = move.square().mean(1).sqrt()
        torch.testing.assert_close(size, torch.full_like(size, RHO), rtol=1e-12, atol=0)


# --- initialisation ---

_SHAPES: dict[str, list[tuple[dict[str, Any], tuple[int, ...]]]] = {
    "matrix": [({}, (6, 4)), ({"split_sizes": (3, 1, 2)}, (6, 4))],
    "transposed": [({}, (6, 4)), ({"split_sizes": (3, 1)}, (6, 4))],
    "batch": [({}, (3, 6, 4)), ({"split_sizes": (4, 2)}, (3, 6, 4))],
    "batch-transposed": [({}, (3, 6, 4)), ({"split_sizes": (3, 1)}, (3, 6, 4))],
    "table": [({}, (9, 4)), ({}, (4,)), ({}, (2, 3, 4)), ({"split_sizes": (3, 1)}, (9, 4))],
    "conv": [({}, (6, 4, 3)), ({"groups": 2}, (6, 4, 3, 2)), ({"groups": 6}, (6, 1, 1, 2, 3))],
    "conv-transposed": [({}, (6, 4, 3)), ({"groups": 2}, (6, 4, 3, 2)), ({"groups": 6}, (6, 1, 5))],
    "vector": [({}, (7,)), ({"split_sizes": (4, 3)}, (7,))],
    "whole": [({}, ()), ({}, (7,)), ({}, (2, 3, 4))],
}
INITS = [(n, layout) for n in NORM_NAMES for layout in fitting_layouts(NORMS[n].event_ndim)]


@pytest.mark.parametrize(("name", "layout"), INITS)
def test_boundary_initialisation(name: str, layout: str) -> None:
    norm = make_norm(name)
    for (settings, shape), strided in itertools.product(_SHAPES[layout], (False, True)):
        x = torch.full(shape, torch.nan, dtype=torch.float64)
        if strided:
            order = tuple(reversed(range(len(shape))))
            x = x.permute(order).contiguous().permute(order)
        read, p = norm.layout(layout, **settings), nn.Parameter(x)
        assert norm.init_(p, RHO, torch.Generator().manual_seed(0), read) is p
        for block in read.blocks(p.detach()):
            size = norm.norm(read.to_events(block, norm.event_ndim))
            wanted = torch.full_like(size, 0.0 if name == "bias-rms" else RHO)
            torch.testing.assert_close(
                size, wanted, rtol=1e-12, atol=0, msg=f"{settings} {shape} {strided=}: {size}"
            )


def test_initialisation_of_a_convolution_is_semi_orthogonal() -> None:
    """c times semi-orthogonal M, group by group, with c = sqrt(out / in) / prod(k)."""
    norm, weight = make_norm("conv-spectral"), torch.empty(6, 4, 3, 1, dtype=torch.float64)
    norm.init_(weight, RHO, torch.Generator().manual_seed(0), norm.layout(groups=2))
    for part in by_hand(weight, False, 2):
        values = torch.linalg.svdvals(part.flatten(1))
        wanted = torch.full_like(values, RHO * math.sqrt(3 / 4) / 3)
        torch.testing.assert_close(values, wanted, rtol=1e-12, atol=0)


def test_blocks_are_drawn_one_by_one() -> None:
    norm = make_norm("spectral")
    fused, parts = torch.empty(6, 4), [torch.empty(2, 4), torch.empty(4, 4)]
    one, many = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    norm.init_(fused, 1.0, one, norm.layout(split_sizes=(2, 4)))
    for part in parts:
        norm.init_(part, 1.0, many)
    assert torch.equal(fused, torch.cat(parts))


@pytest.mark.parametrize("name", NORM_NAMES)
def test_default_layout(name: str) -> None:
    norm = make_norm(name)
    shape = {1: (5,), 2: (5, 4), 3: (5, 4, 3, 2)}[norm.event_ndim]
    assert norm.layout().event_shapes(Size(shape), norm.event_ndim)
    assert norm.layout() == Layout(name=norm.layout().name)
