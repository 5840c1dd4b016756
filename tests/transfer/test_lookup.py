"""Rows of a table for every token, and the sums of their gradients."""

import pytest
import torch

from transfer.models import lookup as module
from transfer.models.lookup import lookup, repeats

RUNS, BATCH, LENGTH, ROWS, WIDTH = 3, 2, 50, 5, 16


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("stacked", [False, True])
def test_rows_and_gradients(stacked: bool) -> None:
    runs = RUNS if stacked else 1
    table = drawn(runs, ROWS, WIDTH, seed=0).requires_grad_()
    # The last row of all occurs nowhere.
    tokens = torch.randint(0, ROWS - 1, (runs, BATCH, LENGTH))
    gradient = drawn(runs, BATCH, LENGTH, WIDTH, seed=1)
    out = torch.vmap(lookup)(table, tokens) if stacked else lookup(table[0], tokens[0])[None]
    assert torch.equal(out, torch.stack([t[x] for t, x in zip(table, tokens, strict=True)]))
    (found,) = torch.autograd.grad(out, table, gradient)
    exact = torch.zeros(runs, ROWS, WIDTH, dtype=torch.float64)
    for r in range(runs):
        exact[r].index_add_(0, tokens[r].flatten(), gradient[r].flatten(0, 1).double())
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)


def test_runs_may_share_tokens_or_rows() -> None:
    table, tokens = drawn(RUNS, ROWS, WIDTH, seed=0), torch.randint(0, ROWS, (RUNS, BATCH, LENGTH))
    found = torch.vmap(lookup, in_dims=(0, None))(table, tokens[0])
    assert torch.equal(found, table[:, tokens[0]])
    found = torch.vmap(lookup, in_dims=(None, 1))(table[0], tokens.movedim(0, 1))
    assert torch.equal(found, table[0][tokens])


def test_few_tokens_are_computed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST_REPEATS", 4)
    tokens = torch.zeros(2, 6, dtype=torch.int64)
    assert repeats(tokens, 3) and not repeats(tokens, 4)
