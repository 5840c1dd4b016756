"""The convolutional net: whitening from the data, stages that pool, norms without gains."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.config import CnnConfig, DataShape
from transfer.families import Family
from transfer.models.cnn import BatchNorm, Cnn, Stage

SHAPE = DataShape(kind="images", inputs=(3, 32, 32), outputs=10)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def smooth_images(batch: int = 64) -> Tensor:
    """Return images whose neighbouring pixels and channels are alike."""
    noise = torch.randn(batch, 3, 34, 34)
    colours = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 1.0]])
    return F.avg_pool2d(torch.einsum("bchw,dc->bdhw", 4 * noise, colours), 3, stride=1)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """Return the trained convolutions of a model."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def norms(model: nn.Module) -> list[BatchNorm]:
    """Return the normalisations of a model."""
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("width", [4, 6])
def test_depth_is_the_number_of_convolutions_a_stage(width: int, depth: int) -> None:
    model = Cnn(SHAPE, width, depth)
    assert model(smooth_images(2)).shape == (2, 10)
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    assert [len(convolutions(stage)) for stage in stages] == [depth] * 3
    assert [len(norms(stage)) for stage in stages] == [depth] * 3
    first = [tuple(convolutions(stage)[0].weight.shape) for stage in stages]
    sizes = [24, width, 4 * width, 4 * width]
    assert first == [(b, a, 3, 3) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]


@pytest.mark.parametrize(("d_in", "d_out"), [(24, 6), (4, 6), (6, 6)])
def test_the_first_channels_of_a_convolution_pass_its_input_on(d_in: int, d_out: int) -> None:
    """The bits of dirac_, which sets number by number."""
    torch.manual_seed(1)
    stage = Stage(d_in, d_out, 2)
    torch.manual_seed(1)
    for layer, size in zip(convolutions(stage), (d_in, d_out), strict=True):
        wanted = nn.Conv2d(size, d_out, 3, bias=False).weight
        nn.init.dirac_(wanted[:size])
        assert torch.equal(layer.weight, wanted)


def test_every_stage_halves_the_image() -> None:
    model, seen = Cnn(SHAPE, 4, 2), []
    for module in model.modules():
        if isinstance(module, Stage):
            module.register_forward_hook(lambda _, args, out: seen.append(out.shape[1:]))
    model(smooth_images(2))
    assert seen == [(4, 15, 15), (16, 7, 7), (16, 3, 3)]


def test_whitened_patches_have_covariance_one() -> None:
    model, x = Cnn(SHAPE, 4, 1), smooth_images()

    def covariance() -> Tensor:
        channels = F.conv2d(x, model.whitening).transpose(0, 1).flatten(1)
        torch.testing.assert_close(channels[12:], -channels[:12])
        return channels[:12] @ channels[:12].T / channels.shape[1]

    before = (covariance() - torch.eye(12)).abs().max().item()
    assert before > 0.1, "these images are white without help"
    model.fit_to_data(x)
    # Directions of variance v come out at v / (v + 5e-4).
    torch.testing.assert_close(covariance(), torch.eye(12), rtol=0, atol=0.05)


def test_whitening_counts_every_patch_once() -> None:
    """However many images are looked at at a time; float32 sums lose little."""
    x = smooth_images(230)
    model = Cnn(SHAPE, 4, 1)
    model.fit_to_data(x)
    every = [x[:, :, i : i + 31, j : j + 31].double() for i in (0, 1) for j in (0, 1)]
    patches = torch.stack(every, 2).permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
    values, vectors = torch.linalg.eigh(patches @ patches.T / patches.shape[1])
    expected = (vectors / (values + 5e-4).sqrt()).T.flip(0).abs()
    found = model.whitening[:12].flatten(1).double().abs()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * expected.max().item())


