"""Which tests check the shapes of everything that goes through `transfer`."""

import zlib
from collections.abc import Iterator

import jaxtyping
import pytest

ONE_IN = 8
FEW = 200


@pytest.fixture(autouse=True)
def _shapes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check them in one test of eight, always the same ones, unless few tests were asked for.

    It doubles the time of a test, and the tests of one function call it with the same few shapes.
    """
    few = len(request.session.items) < FEW
    checked = few or zlib.crc32(request.node.nodeid.encode()) % ONE_IN == 0
    jaxtyping.config.update("jaxtyping_disable", not checked)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
