"""Decoder-only transformer for tokens.

Shapes: B batch, T positions, D width, V vocabulary.
"""

from jaxtyping import Float, Int
from torch import Tensor, nn

from transfer.config import DataShape, GptConfig, RoleOverride
from transfer.models import passes
from transfer.models.blocks import (
    ZERO_RESIDUAL,
    Block,
    residual_multiplier,
    rms_norm,
    zero_residual_,
)
from transfer.models.linear import Linear
from transfer.models.lookup import repeats


class Gpt(nn.Module):
    """Embedding, blocks with rotary positions, a final normalisation, and the head.

    Args:
        config: Head dimension, activation, tying, residual branches.
        shape: Data of tokens; its outputs are the vocabulary.
        width: D, a multiple of the head dimension.
        depth: Number of blocks.

    Attributes:
        own_passes: Whether all passes over activations are kernels of our own, where autocast is to
            bfloat16 on a GPU; a compiler finds nothing to fuse there.
    """

    own_passes = True

    def __init__(self, config: GptConfig, shape: DataShape, width: int, depth: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(shape.outputs, width)
        factor = residual_multiplier(config.residual, depth)
        self.blocks = nn.ModuleList(
            Block(width, config.head_dim, config.activation, factor, shape.inputs[0])
            for _ in range(depth)
        )
        self.head = Linear(width, shape.outputs)
        if config.tied:
            # Initialised as a head: as an embedding it would give logits of size sqrt(D).
            self.embedding.weight = self.head.weight
        if config.zero_residual:
            zero_residual_(self.blocks)

    def forward(self, x: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits of the next token at every position."""
        hidden = self.embedding(x)
        if passes.joins(hidden):
            # Not in evaluation, where others listen to what the layers make of every token.
            few = self.training and repeats(x, len(self.embedding.weight))
            normed = passes.normed(self.embedding.weight if few else hidden)
            for index, block in enumerate(self.blocks):
                hidden, normed = block(hidden, normed, x if few and index == 0 else None)
        else:
            for block in self.blocks:
                hidden = block(hidden)
            normed = rms_norm(hidden)
        logits: Tensor = self.head(normed)
        return logits

    def parameter_roles(self) -> dict[str, str]:
        """Return the role of every parameter: embedding or tied, hidden, output."""
        first = "tied" if self.config.tied else "embedding"
        special = {"embedding.weight": first, "head.weight": "output"}
        return {name: special.get(name, "hidden") for name, _ in self.named_parameters()}

    def parameter_overrides(self) -> dict[str, RoleOverride]:
        """Return what starts otherwise than its role, by name pattern."""
        return ZERO_RESIDUAL if self.config.zero_residual else {}
