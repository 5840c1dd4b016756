"""Numbers that a CPU is slow with count as 0 in a step, and as before outside of it."""

from collections.abc import Iterator

import pytest
import torch

from transfer.arithmetic import Arithmetic


def _vanishes() -> bool:
    return bool((torch.tensor([1e-40, 1e-30]) * 1.0)[0] == 0)


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this CPU cannot flush")
def test_tiny_numbers_count_as_zero_while_it_lasts(restored: None) -> None:
    arithmetic = Arithmetic("float32", "cpu")
    assert not _vanishes()
    with arithmetic.flushed():
        assert _vanishes()
        with arithmetic.flushed():
            assert _vanishes()
        assert _vanishes(), "what was set before stays"
    assert not _vanishes()
    with pytest.raises(KeyError), arithmetic.flushed():
        raise KeyError
    assert not _vanishes()
    torch.set_flush_denormal(True)
    with arithmetic.flushed():
        pass
    assert _vanishes(), "a user's own choice stays"
