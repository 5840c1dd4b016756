"""Factories of other people's optimizers for optimizer_step.py, imported from PYTHONPATH."""

import torch
from torch import nn


def authors_scion(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the authors' Scion (their repository's scion.py) with the NanoGPT's settings."""
    import scion  # type: ignore[import-not-found, unused-ignore]

    groups = [
        {"params": params[1:], "norm": "Spectral", "norm_kwargs": {}, "scale": 50.0},
        {"params": params[:1], "norm": "Sign", "norm_kwargs": {}, "scale": 3000.0},
    ]
    made: torch.optim.Optimizer = scion.Scion(groups, lr=1e-4, momentum=0.1, unconstrained=True)
    return made
