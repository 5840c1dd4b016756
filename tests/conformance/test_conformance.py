"""Is this Scion? Layer norms, oracles, averages, scale and width, for any implementation.

pytest tests/conformance/test_conformance.py --scion your.module:make
"""

import contextlib
from collections.abc import Iterator

import pytest

from tests.conformance.cases import CASES
from tests.conformance.checks import PER_LAYER, WHOLE
from tests.conformance.protocol import Declined, Implementation

OURS = "tests.conformance.ours:"


@contextlib.contextmanager
def skipping_what_is_declined(scion: Implementation) -> Iterator[None]:
    """Skip what a foreign adapter does not have; our own optimizers have all of it."""
    try:
        yield
    except Declined as declined:
        if scion.name.startswith(OURS):
            raise
        pytest.skip(str(declined))


@pytest.mark.parametrize("layer", CASES)
@pytest.mark.parametrize("check", PER_LAYER)
def test_layer(scion: Implementation, check: str, layer: str) -> None:
    with skipping_what_is_declined(scion):
        PER_LAYER[check](scion, CASES[layer])


@pytest.mark.parametrize("check", WHOLE)
def test_optimizer(scion: Implementation, check: str) -> None:
    with skipping_what_is_declined(scion):
        WHOLE[check](scion)
