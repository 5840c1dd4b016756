"""Layouts find the matrices in parameters, give them back, and say what does not fit."""

from typing import Any

import pytest
import torch
from torch import Size, Tensor, nn

from transfer.layouts import LAYOUT_NAMES, Layout, default_layout, fitting_layouts

# Settings, shape, dimensions of an event.
CASES: list[tuple[dict[str, Any], tuple[int, ...], int]] = [
    ({"name": "matrix"}, (4, 6), 2),
    ({"name": "matrix", "split_sizes": (3, 1, 2)}, (6, 5), 2),
    ({"name": "transposed"}, (4, 6), 2),
    ({"name": "transposed", "split_sizes": (3, 1, 2)}, (5, 6), 2),
    ({"name": "batch"}, (3, 4, 6), 2),
    ({"name": "batch", "split_sizes": (1, 3)}, (2, 3, 4, 6), 2),
    ({"name": "batch-transposed"}, (3, 4, 6), 2),
    ({"name": "batch-transposed", "split_sizes": (4, 2)}, (3, 4, 6), 2),
    ({"name": "table"}, (7, 4), 2),
    ({"name": "table"}, (4,), 2),
    ({"name": "table"}, (2, 3, 4), 2),
    ({"name": "table", "split_sizes": (3, 1)}, (2, 3, 4), 2),
    *(
        ({"name": name, "groups": groups}, (4, 6, *kernel), event_ndim)
        for name in ("conv", "conv-transposed")
        for groups in (1, 2, 4)
        for kernel in ((3,), (1, 5), (2, 3, 2))
        for event_ndim in (2, 3)
    ),
    ({"name": "vector"}, (5,), 1),
    ({"name": "vector", "split_sizes": (2, 3)}, (5,), 1),
    ({"name": "whole"}, (), 1),
    ({"name": "whole"}, (5,), 1),
    ({"name": "whole"}, (2, 3, 4), 1),
]
IDS = [
    f"{k['name']}-{'x'.join(map(str, s))}-s{k.get('split_sizes', ())}-g{k.get('groups', 1)}-{n}"
    for k, s, n in CASES
]
every_case = pytest.mark.parametrize(("settings", "shape", "event_ndim"), CASES, ids=IDS)


def numbered(shape: tuple[int, ...], strides: str = "contiguous") -> Tensor:
    """Return 0, 1, 2, ... in this shape, however it lies in memory."""
    x = torch.arange(Size(shape).numel(), dtype=torch.float64).reshape(shape)
    match strides:
        case "channels_last":
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            return x.contiguous(memory_format=formats.get(x.ndim, torch.contiguous_format))
        case "reversed":
            order = tuple(reversed(range(x.ndim)))
            return x.permute(order).contiguous().permute(order)
        case "slice":
            wide = torch.full((*shape, 2), torch.nan, dtype=x.dtype)
            wide[..., 0] = x
            return wide[..., 0]
    return x


@pytest.mark.parametrize("strides", ["contiguous", "channels_last", "reversed", "slice"])
@every_case
def test_there_and_back(
    settings: dict[str, Any], shape: tuple[int, ...], event_ndim: int, strides: str
) -> None:
    layout, x = Layout(**settings), numbered(shape, strides)
    before = x.clone()
    blocks = layout.blocks(x)
    for block, event_shape in zip(blocks, layout.event_shapes(x.shape, event_ndim), strict=True):
        events = layout.to_events(block, event_ndim)
        assert tuple(events.shape[events.ndim - event_ndim :]) == event_shape
        assert sorted(events.flatten().tolist()) == sorted(block.flatten().tolist())
        assert torch.equal(layout.from_events(events, block.shape), block)
        # Oracles answer with their own strides.
        assert torch.equal(layout.from_events(events.contiguous(), block.shape), block)
    assert torch.equal(x, before)
    for number, block in enumerate(blocks):
        block.fill_(-1.0 - number)
    assert (x < 0).all(), "blocks must be views of all of the parameter"
    assert len(x.unique()) == len(blocks)


@every_case
def test_event_shapes_without_data(
    settings: dict[str, Any], shape: tuple[int, ...], event_ndim: int
) -> None:
    layout, x = Layout(**settings), torch.empty(shape, device="meta")
    shapes = [tuple(layout.to_events(b, event_ndim).shape)[-event_ndim:] for b in layout.blocks(x)]
    assert shapes == layout.event_shapes(x.shape, event_ndim)


