"""Roles follow from the module types and from what grows between two widths."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from transfer.config import (
    DataShape,
    MlpConfig,
    RoleConfig,
    ScionConfig,
)
from transfer.families import Family
from transfer.norms import make_norm
from transfer.optimizers import Scion
from transfer.roles import (
    DEFAULT_RULES,
    infer_roles,
    init_parameters,
    parameter_groups,
    stated_table,
)

SHAPE = DataShape(kind="vectors", inputs=(12,), outputs=12)


class Everything(nn.Module):
    """One parameter of every kind: width `w`, 11 inputs, 5 classes, 7 tokens."""

    def __init__(self, w: int, blocks: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, w)
        self.class_token = nn.Parameter(torch.zeros(1, 1, w))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 9, w))
        self.patches = nn.Conv2d(3, w, kernel_size=4, stride=4)
        self.stem = nn.Conv2d(3, w, kernel_size=(3, 5), padding=1)
        self.audio = nn.Conv1d(w, 2 * w, 3, groups=2)
        self.volume = nn.Conv3d(w, w, 3, groups=w, bias=False)
        self.up = nn.ConvTranspose2d(w, w // 2, 2, stride=2)
        self.dense = nn.Linear(11, w)
        self.blocks = nn.ModuleList(Block(w) for _ in range(blocks))
        self.recurrent = nn.LSTM(w, w)
        self.batch_norm = nn.BatchNorm2d(w)
        self.rms = nn.RMSNorm(w)
        self.temperature = nn.Parameter(torch.ones(()))
        self.layer_scale_gamma = nn.Parameter(torch.ones(w))
        self.head = nn.Linear(w, 5)


class Block(nn.Module):
    """Attention with a fused in-projection, a router, and a fused gate."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(w)
        self.attention = nn.MultiheadAttention(w, 2)
        self.qkv = nn.Linear(w, 3 * w)
        self.gate_up_proj = nn.Linear(w, 4 * w, bias=False)
        self.router = nn.Linear(w, 3, bias=False)
        self.kv = nn.Linear(w, 2 * w, bias=False)


def table() -> dict[str, tuple[object, ...]]:
    """Return role, norm, d_in, d_out and layout of every parameter of `Everything(16)`."""
    found = infer_roles(Everything(16), Everything(32))
    keys = ("role", "norm", "d_in", "d_out", "layout")
    return {str(r["parameter"]): tuple(r[k] for k in keys) for r in found.to_records()}


