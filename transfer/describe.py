"""What a model costs: parameters, arithmetic and memory, found without any weights."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from transfer.config import DataShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """Size and cost of one model."""

    parameters: int
    """Trainable numbers; a tied tensor counts once."""
    parameters_without_embedding: int
    """The same without embeddings, tied tensors and position embeddings."""
    flops: int
    """Floating-point operations of matrix products and convolutions, forward and backward, per
    token or image; a multiplication and an addition count as two."""
    activation_bytes: int
    """What the forward pass keeps for the backward pass per example, weights aside."""


def describe(build: Callable[[], nn.Module], shape: DataShape) -> Description:
    """Describe the model that a function builds."""
    raise NotImplementedError