# --- d_out and d_in are what the module does with its weight ---


def only(layout: Layout, x: Tensor, event_ndim: int) -> Tensor:
    """Return the events of a parameter of one block."""
    (block,) = layout.blocks(x)
    return layout.to_events(block, event_ndim)


def test_matrix_and_transposed_map_d_in_to_d_out() -> None:
    linear = nn.Linear(5, 3, bias=False).double()
    x = torch.randn(5, dtype=torch.float64)
    wanted = linear(x)
    torch.testing.assert_close(only(Layout(), linear.weight, 2) @ x, wanted)
    flipped = linear.weight.T.contiguous()  # as GPT-2's Conv1D, which computes x @ weight
    torch.testing.assert_close(only(Layout(name="transposed"), flipped, 2) @ x, wanted)
    experts = torch.stack([linear.weight, 2 * linear.weight])
    torch.testing.assert_close((only(Layout(name="batch"), experts, 2) @ x)[1], 2 * wanted)
    assert Layout(name="batch-transposed").event_shapes(experts.mT.shape, 2) == [(3, 5)]


def test_table_maps_one_hot_to_rows() -> None:
    embedding = nn.Embedding(7, 4).double()
    one_hot = torch.eye(7, dtype=torch.float64)[5]
    matrix = only(Layout(name="table"), embedding.weight, 2)
    assert torch.equal(matrix @ one_hot, embedding(torch.tensor(5)))
    assert Layout(name="table").event_shapes(Size((2, 3, 4)), 2) == [(4, 6)]


def test_split_blocks_are_the_fused_projections() -> None:
    x = torch.randn(6, dtype=torch.float64)
    weight = torch.randn(8, 6, dtype=torch.float64)
    q, k, v = (weight @ x).split((4, 2, 2))
    for name, stored in (("matrix", weight), ("transposed", weight.T)):
        layout = Layout(name=name, split_sizes=(4, 2, 2))  # type: ignore[arg-type]
        blocks = [layout.to_events(block, 2) for block in layout.blocks(stored)]
        for block, wanted in zip(blocks, (q, k, v), strict=True):
            torch.testing.assert_close(block @ x, wanted)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kernel", [(3,), (1, 4), (2, 3, 2)])
def test_conv_events_are_operators_of_patches(kernel: tuple[int, ...], groups: int) -> None:
    """On an input as large as the kernel, a convolution is its matrix M, group by group."""
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
    module: Any = kind(6, 12, kernel, groups=groups, bias=False).double()  # type: ignore[arg-type]
    x = torch.randn(6, *kernel, dtype=torch.float64)
    matrices = only(Layout(name="conv", groups=groups), module.weight, 2)
    assert matrices.shape == (groups, 12 // groups, x.numel() // groups)
    got = (matrices @ x.reshape(groups, -1, 1)).flatten()
    torch.testing.assert_close(got, module(x.unsqueeze(0)).flatten())


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kernel", [(3,), (1, 4), (2, 3, 2)])
def test_transposed_conv_events_are_operators_of_points(
    kernel: tuple[int, ...], groups: int
) -> None:
    kinds = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    module: Any = kinds[len(kernel)](6, 12, kernel, groups=groups, bias=False).double()  # type: ignore[arg-type]
    x = torch.randn(6, dtype=torch.float64)
    kernels = only(Layout(name="conv-transposed", groups=groups), module.weight, 3)
    got = torch.einsum("goik,gi->gok", kernels, x.reshape(groups, -1)).flatten()
    wanted = module(x.reshape(1, 6, *(1 for _ in kernel))).flatten()
    torch.testing.assert_close(got, wanted)


# --- names ---


def test_every_layout_is_tried() -> None:
    assert {settings["name"] for settings, _, _ in CASES} == set(LAYOUT_NAMES)


def test_defaults_fit() -> None:
    for event_ndim in (1, 2, 3):
        assert default_layout(event_ndim, False) in fitting_layouts(event_ndim)
    assert default_layout(1, True) == "whole"


# --- errors ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "matrx"}, "layout must be one of .*'matrx'; did you mean 'matrix'"),
        ({"split_sizes": (2, 0)}, r"split_sizes must be positive whole numbers, got \(2, 0\)"),
        ({"split_sizes": (-1,)}, "split_sizes must be positive"),
        ({"split_sizes": (2.0,)}, "split_sizes must be positive whole numbers"),
        ({"split_sizes": (True,)}, "split_sizes must be positive whole numbers"),
        ({"name": "conv", "groups": 0}, "groups must be a whole number, at least 1, got 0"),
        ({"name": "conv", "groups": 2.0}, "groups must be a whole number, at least 1, got 2.0"),
        ({"groups": 2}, "groups must be 1 in layout 'matrix', got 2"),
        ({"name": "conv", "split_sizes": (2, 2)}, "split_sizes must be empty in layout 'conv'"),
        ({"name": "whole", "split_sizes": (2,)}, "split_sizes must be empty in layout 'whole'"),
    ],
)
def test_settings_refused(settings: dict[str, Any], message: str) -> None:
    layout = Layout()
    for key, value in settings.items():
        # Where calls are type-checked, the constructor would not even be entered.
        object.__setattr__(layout, key, value)
    with pytest.raises(ValueError, match=message):
        layout.__post_init__()