EXPECTED = {
    "tokens.weight": ("embedding", "col-norm", 7, 16, "table"),
    "class_token": ("embedding", "col-norm", 1, 16, "table"),
    "position_embeddings": ("embedding", "col-norm", 9, 16, "table"),
    "patches.weight": ("input", "spectral-max", 48, 16, "conv"),
    "patches.bias": ("bias", "bias-rms", 1, 16, "vector"),
    "stem.weight": ("convolution", "conv-spectral", 3, 16, "conv"),
    "audio.weight": ("convolution", "conv-spectral", 8, 16, "conv"),
    "volume.weight": ("convolution", "conv-spectral", 1, 1, "conv"),
    "up.weight": ("convolution", "conv-spectral", 16, 8, "conv-transposed"),
    "dense.weight": ("input", "spectral-max", 11, 16, "matrix"),
    "dense.bias": ("bias", "bias-rms", 1, 16, "vector"),
    "blocks.1.norm.weight": ("gain", "gain-rms", 1, 16, "whole"),
    "blocks.1.norm.bias": ("bias", "bias-rms", 1, 16, "whole"),
    "blocks.1.attention.in_proj_weight": ("hidden", "spectral", 16, 16, "matrix in 3 blocks"),
    "blocks.1.attention.in_proj_bias": ("bias", "bias-rms", 1, 16, "vector in 3 blocks"),
    "blocks.1.attention.out_proj.weight": ("hidden", "spectral", 16, 16, "matrix"),
    "blocks.1.qkv.weight": ("hidden", "spectral", 16, 16, "matrix in 3 blocks"),
    "blocks.1.qkv.bias": ("bias", "bias-rms", 1, 16, "vector in 3 blocks"),
    "blocks.1.gate_up_proj.weight": ("hidden", "spectral", 16, 32, "matrix in 2 blocks"),
    "blocks.1.router.weight": ("hidden", "spectral", 16, 3, "matrix"),
    "recurrent.weight_ih_l0": ("hidden", "spectral", 16, 16, "matrix in 4 blocks"),
    "recurrent.bias_hh_l0": ("bias", "bias-rms", 1, 16, "vector in 4 blocks"),
    "batch_norm.weight": ("gain", "gain-rms", 1, 16, "whole"),
    "batch_norm.bias": ("bias", "bias-rms", 1, 16, "whole"),
    "rms.weight": ("gain", "gain-rms", 1, 16, "whole"),
    "temperature": ("gain", "gain-rms", 1, 1, "whole"),
    "layer_scale_gamma": ("gain", "gain-rms", 1, 16, "whole"),
    "head.weight": ("output", "scaled-sign", 16, 5, "matrix"),
    "head.bias": ("bias", "bias-rms", 1, 5, "vector"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_kind(name: str) -> None:
    assert table()[name] == EXPECTED[name]


def test_every_parameter_has_a_row_and_prints() -> None:
    model = Everything(16)
    found = infer_roles(model, Everything(32))
    assert [row.name for row in found] == [name for name, _ in model.named_parameters()]
    text = str(found)
    assert text.splitlines()[0].split()[:5] == ["parameter", "shape", "role", "norm", "radius"]
    assert "blocks.0.kv.weight" in text and "fused? one block" in text
    assert len(text.splitlines()) == 1 + len(found.rows)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_our_family_states_what_would_be_inferred(depth: int, bias: bool) -> None:
    narrow, wide = (Family(MlpConfig(bias=bias), SHAPE).build(width, depth) for width in (12, 24))
    # Input, width and outputs are of one size: only growth can tell them apart.
    assert infer_roles(narrow, wide).roles == narrow.parameter_roles()


def test_meta_device_and_dtype_do_not_matter() -> None:
    with torch.device("meta"):
        narrow, wide = Everything(16), Everything(32)
    here = infer_roles(Everything(16).double(), Everything(32))
    assert infer_roles(narrow, wide) == here


class Tied(nn.Module):
    """Embedding and head share a tensor; the order of the modules is the caller's."""

    def __init__(self, w: int, head_first: bool) -> None:
        super().__init__()
        if head_first:
            self.head = nn.Linear(w, 50, bias=False)
            self.tokens = nn.Embedding(50, w)
        else:
            self.tokens = nn.Embedding(50, w)
            self.head = nn.Linear(w, 50, bias=False)
        self.head.weight = self.tokens.weight
        self.hidden = nn.Linear(w, w)


@pytest.mark.parametrize("head_first", [True, False])
def test_tied_is_the_head(head_first: bool) -> None:
    (row, *_) = infer_roles(Tied(8, head_first), Tied(16, head_first))
    assert (row.role, row.dims("scaled-sign")) == ("tied", (50, 8))


# torch's compiler warns of torch's own torch.jit when it is first imported.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        copy.deepcopy,
        torch.compile,
        nn.DataParallel,
        lambda model: torch.compile(nn.DataParallel(model)),
    ],
    ids=["deepcopy", "compile", "DataParallel", "both"],
)
def test_copies_and_wrapped_models_keep_their_roles(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    """Keyed by name: nothing hangs on the tensors themselves."""
    model = Tied(8, True)
    found = infer_roles(model, Tied(16, True))
    wrapped = wrap(model)
    groups = parameter_groups(wrapped, found)
    assert {name for group in groups for name, _ in group["params"]} == set(found.roles)
    given = {id(p) for group in groups for _, p in group["params"]}
    assert given == {id(p) for p in wrapped.parameters()}
    bare = {row.name: row for row in found}
    assert "_orig_mod" not in "".join(bare)


def test_groups_initialise_and_step_on_their_spheres() -> None:
    torch.manual_seed(0)
    model = Everything(16)
    found = infer_roles(model, Everything(32))
    named = dict(model.named_parameters())
    for row in found:
        norm = make_norm(row.rule(found.rules).norm)
        norm.init_(named[row.name], 2.0, layout=row.layout_for(row.rule(found.rules).norm))
    before = {name: p.detach().clone() for name, p in named.items()}
    optimizer = Scion(parameter_groups(model, found), lr=0.5, alpha=1.0, polar="svd")
    for p in named.values():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for row in found:
        rule = row.rule(found.rules)
        norm, layout = make_norm(rule.norm), row.layout_for(rule.norm)
        for x, wanted in ((before[row.name], 2.0), (named[row.name] - before[row.name], 0.5)):
            for block in layout.blocks(x.detach()):
                sizes = norm.norm(layout.to_events(block, norm.event_ndim))
                if rule.norm == "bias-rms" and wanted == 2.0:
                    wanted = 0.0
                full = torch.full_like(sizes, wanted)
                torch.testing.assert_close(
                    sizes, full, rtol=1e-4, atol=1e-5, msg=lambda m, r=row: f"{r.name}: {m}"
                )


# --- initialisations that are no norm's ---


@pytest.mark.parametrize(
    ("conv", "factor"),
    [
        (nn.Conv2d(4, 8, 3, bias=False), 2**0.5 / 9),
        (nn.Conv2d(8, 4, (1, 5), bias=False), 0.5**0.5 / 5),
        (nn.Conv1d(8, 8, 2, groups=2, bias=False), 1 / 2),
        (nn.ConvTranspose2d(6, 9, 2, bias=False), 1.5**0.5 / 4),
    ],
)
def test_slicewise_is_semi_orthogonal_at_every_position(conv: nn.Module, factor: float) -> None:
    """As the authors initialise: up to sqrt(prod k) outside the ball."""
    rule = RoleConfig(norm="conv-spectral", radius=3.0, init="slicewise")
    roles = {"0.weight": "convolution"}
    model = nn.Sequential(conv).double()
    config = ScionConfig(roles={"convolution": rule})
    init_parameters(model, roles, config, torch.Generator().manual_seed(0))
    row = stated_table(model, roles)["0.weight"]
    slices = row.layout.to_events(model[0].weight.detach(), 3).movedim(-1, 1)
    values = torch.linalg.svdvals(slices)
    torch.testing.assert_close(values, torch.full_like(values, 3 * factor))
    outside = make_norm("conv-spectral").norm(slices.movedim(1, -1))
    assert (outside > 3.0 * 1.05).all()


def test_slicewise_is_for_convolutions() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    config = ScionConfig(roles={"hidden": RoleConfig(norm="spectral", init="slicewise")})
    with pytest.raises(ValueError, match=r"norm of 0\.weight must be conv-spectral for init slice"):
        init_parameters(model, {"0.weight": "hidden"}, config)


# --- what a name or a number of heads must not decide ---


class Named(nn.Module):
    """Parameters of a module of an unknown type, by name and shape; a dimension of -1 is w."""

    def __init__(self, w: int, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            size = [w if n == -1 else n for n in shape]
            self.register_parameter(name, nn.Parameter(torch.zeros(size)))


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("class_token", (1, 1, -1), "embedding"),
        ("pos_embed", (1, 9, -1), "embedding"),
        ("embed", (-1,), "embedding"),
        ("class_bias", (-1,), "bias"),
        ("embed_scale", (-1,), "gain"),
        ("logit_scale", (), "gain"),
    ],
)
def test_names_by_whole_words(name: str, shape: tuple[int, ...], role: str) -> None:
    shapes = {name: shape, "bias": (-1,)}
    assert infer_roles(Named(8, shapes), Named(16, shapes)).roles[name] == role


