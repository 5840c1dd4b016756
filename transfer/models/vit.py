"""Vision transformer in the manner of DeiT (Touvron et al. 2021, arXiv:2012.12877).

Shapes: B batch, C channels, T patches and the class token, D width, V classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from transfer.config import DataShape, RoleOverride, VitConfig
from transfer.models.blocks import (
    ZERO_RESIDUAL,
    Block,
    residual_multiplier,
    rms_norm,
    zero_residual_,
)

_TOKEN_STD = 0.02
_SPECIAL = {
    "class_token": "embedding",
    "positions": "embedding",
    "patches.weight": "input",
    "head.weight": "output",
}


class Patches(nn.Conv2d):
    """A convolution whose kernels lie side by side, as one matrix product.

    Stacked runs would make a convolution one of many groups, which is slow, and whose bits depend
    on the number of runs.
    """

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__(channels, width, patch, patch, bias=False)

    def forward(self, x: Float[Tensor, "B C height breadth"]) -> Float[Tensor, "B patches D"]:
        """Return one vector for each patch, row by row."""
        high, wide = self.kernel_size
        channels, rows, columns = x.shape[1], x.shape[2] // high, x.shape[3] // wide
        pieces = x.reshape(-1, channels, rows, high, columns, wide)
        flat = pieces.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        out: Tensor = F.linear(flat, self.weight.flatten(1))
        return out


class Vit(nn.Module):
    """Patches, class token and positions, blocks, and a head on the class token.

    Args:
        config: Patch size, head dimension, residual branches.
        shape: Data of images whose sides the patch divides.
        width: D, a multiple of the head dimension.
        depth: Number of blocks.
    """

    def __init__(self, config: VitConfig, shape: DataShape, width: int, depth: int) -> None:
        super().__init__()
        self.config = config
        channels, height, breadth = shape.inputs
        num_patches = (height // config.patch) * (breadth // config.patch)
        self.class_token = nn.Parameter(_TOKEN_STD * torch.randn(1, width))
        self.positions = nn.Parameter(_TOKEN_STD * torch.randn(num_patches + 1, width))
        self.patches = Patches(channels, width, config.patch)
        factor = residual_multiplier(config.residual, depth)
        self.blocks = nn.ModuleList(
            Block(width, config.head_dim, "gelu", factor, None) for _ in range(depth)
        )
        self.head = nn.Linear(width, shape.outputs, bias=False)
        if config.zero_residual:
            zero_residual_(self.blocks)

    def forward(self, x: Float[Tensor, "B C height breadth"]) -> Float[Tensor, "B V"]:
        """Return the logits."""
        patches = self.patches(x)
        first = self.class_token.to(patches.dtype).expand(len(x), 1, -1)
        hidden = torch.cat([first, patches], dim=1) + self.positions
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(rms_norm(hidden[:, 0]))
        return logits

    def parameter_roles(self) -> dict[str, str]:
        """Return the role of every parameter: embedding, input, hidden, output."""
        return {name: _SPECIAL.get(name, "hidden") for name, _ in self.named_parameters()}

    def parameter_overrides(self) -> dict[str, RoleOverride]:
        """Return what starts otherwise than its role, by name pattern."""
        return ZERO_RESIDUAL if self.config.zero_residual else {}
