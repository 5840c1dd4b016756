"""In a step nothing asks for a number, for which a GPU would be waited for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.invented import invented
from tests.transfer.test_stack import FAMILIES, OPTIMIZERS, PAIRS, mixed
from transfer.stack import Stack


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfer.data.load", invented)


class _NoScalars(TorchDispatchMode):
    """Fails where a number is asked for, for which a GPU would be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host waits"
        return func(*args, **(kwargs or {}))


# Torch's AdamW reads its count of steps, which it keeps on the CPU.
OURS = [(f, o) for f, o in PAIRS if o in ("scion", "constrained", "almond", "sgd")]


@pytest.mark.parametrize(("family", "optimizer"), OURS)
def test_nothing_is_waited_for_in_a_step(family: str, optimizer: str) -> None:
    base = FAMILIES[family]
    stack = Stack(mixed(replace(base, optimizer=OPTIMIZERS[optimizer](base))))
    stack.advance()
    with stack.arithmetic.flushed(), _NoScalars():
        stack._advance()
        with pytest.raises(AssertionError, match="the host waits"):
            stack.losses.sum().item()
