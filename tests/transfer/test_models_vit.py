"""The vision transformer: patches at positions, read by a class token."""

from typing import Any

import pytest
import torch
from torch import Tensor

from transfer.config import AdamWConfig, DataShape, ScionConfig, VitConfig
from transfer.families import Family
from transfer.models.blocks import Block, rms_norm
from transfer.models.vit import Vit
from transfer.roles import DEFAULT_RULES, init_parameters

SHAPE = DataShape(kind="images", inputs=(3, 8, 12), outputs=5)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def vit(width: int = 16, depth: int = 2, **settings: Any) -> Vit:
    """Return a small vision transformer in float64."""
    config = VitConfig(**{"patch": 4, "head_dim": 8, **settings})
    return Vit(config, SHAPE, width, depth).double()


def images(batch: int = 3) -> Tensor:
    """Return random images."""
    return torch.randn(batch, *SHAPE.inputs, dtype=torch.float64)


def with_patches_swapped(x: Tensor) -> Tensor:
    """Exchange the first two patches of every row."""
    return torch.cat([x[..., 4:8], x[..., :4], x[..., 8:]], dim=-1)


def swapped_in_first_row(x: Tensor) -> Tensor:
    """Exchange the two patches in the upper left, and nothing else."""
    return torch.cat([with_patches_swapped(x[..., :4, :]), x[..., 4:, :]], dim=-2)


@pytest.mark.parametrize(("patch", "num_patches"), [(1, 96), (2, 24), (4, 6)])
def test_shapes(patch: int, num_patches: int) -> None:
    model = vit(24, 1, patch=patch)
    assert model(images(2)).shape == (2, 5)
    assert model.positions.shape == (num_patches + 1, 24)
    assert model.class_token.shape == (1, 24)
    assert model.patches.weight.shape == (24, 3, patch, patch)


def test_patches_are_linear_maps_of_separate_pieces() -> None:
    """What the blocks are given: the class token, then the patches row by row, plus positions."""
    model, x = vit(), images()
    given: list[Tensor] = []
    first = next(module for module in model.modules() if isinstance(module, Block))
    first.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    model(x)
    assert given[0].shape == (3, 7, 16)
    matrix = model.patches.weight.flatten(1)
    for index in range(6):
        row, column = divmod(index, 3)
        piece = x[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        expected = piece @ matrix.T + model.positions[index + 1]
        torch.testing.assert_close(given[0][:, index + 1], expected)
    token = (model.class_token[0] + model.positions[0]).expand(3, -1)
    torch.testing.assert_close(given[0][:, 0], token)


def test_the_head_reads_the_class_token() -> None:
    """Without blocks to look at the patches, the logits are those of the token alone."""
    model = vit(zero_residual=True)
    logits = model(images())
    own = model.head(rms_norm(model.class_token[0] + model.positions[0]))
    torch.testing.assert_close(logits, own.expand(3, -1))
    assert own.abs().max() > 1e-3


def test_every_patch_reaches_the_logits() -> None:
    model, x = vit(depth=1), images(1).requires_grad_()
    model(x).square().sum().backward()
    assert x.grad is not None and x.grad.abs().min() > 0


def test_positions_matter() -> None:
    """Only positions tell the patches apart: without them, their order is nothing."""
    model, x = vit(), images()
    other = swapped_in_first_row(x)
    assert not torch.equal(x, other)
    assert (model(x) - model(other)).abs().max() > 1e-5
    with torch.no_grad():
        model.positions.zero_()
    torch.testing.assert_close(model(x), model(other))


def test_class_token_matters() -> None:
    model, x = vit(), images()
    before = model(x)
    with torch.no_grad():
        model.class_token.add_(torch.randn_like(model.class_token))
    assert (model(x) - before).abs().max() > 1e-3


def test_all_patches_see_all() -> None:
    """Gradients of the last patch's channels reach the first patch and the other way round."""
    model = vit(depth=1)
    (block,) = [module for module in model.modules() if isinstance(module, Block)]
    x = torch.randn(1, 7, 16, dtype=torch.float64, requires_grad=True)
    for read in (0, -1):
        (grad,) = torch.autograd.grad(block(x)[0, read].sum(), x)
        assert (grad[0].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("start", ["built", "scion", "adamw", "adamw keep"])
def test_zero_residual_makes_every_block_the_identity(start: str) -> None:
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    for zero in (True, False):
        model = vit(zero_residual=zero)
        table = Family(model.config, SHAPE).table(model, 16, 2)
        if start == "scion":
            rules = {role: DEFAULT_RULES[role] for role in model.config.roles(2)}
            init_parameters(model, table, ScionConfig(roles=rules))
        elif start != "built":
            keep = "keep" in start
            init_parameters(model, table, AdamWConfig(init="keep" if keep else "fan-in"))
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        assert [torch.equal(block(x), x) for block in blocks] == [zero, zero]


@pytest.mark.parametrize(("residual", "factor"), [("1", 1), ("1/sqrt(L)", 0.5), ("1/L", 0.25)])
def test_residual_multipliers(residual: Any, factor: float) -> None:
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    for block in vit(depth=4, residual=residual).modules():
        if isinstance(block, Block):
            middle = x + factor * block.attention(rms_norm(x))
            torch.testing.assert_close(block(x), middle + factor * block.mlp(rms_norm(middle)))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"^width must be a multiple of .*head_dim = 8, got 12$"):
        Family(VitConfig(patch=4, head_dim=8), SHAPE).build(12, 2)
    for patch in (3, 8, 16):
        message = rf"^patch must be a divisor of 8 and 12 pixels, got {patch}$"
        with pytest.raises(ValueError, match=message):
            Family(VitConfig(patch=patch), SHAPE)
    for name in ("patch", "head_dim"):
        settings: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, got 0$"):
            VitConfig(**settings)
    tokens = DataShape(kind="tokens", inputs=(16,), outputs=5)
    with pytest.raises(ValueError, match="^model family vit needs data of images, got .* tokens$"):
        Family(VitConfig(), tokens)
