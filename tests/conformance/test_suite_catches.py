"""The suite finds the usual mistakes, each by the check that is about it, and says what it is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conformance.cases import CASES
from tests.conformance.checks import PER_LAYER, WHOLE, check_network_width
from tests.conformance.planted import MISTAKES, Factory
from tests.conformance.protocol import Declined, Implementation, load

ROOT = Path(__file__).parents[2]

# Mistake, check, layer, part of what it says.
CAUGHT = [
    ("bias-sum", "first_step", "bias", "SUM of squares"),
    ("bias-sum", "first_step", "gain", "SUM of squares"),
    ("bias-sum", "width", "bias", "at width 64 is 0.5 of that at width 16"),
    ("spectral-everywhere", "first_step", "embedding-col-norm", "treated as a hidden matrix"),
    ("spectral-everywhere", "first_step", "embedding-sign", "treated as a hidden matrix"),
    ("spectral-everywhere", "first_step", "output-sign", "output is treated as a hidden matrix"),
    ("spectral-everywhere", "first_step", "output-row-norm", "treated as a hidden matrix"),
    ("spectral-everywhere", "first_step", "input", "as if its norm were spectral"),
    ("spectral-everywhere", "init", "embedding-col-norm", "initialised as a hidden matrix"),
    ("transposed-embedding", "first_step", "embedding-col-norm", "stored (vocabulary, d_model)"),
    ("alpha-of-old", "second_step_alpha_0.1", "hidden-square", "weight of the OLD average"),
    ("alpha-of-old", "second_step_alpha_0.7", "bias", "weight of the OLD average"),
    ("starts-at-gradient", "second_step_alpha_0.1", "output-sign", "starts at the first gradient"),
    ("no-average", "second_step_alpha_0.1", "hidden-tall", "only the new gradient counts"),
    ("nesterov", "second_step_alpha_0.1", "hidden-square", "Nesterov"),
    ("nesterov", "second_step_alpha_0.7", "bias", "Nesterov"),
    ("averaged-oracles", "momentum_start", "conv", "Is the oracle's answer averaged"),
    ("averaged-oracles", "first_step", "hidden-wide", "oracle averaged instead of the gradient"),
    ("epsilon", "scale_1e-10", "hidden-square", "is an epsilon added"),
    ("epsilon", "scale_1e-10", "bias", "is an epsilon added"),
    ("epsilon", "scale_1e-05", "embedding-col-norm", "is an epsilon added"),
    ("no-rescaling", "scale_1e-30", "bias", "does a square leave float32"),
    ("ascent", "first_step", "hidden-square", "the ascent direction"),
    ("ascent", "first_step", "output-sign", "the ascent direction"),
    ("ascent", "second_step_alpha_0.1", "bias", "uphill"),
    ("no-aspect", "first_step", "hidden-tall", "without its aspect factor"),
    ("no-aspect", "first_step", "hidden-wide", "without its aspect factor"),
    ("flipped-aspect", "first_step", "hidden-wide", "aspect factor upside down"),
    ("unscaled-sign", "first_step", "output-sign", "without its factor 1 / d_in"),
    ("unscaled-sign", "width", "output-sign", "factor of d_out and d_in"),
    ("no-kernel", "first_step", "conv", "number of kernel positions"),
    ("no-radius", "first_step", "input", "the radius is not used"),
    ("no-shrinking", "first_constrained_step", "hidden-square", "not multiplied by 1 - stepsize"),
    ("no-shrinking", "in_the_ball_stepsize_0.1", "output-sign", "are the weights multiplied"),
    ("decay-by-radius", "in_the_ball_stepsize_0.1", "bias", "1 - stepsize * something"),
    ("initialises-in-step", "first_step", "embedding-sign", "initialised again in the first step"),
    ("fixed-stepsize", "schedule", "hidden-square", "is the stepsize read"),
    ("no-closure", "closure", "bias", "takes no closure"),
    ("init-radius", "init", "hidden-tall", "the radius is not used"),
    ("init-gains", "init", "gain", "as if they were biases"),
    ("init-slices", "init", "conv", "slice by slice"),
]
CAUGHT_WHOLE = [
    ("drops-vectors", "every_parameter", "bias.bias did not move: was its group dropped?"),
    ("one-radius", "every_parameter", "norm or the radius of another group"),
    ("unscaled-sign", "network_width_dense", "It must not depend on the width"),
    ("unscaled-sign", "network_width_tokens", "It must not depend on the width"),
]


def planted(mistake: str) -> Implementation:
    """Return the implementation that makes a mistake."""
    make = Factory(mistake)
    return Implementation(mistake, make, make.init, make.exact)


@pytest.mark.parametrize(("mistake", "check", "layer", "said"), CAUGHT)
def test_caught(mistake: str, check: str, layer: str, said: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        PER_LAYER[check](planted(mistake), CASES[layer])


@pytest.mark.parametrize(("mistake", "check", "said"), CAUGHT_WHOLE)
def test_caught_in_a_whole_model(mistake: str, check: str, said: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        WHOLE[check](planted(mistake))


def test_every_mistake_is_tried() -> None:
    assert {case[0] for case in (*CAUGHT, *CAUGHT_WHOLE)} == set(MISTAKES)


@pytest.mark.parametrize("check", PER_LAYER)
def test_an_implementation_without_a_mistake_passes(check: str) -> None:
    for case in CASES.values():
        PER_LAYER[check](planted(""), case)


@pytest.mark.parametrize("check", WHOLE)
def test_an_implementation_without_a_mistake_passes_as_a_whole(check: str) -> None:
    WHOLE[check](planted(""))


@pytest.mark.parametrize("tokens", [False, True])
def test_adamw_depends_on_the_width(tokens: bool) -> None:
    import torch

    def adamw(model: torch.nn.Module, specs: object, **_: object) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=0.01)

    with pytest.raises(AssertionError, match="must not depend on the width"):
        check_network_width(Implementation("adamw", adamw), tokens)


# --- the option ---


def run_suite(*arguments: str, path: Path = ROOT) -> tuple[int, str]:
    """Run the suite in a process of its own; return its exit status and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
        + ["tests/conformance/test_conformance.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_option_takes_another_implementation() -> None:
    """Fails where it has to, and says why."""
    status, text = run_suite("--scion", "tests.conformance.planted:ascent", "-k", "hidden-square")
    assert status == 1
    assert "the update is the ascent direction" in text
    assert "test_layer[tests.conformance.planted:ascent-first_step-hidden-square]" in text


def test_only_the_adapter_itself_can_decline() -> None:
    """torch raises NotImplementedError too: raised by a step it must not pass for a skip."""

    class Broken(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            raise NotImplementedError("no such kernel")

    def broken(model: torch.nn.Module, specs: object, **_: object) -> torch.optim.Optimizer:
        return Broken(model.parameters(), lr=1.0)

    def declining(model: torch.nn.Module, specs: object, **_: object) -> torch.optim.Optimizer:
        raise NotImplementedError("hidden matrices only")

    check, layer = PER_LAYER["first_step"], CASES["bias"]
    with pytest.raises(NotImplementedError, match="no such kernel"):
        check(Implementation(name="broken", make=broken), layer)
    with pytest.raises(Declined, match="declining declined: hidden matrices only"):
        check(Implementation(name="declining", make=declining), layer)


@pytest.mark.slow
def test_option_says_what_it_cannot_find() -> None:
    status, text = run_suite("--scion", "nowhere:make")
    assert status != 0 and "--scion nowhere:make: cannot import nowhere" in text
    with pytest.raises(ValueError, match="has no function absent"):
        load("tests.conformance.planted:absent")


@pytest.mark.slow
def test_example_in_the_guide(tmp_path: Path) -> None:
    """torch's Muon through the adapter in the guide: square and tall matrices are Scion's."""
    guide = ROOT.joinpath("docs", "conformance.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", guide, re.S)[0]
    tmp_path.joinpath("muon_adapter.py").write_text(code, encoding="utf-8")
    status, text = run_suite("--scion", "muon_adapter:make", "-k", "first_step", path=tmp_path)
    assert status == 1 and re.search(r"1 failed, 2 passed, \d+ skipped", text), text
    assert "first_step-hidden-wide" in text and "without its aspect factor" in text
