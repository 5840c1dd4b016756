"""Multilayer perceptron with activations that keep the size of signals."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear layers with sqrt(2)-ReLU between them.

    sqrt(2) * relu keeps the mean square of a centred Gaussian signal. Weights are left as torch
    makes them: initialisation belongs to the optimizer's configuration.

    Args:
        d_input: Size of an input vector.
        width: Size of every hidden layer.
        d_output: Number of outputs.
        depth: Number of linear layers, at least 2.
        bias: Whether the layers have biases.
    """

    def __init__(self, d_input: int, width: int, d_output: int, depth: int, *, bias: bool) -> None:
        super().__init__()
        sizes = [d_input] + [width] * (depth - 1) + [d_output]
        self.layers = nn.ModuleList(
            nn.Linear(d_in, d_out, bias=bias)
            for d_in, d_out in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch d_output"]:
        """Return the logits; images are read as vectors."""
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = math.sqrt(2) * torch.relu(layer(x))
        logits: Tensor = self.layers[-1](x)
        return logits

    def parameter_roles(self) -> dict[str, str]:
        """Return the role of every parameter: input, hidden, output or bias."""
        last = len(self.layers) - 1
        roles = {}
        for index, layer in enumerate(self.layers):
            role = "input" if index == 0 else "output" if index == last else "hidden"
            roles[f"layers.{index}.weight"] = role
            if layer.bias is not None:
                roles[f"layers.{index}.bias"] = "bias"
        return roles
