"""The convolutional net of airbench94 (Jordan 2024, arXiv:2404.00498) for small images.

Shapes: B batch, C channels, V classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from transfer.config import DataShape

_KERNEL = 2
_WHITENING_EPS = 5e-4
_NORM_EPS = 1e-12
_NEW_STATISTICS = 0.4
"""Weight of a batch in the running statistics."""
_HEAD_SCALE = 1 / 9
_STAGE_FACTORS = (1, 4, 4)
_IMAGES_AT_ONCE = 100
"""Their patches, four times as many numbers, stay in a processor's cache."""


class BatchNorm(nn.Module):
    """Batch normalisation over images with a trained bias and no gain."""

    needs_whole_batch = True
    """Its statistics are those of the batch: it cannot be computed in parts."""

    gain: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        # Never trained, yet there: without one, the backward pass on CUDA devices fails.
        self.register_buffer("gain", torch.ones(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "B C height width"]) -> Float[Tensor, "B C height width"]:
        """Normalise by the batch's statistics in training, by the running ones in evaluation."""
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            weight=self.gain,
            bias=self.bias,
            training=self.training,
            momentum=_NEW_STATISTICS,
            eps=_NORM_EPS,
        )


class Stage(nn.Module):
    """3 x 3 convolutions, each normalised and activated; pooled by 2 after the first of them."""

    def __init__(self, d_in: int, d_out: int, depth: int) -> None:
        super().__init__()
        sizes = [d_in] + [d_out] * (depth - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(size, d_out, 3, padding="same", bias=False) for size in sizes
        )
        self.norms = nn.ModuleList(BatchNorm(d_out) for _ in sizes)
        for layer in self.convolutions:
            assert isinstance(layer, nn.Conv2d)
            _pass_on(layer.weight, layer.in_channels)

    def forward(self, x: Float[Tensor, "B C height width"]) -> Float[Tensor, "B D h w"]:
        """Return D = d_out maps of half the size."""
        for index, (layer, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = layer(x)
            x = F.gelu(norm(F.max_pool2d(x, 2) if index == 0 else x))
        return x


class Cnn(nn.Module):
    """Whitening, three stages, global pooling, head.

    The whitening filters are fixed: `fit_to_data` sets them from training images before training.
    Their biases are trained.

    Args:
        shape: Data of images.
        width: Channels of the first stage; 64 in airbench94.
        depth: Convolutions a stage; 2 in airbench94.
    """

    whitening: Tensor

    def __init__(self, shape: DataShape, width: int, depth: int) -> None:
        super().__init__()
        num_patch = shape.inputs[0] * _KERNEL**2
        patch = (shape.inputs[0], _KERNEL, _KERNEL)
        self.register_buffer(
            "whitening", _both_signs(torch.eye(num_patch).reshape(num_patch, *patch))
        )
        sizes = [2 * num_patch, *(factor * width for factor in _STAGE_FACTORS)]
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.whitening_bias = nn.Parameter(torch.zeros(2 * num_patch))
        self.stages = nn.ModuleList(Stage(d_in, d_out, depth) for d_in, d_out in pairs)
        self.head = nn.Linear(sizes[-1], shape.outputs, bias=False)

    @torch.no_grad()
    def fit_to_data(self, x: Float[Tensor, "B C height width"]) -> None:
        """Set the whitening layer: 2 x 2 patches of these images get covariance I."""
        total = torch.zeros_like(self.whitening[: len(self.whitening) // 2].flatten(1))
        for part in torch.split(x.to(total.dtype), _IMAGES_AT_ONCE):
            patches = F.unfold(part, _KERNEL)
            total += (patches @ patches.mT).sum(0)
        values, vectors = torch.linalg.eigh(total / (len(x) * patches.shape[-1]))
        scaled = (vectors / (values + _WHITENING_EPS).sqrt()).T.flip(0)
        self.whitening.copy_(_both_signs(scaled.reshape(len(scaled), *self.whitening.shape[1:])))

    def forward(self, x: Float[Tensor, "B C height width"]) -> Float[Tensor, "B V"]:
        """Return the logits."""
        x = F.gelu(F.conv2d(x, self.whitening, self.whitening_bias))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(F.adaptive_max_pool2d(x, 1).flatten(1))
        return _HEAD_SCALE * logits

    def parameter_roles(self) -> dict[str, str]:
        """Return the role of every parameter: convolution, bias, output."""
        names = [name for name, _ in self.named_parameters()]
        roles = {name: "bias" if name.endswith("bias") else "convolution" for name in names}
        return roles | {"whitening_bias": "bias", "head.weight": "output"}


@torch.no_grad()
def _pass_on(weight: Float[Tensor, "d_out d_in 3 3"], d_in: int) -> None:
    """Let the first channels pass the input on, as `nn.init.dirac_` does number by number."""
    weight[:d_in] = 0
    size = min(weight.shape[:2])
    weight[:size, :size, 1, 1] = torch.eye(size, dtype=weight.dtype)


def _both_signs(filters: Tensor) -> Tensor:
    return torch.cat([filters, -filters])
