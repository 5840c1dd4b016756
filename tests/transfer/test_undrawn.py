"""Modules without their default random numbers."""

import torch
from torch import nn

from transfer.undrawn import Undrawn


def build() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 6), nn.Conv2d(1, 2, 3), nn.LayerNorm(6))


def test_default_draws_are_zeros_and_advance_no_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with Undrawn():
        model = build()
    assert torch.equal(torch.rand(4), expected)
    for name, p in model.named_parameters():
        assert torch.equal(p, torch.full_like(p, float(name == "3.weight"))), name
        assert p.requires_grad and p.is_leaf


def test_outside_of_it_modules_draw_as_ever() -> None:
    torch.manual_seed(3)
    expected = build().state_dict()
    with Undrawn():
        build()
    torch.manual_seed(3)
    assert all(torch.equal(v, expected[k]) for k, v in build().state_dict().items())
