"""What a model costs: closed formulas, published sizes, and the same with real weights."""

import resource
import sys
from typing import Any

import pytest
import torch
from torch import nn

from transfer.config import (
    CnnConfig,
    DataShape,
    GptConfig,
    MlpConfig,
    ModelConfig,
    TokensConfig,
    VitConfig,
)
from transfer.describe import describe, footprint, measure
from transfer.families import Family

TOKENS = DataShape(kind="tokens", inputs=(10,), outputs=11)
IMAGES = DataShape(kind="images", inputs=(3, 32, 32), outputs=10)
VECTORS = DataShape(kind="vectors", inputs=(12,), outputs=7)
MLP, GPT, TIED = MlpConfig(), GptConfig(head_dim=8), GptConfig(head_dim=8, tied=True)
VIT, CNN = VitConfig(patch=8, head_dim=8), CnnConfig()
NANO = GptConfig(head_dim=128, tied=True, activation="relu-squared")


def count(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("width", "depth"), [(16, 2), (24, 3)])
@pytest.mark.parametrize(
    ("config", "shape"),
    [(MLP, VECTORS), (MLP, IMAGES), (GPT, TOKENS), (TIED, TOKENS), (VIT, IMAGES), (CNN, IMAGES)],
    ids=["mlp", "mlp on images", "gpt", "gpt tied", "vit", "cnn"],
)
def test_described_as_measured(
    config: ModelConfig, shape: DataShape, width: int, depth: int
) -> None:
    """Without weights as with weights and examples of random numbers."""
    family = Family(config, shape)
    if shape.kind == "tokens":
        x, y = torch.randint(0, shape.outputs, (2, 2, *shape.inputs))
    else:
        x, y = torch.randn(2, *shape.inputs), torch.randint(0, shape.outputs, (2,))
    model = family.build(width, depth)
    found = measure(model, x, y)
    assert family.describe(width, depth) == found
    parameters, kept = footprint(lambda: family.build(width, depth), shape)
    assert (parameters, kept) == (found.parameters, found.activation_bytes)
    assert found.parameters == count(model)
    assert found.flops > 0 and found.activation_bytes > 0


@pytest.mark.parametrize(("width", "depth"), [(16, 2), (24, 5)])
def test_mlp(width: int, depth: int) -> None:
    """2 a weight forward, 4 backward, but no gradient for the input."""
    found = Family(MLP, VECTORS).describe(width, depth)
    n = 12 * width + (depth - 2) * width**2 + 7 * width
    assert found.parameters == found.parameters_without_embedding == n
    assert found.flops == 6 * n - 2 * 12 * width


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("width", "depth", "length"), [(16, 2, 10), (24, 3, 7)])
def test_gpt(width: int, depth: int, length: int, tied: bool) -> None:
    """Per token: 6 a weight, lookups being free; attention 4 T D forward (scores and mixing, 2 T D
    each, as if all positions saw all) and 10 T D backward (5 products: the scores once more)."""
    shape = DataShape(kind="tokens", inputs=(length,), outputs=11)
    found = Family(TIED if tied else GPT, shape).describe(width, depth)
    hidden, table = 12 * depth * width**2, 11 * width
    assert found.parameters == hidden + table * (1 if tied else 2)
    assert found.parameters_without_embedding == hidden + (0 if tied else table)
    assert found.flops == 6 * (hidden + table) + 14 * depth * length * width


@pytest.mark.parametrize(("width", "depth"), [(16, 2), (24, 3)])
def test_vit(width: int, depth: int) -> None:
    """Per image: 6 a weight and position in the blocks, 4 a weight and patch for the patches (no
    gradient for the image), and the head once."""
    found = Family(VIT, IMAGES).describe(width, depth)
    hidden, patches, head, t = 12 * depth * width**2, 3 * 64 * width, 10 * width, 17
    assert found.parameters == hidden + patches + head + (t + 1) * width
    assert found.parameters_without_embedding == hidden + patches + head
    attention = 14 * depth * t**2 * width
    assert found.flops == 6 * t * hidden + 4 * (t - 1) * patches + 6 * head + attention


