"""The decoder: causal, with positions that matter by distance alone, and branches as configured."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfer.config import AdamWConfig, DataShape, GptConfig, OptimizerConfig, ScionConfig
from transfer.families import Family
from transfer.models.blocks import Attention, Block, FeedForward, rms_norm, turns
from transfer.models.blocks import rotary as turned
from transfer.models.gpt import Gpt
from transfer.roles import DEFAULT_RULES, init_parameters

T, V = 6, 11
SHAPE = DataShape(kind="tokens", inputs=(T,), outputs=V)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def gpt(width: int = 16, depth: int = 2, **settings: Any) -> Gpt:
    """Return a small decoder in float64."""
    config = GptConfig(**{"head_dim": 8, **settings})
    return Gpt(config, SHAPE, width, depth).double()


def blocks_of(model: nn.Module) -> list[Block]:
    """Return the blocks of a model."""
    return [module for module in model.modules() if isinstance(module, Block)]


def rotary(x: Tensor) -> Tensor:
    """Turn queries or keys by their positions."""
    return turned(x, turns(x.shape[-2], x.shape[-1]))


def tokens(batch: int = 3) -> Tensor:
    """Return random sequences."""
    return torch.randint(0, V, (batch, T))


def scion(model: Gpt) -> ScionConfig:
    """Return Scion with the recommended rules of the roles that a model has."""
    return ScionConfig(roles={role: DEFAULT_RULES[role] for role in model.config.roles(2)})


def initialise(model: Gpt, config: OptimizerConfig) -> None:
    """Initialise a model as a run does."""
    init_parameters(model, Family(model.config, SHAPE).table(model, 16, 2), config)


@pytest.mark.parametrize("settings", [{}, {"tied": True}, {"activation": "relu-squared"}])
@pytest.mark.parametrize("width", [8, 16, 24])
def test_shapes(width: int, settings: dict[str, Any]) -> None:
    model = gpt(width, 3, **settings)
    assert model(tokens(5)).shape == (5, T, V)
    assert model(tokens(1)[:, :2]).shape == (1, 2, V)
    assert len(blocks_of(model)) == 3


@pytest.mark.parametrize("changed", range(T))
def test_no_position_sees_a_later_one(changed: int) -> None:
    model, x = gpt(), tokens(1)
    other = x.clone()
    other[0, changed] = (x[0, changed] + 1) % V
    before, after = model(x)[0], model(other)[0]
    torch.testing.assert_close(before[:changed], after[:changed], rtol=0, atol=1e-12)
    differs = (before - after).abs().amax(-1)[changed:]
    assert (differs > 1e-4).all(), differs


def test_a_token_is_read_where_it_stands() -> None:
    """Without positions, the last logits would not know in which order the others came."""
    model, x = gpt(depth=1), torch.tensor([[1, 2, 3, 4, 5, 6]])
    swapped = x[:, [1, 0, 2, 3, 4, 5]]
    assert (model(x)[0, -1] - model(swapped)[0, -1]).abs().max() > 1e-4


def test_turned_products_depend_on_distance_alone() -> None:
    q, k = (torch.randn(8, dtype=torch.float64).expand(1, 1, 20, 8) for _ in range(2))
    products = (rotary(q) @ rotary(k).transpose(-1, -2))[0, 0]
    torch.testing.assert_close(products[1:, 1:], products[:-1, :-1], rtol=0, atol=1e-12)
    distances = products[0]
    assert (distances[:, None] - distances).abs().fill_diagonal_(1).min() > 1e-6
    assert products[0, 0].item() == pytest.approx((q[0, 0, 0] @ k[0, 0, 0]).item())


def test_turning_keeps_norms() -> None:
    x = torch.randn(2, 3, 50, 8, dtype=torch.float64)
    torch.testing.assert_close(rotary(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-12, atol=0)


def test_turning_in_bfloat16_tells_far_positions_apart() -> None:
    """Positions themselves, in bfloat16, would be rounded to multiples of 4 here."""
    x = torch.randn(8).bfloat16().expand(1, 1, 700, 8)
    torch.testing.assert_close(rotary(x).float(), rotary(x.float()), rtol=0.02, atol=0.04)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_in_words(causal: bool) -> None:
    """Head by head and position by position, as the formula says."""
    attention = Attention(16, 8, T if causal else None).double()
    x = torch.randn(1, T, 16, dtype=torch.float64)
    q, k, v = (f(x)[0] for f in (attention.query, attention.key, attention.value))
    mixed = torch.zeros(T, 16, dtype=torch.float64)
    for part in (slice(0, 8), slice(8, 16)):
        queries, keys = q[:, part], k[:, part]
        if causal:
            queries, keys = (rotary(rms_norm(y)[None, None])[0, 0] for y in (queries, keys))
        for t in range(T):
            seen = t + 1 if causal else T
            weights = (keys[:seen] @ queries[t] / 8**0.5).softmax(0)
            mixed[t, part] = weights @ v[:seen, part]
    torch.testing.assert_close(attention(x)[0], attention.project(mixed))


@pytest.mark.parametrize("width", [8, 16, 32])
def test_heads_grow_in_number_not_in_size(width: int) -> None:
    """What the first 8 rows of the queries say reaches the first 8 mixed channels alone."""
    attention = Attention(width, 8, T)
    mixed: list[Tensor] = []
    attention.project.register_forward_pre_hook(lambda _, args: mixed.append(args[0]))
    x = torch.randn(1, T, width)
    attention(x)
    with torch.no_grad():
        attention.query.weight[:8] = torch.randn(8, width)
    attention(x)
    changed = (mixed[0] != mixed[1]).flatten(0, 1).any(0)
    assert changed.tolist() == [True] * 8 + [False] * (width - 8)


@pytest.mark.parametrize("activation", ["gelu", "relu-squared"])
def test_activations(activation: Any) -> None:
    mlp = FeedForward(16, activation).double()
    seen: list[Tensor] = []
    mlp.expand.register_forward_hook(lambda _, args, out: seen.append(out))
    mlp.project.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mlp(5 * torch.randn(1, T, 16, dtype=torch.float64))
    before, after = seen
    assert before.shape[-1] == 64
    gelu = 2**0.5 * before * torch.special.ndtr(before)
    expected = gelu if activation == "gelu" else 2 * before.clamp(min=0) ** 2
    torch.testing.assert_close(after, expected)


def test_tied_tensor_is_one_parameter() -> None:
    model, apart = gpt(tied=True), gpt()
    names = dict(model.named_parameters())
    assert "head.weight" not in names and model.head.weight is names["embedding.weight"]
    count = sum(p.numel() for p in apart.parameters()) - sum(p.numel() for p in names.values())
    assert count == V * 16
    with torch.no_grad():
        names["embedding.weight"].zero_()
    assert not model(tokens()).any()


def test_tied_tensor_starts_as_a_linear_layer() -> None:
    """N(0, 1), as embeddings start, would give logits of size sqrt(width)."""
    shape = DataShape(kind="tokens", inputs=(T,), outputs=300)
    family = Family(GptConfig(head_dim=8, tied=True), shape)
    model = family.build(64, 1)
    weight = dict(model.named_parameters())["embedding.weight"]
    assert weight.std().item() == pytest.approx((3 * 64) ** -0.5, rel=0.05)
    init_parameters(model, family.table(model, 64, 1), AdamWConfig())
    assert weight.std().item() == pytest.approx(64**-0.5, rel=0.05)


@pytest.mark.parametrize("start", ["built", "scion", "adamw", "adamw keep"])
@pytest.mark.parametrize("tied", [False, True])
def test_zero_residual_makes_every_block_the_identity(start: str, tied: bool) -> None:
    x = torch.randn(2, T, 16, dtype=torch.float64)
    for zero in (True, False):
        model = gpt(zero_residual=zero, tied=tied)
        if start != "built":
            adamw = AdamWConfig(init="keep" if "keep" in start else "fan-in")
            initialise(model, scion(model) if start == "scion" else adamw)
        same = [torch.equal(block(x), x) for block in blocks_of(model)]
        assert same == [zero, zero]
        zeros = {name for name, p in model.named_parameters() if not p.any()}
        ends = {name for name, _ in model.named_parameters() if name.endswith("project.weight")}
        assert zeros == (ends if zero else set()) and len(ends) == 4


@pytest.mark.parametrize(("residual", "factor"), [("1", 1), ("1/sqrt(L)", 0.5), ("1/L", 0.25)])
@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_residual_multipliers(residual: Any, factor: float, branch: str) -> None:
    """Each branch adds its output times the multiplier; the other one is off."""
    model = gpt(depth=4, residual=residual)
    x = torch.randn(2, T, 16, dtype=torch.float64)
    for block in blocks_of(model):
        off = block.mlp if branch == "attention" else block.attention
        nn.init.zeros_(off.project.weight)
        kept = block.attention if branch == "attention" else block.mlp
        torch.testing.assert_close(block(x), x + factor * kept(rms_norm(x)))


def test_size_of_the_embedding_does_not_matter() -> None:
    """All is normalised before it is read: only the directions of embeddings count, with no block
    to compare them with."""
    model, x = gpt(zero_residual=True), tokens()
    before = model(x)
    with torch.no_grad():
        model.embedding.weight *= 10
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"^width must be a multiple of .*head_dim = 8, got 12$"):
        Family(GptConfig(head_dim=8), SHAPE).build(12, 2)
    for head_dim in (7, 0, -2):
        with pytest.raises(ValueError, match=rf"^head_dim must be even .*got {head_dim}$"):
            GptConfig(head_dim=head_dim)
    images = DataShape(kind="images", inputs=(3, 32, 32), outputs=10)
    with pytest.raises(ValueError, match="^model family gpt needs data of tokens, got .* images$"):
        Family(GptConfig(), images)
