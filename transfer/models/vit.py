"""Vision transformer in the manner of DeiT (Touvron et al. 2021, arXiv:2012.12877).

Shapes: B batch, C channels, T patches and the class token, D width, V classes.
"""

import torch
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
        self.patches = nn.Conv2d(channels, width, config.patch, config.patch, bias=False)
        factor = residual_multiplier(config.residual, depth)
        self.blocks = nn.ModuleList(
            Block(width, config.head_dim, "gelu", factor, causal=False) for _ in range(depth)
        )
        self.head = nn.Linear(width, shape.outputs, bias=False)
        if config.zero_residual:
            zero_residual_(self.blocks)

    def forward(self, x: Float[Tensor, "B C height breadth"]) -> Float[Tensor, "B V"]:
        """Return the logits."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
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
