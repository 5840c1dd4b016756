"""Is this Scion? Layer norms, oracles, averages, scale and width, for any implementation.

pytest tests/conformance/test_conformance.py --scion your.module:make
"""

import pytest

from tests.conformance.cases import CASES
from tests.conformance.checks import PER_LAYER, WHOLE
from tests.conformance.protocol import Implementation


@pytest.mark.parametrize("layer", CASES)
@pytest.mark.parametrize("check", PER_LAYER)
def test_layer(scion: Implementation, check: str, layer: str) -> None:
    try:
        PER_LAYER[check](scion, CASES[layer])
    except NotImplementedError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("check", WHOLE)
def test_optimizer(scion: Implementation, check: str) -> None:
    try:
        WHOLE[check](scion)
    except NotImplementedError as error:
        pytest.skip(str(error))
