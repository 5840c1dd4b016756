"""The option that points the suite at an implementation."""

import sys
from pathlib import Path

import pytest

from tests.conformance.protocol import Implementation, load

OURS = ("scion", "scion_light", "scion_one_by_one", "scion_exact")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--scion",
        metavar="MODULE:FACTORY",
        help="run the conformance suite on this implementation (see tests/conformance/protocol.py)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--scion", default=None):
        # Somebody else's warnings are not failures of their optimizer.
        config.addinivalue_line("filterwarnings", "default")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scion" in metafunc.fixturenames:
        # Run from elsewhere, this file is read too late for its option to exist.
        asked = metafunc.config.getoption("--scion", default=None)
        if asked and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        paths = [asked] if asked else [f"tests.conformance.ours:{name}" for name in OURS]
        metafunc.parametrize("scion", [load(path) for path in paths], ids=_name)


def _name(implementation: Implementation) -> str:
    return implementation.name.removeprefix("tests.conformance.ours:")