def test_whitening_puts_large_variances_first() -> None:
    """The filter of the largest variance has the smallest weights."""
    model = Cnn(SHAPE, 4, 1)
    model.fit_to_data(smooth_images())
    sizes = model.whitening[:12].flatten(1).norm(dim=1)
    assert (sizes.diff() > 0).all()


def test_whitening_is_no_parameter_but_is_saved() -> None:
    model = Cnn(SHAPE, 4, 1)
    model.fit_to_data(smooth_images())
    assert "whitening" not in dict(model.named_parameters())
    other = Cnn(SHAPE, 4, 1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.whitening, model.whitening)


def test_batch_statistics_in_training_and_running_ones_in_evaluation() -> None:
    norm = BatchNorm(3)
    nn.init.normal_(norm.bias)
    x = 3 * torch.randn(20, 3, 5, 5) + torch.tensor([1.0, -2.0, 4.0])[:, None, None]
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    out = norm(x) - norm.bias[:, None, None]
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var((0, 2, 3), unbiased=False), torch.ones(3))
    torch.testing.assert_close(norm.running_mean, 0.4 * mean)
    torch.testing.assert_close(norm.running_var, 0.6 + 0.4 * variance)
    norm.eval()
    kept = norm.running_mean.clone()
    y = torch.randn(4, 3, 5, 5)
    shift = norm.running_mean[:, None, None]
    expected = (y - shift) / norm.running_var.sqrt()[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(y), expected)
    torch.testing.assert_close(norm(y)[:1], norm(y[:1]))
    assert torch.equal(norm.running_mean, kept)


def test_in_evaluation_an_image_is_classified_by_itself() -> None:
    model, x = Cnn(SHAPE, 4, 2), smooth_images(8)
    trained = model(x)
    assert (trained[:2] - model(x[:2])).abs().max() > 1e-4
    model.eval()
    torch.testing.assert_close(model(x)[:2], model(x[:2]))


def test_norms_have_a_bias_and_no_gain() -> None:
    model = Cnn(SHAPE, 4, 2)
    for norm in norms(model):
        assert [name for name, _ in norm.named_parameters()] == ["bias"]
        assert norm.needs_whole_batch and not norm.bias.any()
    kinds = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.ndim == 1}
    assert kinds == {"bias", "whitening_bias"}


def test_convolutions_start_by_passing_the_input_on() -> None:
    """The first channels out are those in; the others are drawn at random."""
    # 24 channels in: fewer than the 40 of the first stage, more than the 10.
    for width in (40, 10):
        for layer in convolutions(Cnn(SHAPE, width, 2)):
            d_out, d_in = layer.weight.shape[:2]
            same = min(d_out, d_in)
            x = torch.randn(2, d_in, 6, 6)
            torch.testing.assert_close(layer(x)[:, :same], x[:, :same])
            rest = layer.weight[same:]
            assert rest.numel() == 0 or (rest != 0).float().mean() > 0.99


def test_stage_in_words() -> None:
    """Pool after the first convolution alone; normalise, then activate, each."""
    stage = Stage(3, 8, 2)
    x = torch.randn(4, 3, 10, 10)
    first, second = convolutions(stage)
    a, b = norms(stage)
    middle = F.gelu(a(F.max_pool2d(first(x), 2)))
    torch.testing.assert_close(stage(x), F.gelu(b(second(middle))))


def test_errors() -> None:
    tokens = DataShape(kind="tokens", inputs=(16,), outputs=5)
    with pytest.raises(ValueError, match="^model family cnn needs data of images, got .* tokens$"):
        Family(CnnConfig(), tokens)
    small = DataShape(kind="images", inputs=(3, 32, 24), outputs=10)
    with pytest.raises(ValueError, match="^image size must be at least 25 pixels .*got 24$"):
        Family(CnnConfig(), small)
    smallest = DataShape(kind="images", inputs=(1, 25, 25), outputs=10)
    assert Family(CnnConfig(), smallest).build(4, 1)(torch.randn(2, 1, 25, 25)).shape == (2, 10)