@pytest.mark.parametrize(("width", "depth"), [(8, 1), (12, 2)])
def test_cnn(width: int, depth: int) -> None:
    """6 operations a weight and output pixel, 2 for the fixed whitening; maps shrink after the
    first convolution of a stage."""
    found = Family(CNN, IMAGES).describe(width, depth)
    sides, sizes = [31, 15, 7, 3], [24, width, 4 * width, 4 * width]
    flops, weights, biases = 2 * 24 * 12 * 31**2, 0, 24
    for stage in range(3):
        first, rest = 9 * sizes[stage] * sizes[stage + 1], 9 * sizes[stage + 1] ** 2 * (depth - 1)
        flops += 6 * first * sides[stage] ** 2
        flops += 6 * rest * sides[stage + 1] ** 2
        weights, biases = weights + first + rest, biases + depth * sizes[stage + 1]
    head = 10 * 4 * width
    assert found.parameters == found.parameters_without_embedding == weights + biases + head
    assert found.flops == flops + 6 * head


@pytest.mark.parametrize(
    ("width", "depth", "millions"),
    [(512, 12, 64), (768, 12, 124), (1280, 12, 300), (2560, 12, 1070), (2560, 36, 2960)],
)
def test_published_sizes_of_decoders(width: int, depth: int, millions: int) -> None:
    with torch.device("meta"):
        model = Family(NANO, TokensConfig().shape).build(width, depth)
    assert count(model) / 1e6 == pytest.approx(millions, rel=0.04)


@pytest.mark.slow
def test_three_billion_parameters_take_no_memory() -> None:
    """The weights alone would take 12 GB."""
    peak = _peak_bytes()
    found = Family(NANO, TokensConfig().shape).describe(2560, 36)
    assert found.parameters == 36 * 12 * 2560**2 + 50304 * 2560
    assert _peak_bytes() - peak < 2**27


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def test_published_size_of_deit_base() -> None:
    """86.57 million with the biases and gains that are left out here, 0.12 million together."""
    shape = DataShape(kind="images", inputs=(3, 224, 224), outputs=1000)
    with torch.device("meta"):
        model = Family(VitConfig(), shape).build(768, 12)
    assert count(model) / 1e6 == pytest.approx(86.57 - 0.12, abs=0.01)


def test_published_size_of_airbench94() -> None:
    model = Family(CNN, IMAGES).build(64, 2)
    assert count(model) / 1e6 == pytest.approx(1.97, abs=0.005)


def test_attention_keeps_no_square_matrices() -> None:
    """What is kept grows in proportion to the length, and by as much with every block."""

    def kept(length: int, depth: int) -> int:
        shape = DataShape(kind="tokens", inputs=(length,), outputs=11)
        return Family(GPT, shape).describe(16, depth).activation_bytes

    short, depths = kept(16, 1), [kept(16, 2), kept(16, 3)]
    assert kept(32, 1) - short == kept(48, 1) - kept(32, 1) > 0
    assert depths[1] - depths[0] == depths[0] - short > 0


def test_a_model_that_refuses_a_single_example() -> None:
    shape = DataShape(kind="vectors", inputs=(5,), outputs=3)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    kept = describe(build, shape).activation_bytes
    assert kept > 0 and footprint(build, shape)[1] == kept


def test_what_a_linear_layer_keeps() -> None:
    """Its input of 5 numbers is not counted; that of the second layer is, once for both readers;
    the loss keeps the log-softmax of 3 logits, and its mean a divisor for the two examples."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)
            self.third = nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            return self.second(x) + self.third(x)

    shape = DataShape(kind="vectors", inputs=(5,), outputs=3)
    assert describe(Twice, shape).activation_bytes == 4 * (8 + 3) + 4 // 2


def test_frozen_parameters_do_not_count() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.Linear(8, 3, bias=False))
        model[0].weight.requires_grad_(False)
        return model

    found = describe(build, DataShape(kind="vectors", inputs=(5,), outputs=3))
    assert found.parameters == 24 and found.flops == 2 * 40 + 4 * 24


def test_a_model_that_needs_its_values_is_an_error() -> None:
    class Reads(nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x) * self.weight.sum().item()

    with pytest.raises(ValueError, match="^the model cannot be described without its values: "):
        describe(lambda: Reads(5, 3), DataShape(kind="vectors", inputs=(5,), outputs=3))
