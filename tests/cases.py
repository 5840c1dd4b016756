"""Cases of parametrized tests."""

from collections.abc import Iterable
from typing import Any

import pytest


def rest_slow(often: Iterable[tuple[Any, ...]], every: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return every case for parametrize; those that are not run often are slow tests."""
    chosen, cases = set(often), list(every)
    assert chosen <= set(cases), chosen - set(cases)
    return [pytest.param(*c, marks=() if c in chosen else pytest.mark.slow) for c in cases]