@pytest.mark.parametrize(
    ("name", "shape"),
    [("token_mixer", (-1, -1)), ("position_proj", (-1, -1)), ("compose", (-1,)), ("mix", (-1, 3))],
)
def test_names_that_say_nothing(name: str, shape: tuple[int, ...]) -> None:
    shapes = {name: shape, "bias": (-1,)}
    with pytest.raises(ValueError, match=f"no role can be inferred for {name} "):
        infer_roles(Named(8, shapes), Named(16, shapes))


def heads(w: int) -> nn.Module:
    """Return a model with several heads, two of one shape."""
    model = nn.Module()
    model.body = nn.Linear(7, w)
    model.heads = nn.ModuleList([nn.Linear(w, 10), nn.Linear(w, 10), nn.Linear(w, 5)])
    model.fc1, model.fc2 = nn.Linear(w, 4), nn.Linear(w, 4)
    return model


def test_several_heads_are_outputs() -> None:
    roles = infer_roles(heads(8), heads(16)).roles
    names = ["heads.0", "heads.1", "heads.2", "fc1", "fc2"]
    assert {roles[f"{name}.weight"] for name in names} == {"output"}


def test_frozen_parameters_need_no_rule() -> None:
    model = Tied(8, True)
    model.hidden.weight.requires_grad_(False)
    found = infer_roles(model, Tied(16, True))
    assert found["hidden.weight"].role == "hidden" and "frozen" in str(found)
    rules = {role: DEFAULT_RULES[role] for role in ("tied", "bias")}
    assert "hidden" in str(found.with_rules(rules))
    assert {g["role"] for g in parameter_groups(model, found, rules)} == {"tied", "bias"}