@pytest.mark.parametrize(
    ("settings", "shape", "event_ndim", "message"),
    [
        (
            {"name": "matrix"},
            (8, 4, 3, 3),
            2,
            r"layout 'matrix' needs a tensor \(d_out, d_in\), got shape \(8, 4, 3, 3\); layouts "
            "for 4 dimensions: batch, batch-transposed, table, conv, conv-transposed$",
        ),
        ({"name": "matrix"}, (8,), 2, r"got shape \(8,\); layouts for 1 dimensions: table$"),
        ({"name": "matrix"}, (), 2, "layouts for 0 dimensions: none with this norm$"),
        ({"name": "batch"}, (8, 4), 2, "layouts for 2 dimensions: matrix, transposed, table$"),
        ({"name": "conv"}, (8, 4), 3, "layouts for 2 dimensions: none with this norm$"),
        ({"name": "conv"}, (8, 4, 1, 1, 1, 1), 3, "needs a tensor .*kernel"),
        ({"name": "vector"}, (8, 4), 1, "layouts for 2 dimensions: whole$"),
        (
            {"name": "matrix"},
            (0, 4),
            2,
            r"layout 'matrix' of shape \(0, 4\): a parameter without entries",
        ),
        ({"name": "whole"}, (0,), 1, r"layout 'whole' of shape \(0,\): a parameter without"),
        ({"name": "conv"}, (4, 4, 0), 3, r"layout 'conv' of shape \(4, 4, 0\): a parameter"),
        (
            {"name": "vector"},
            (5,),
            2,
            r"norm of matrices must be one of matrix, .*, got 'vector' for shape \(5,\)",
        ),
        (
            {"name": "matrix"},
            (5, 4),
            1,
            r"norm of vectors must be one of vector, whole, got 'matrix' for shape \(5, 4\)",
        ),
        (
            {"name": "matrix"},
            (5, 4),
            3,
            "norm of convolutions must be one of conv, conv-transposed, got 'matrix'",
        ),
        (
            {"name": "matrix", "split_sizes": (2, 2)},
            (6, 9),
            2,
            r"layout 'matrix' of shape \(6, 9\): split_sizes must add up to d_out, 6, got "
            r"\(2, 2\), together 4",
        ),
        ({"name": "transposed", "split_sizes": (2, 2)}, (4, 9), 2, "add up to d_out, 9"),
        ({"name": "batch", "split_sizes": (2, 2)}, (4, 9, 5), 2, "add up to d_out, 9"),
        ({"name": "table", "split_sizes": (2, 2)}, (4, 9), 2, "add up to d_out, 9"),
        ({"name": "vector", "split_sizes": (2, 2)}, (5,), 1, "add up to d_out, 5"),
        (
            {"name": "conv", "groups": 3},
            (8, 4, 3),
            3,
            r"layout 'conv' of shape \(8, 4, 3\): groups must divide the first dimension, 8, got 3",
        ),
        ({"name": "conv-transposed", "groups": 3}, (8, 3, 3), 3, "groups must divide .* 8, got 3"),
    ],
)
def test_shapes_refused(
    settings: dict[str, Any], shape: tuple[int, ...], event_ndim: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(**settings).event_shapes(Size(shape), event_ndim)
