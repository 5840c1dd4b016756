"""Models that cannot be stacked go one run at a time, and say why."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.transfer.test_stack import RUN
from tests.transfer.test_train import assert_same
from transfer.config import (
    AdamWConfig,
)
from transfer.stack import Stack
from transfer.train import train, train_stack

ODD = """
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self, width, kind):
        super().__init__()
        self.kind = kind
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        h = self.first(x.flatten(1)).relu()
        if self.kind == "dropout":
            h = self.drop(h)
        if self.kind == "branch" and h.mean().item() > 1e9:
            h = 2 * h
        if self.kind == "convolution":
            h = torch.nn.functional.conv1d(h[:, None], torch.ones(1, 1, 1, dtype=h.dtype))[:, 0]
        return self.last(h)

    def loss(self, x, y):
        return nn.functional.cross_entropy(self(x), y)
"""
for _kind in ("dropout", "branch", "convolution", "plain"):
    ODD += f"\ndef {_kind}(width, depth):\n    return Odd(width, {_kind!r})\n"
REASONS = {
    "dropout": "it draws random numbers",
    "branch": "torch.vmap cannot take it",
    "convolution": "it has convolutions",
    "plain": None,
}


@pytest.mark.parametrize("kind", REASONS)
def test_models_that_go_one_by_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transfer.config import CustomConfig

    (tmp_path / f"odd_{kind}.py").write_text(ODD)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = replace(
        RUN,
        model=CustomConfig(build=f"odd_{kind}:{kind}"),
        optimizer=AdamWConfig(),
        label_smoothing=0.0,
    )
    runs = [replace(run, seed=seed) for seed in (1, 2, 3)]
    reason, alone = REASONS[kind], Stack(runs).alone
    assert alone is None if reason is None else reason in (alone or "")
    notes: list[str] = []
    records = train_stack(runs, on_note=notes.append)
    assert len(notes) == (reason is not None)
    for record in records:
        assert record.status == "done"
        assert_same(record, train(record.config))


def test_dropout_does_not_depend_on_what_was_drawn_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transfer.config import CustomConfig

    (tmp_path / "odd_again.py").write_text(ODD)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = CustomConfig(build="odd_again:dropout")
    run = replace(RUN, model=model, optimizer=AdamWConfig(), label_smoothing=0.0)
    first = train(run)
    torch.rand(7)
    assert_same(train(run), first)
