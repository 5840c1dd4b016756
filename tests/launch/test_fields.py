"""Switches may be turned on without a value."""

import pytest

from launch.fields import override
from sweeps.experiment import Experiment
from tests.helpers import tiny_dict, tiny_experiment


@pytest.mark.parametrize(
    ("words", "adaptive", "bias"),
    [
        ([], False, True),
        (["--sweep.adaptive"], True, True),
        (["--sweep.adaptive", "--model.bias", "False"], True, False),
        (["--sweep.adaptive", "False", "--sweep.seeds", "3"], False, True),
        (["--sweep.seeds", "3", "--sweep.adaptive", "--model.bias"], True, True),
    ],
    ids=str,
)
def test_switches(words: list[str], adaptive: bool, bias: bool) -> None:
    experiment = tiny_experiment({"model": {"bias": True}})
    made = override(Experiment, experiment, words)
    assert (made.sweep.adaptive, made.model.bias) == (adaptive, bias)


def test_other_fields_need_their_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        override(Experiment, tiny_experiment(), ["--train.steps", "--sweep.adaptive"])
    assert "Missing value for argument '--train.steps'" in capsys.readouterr().err


def test_a_switch_below_a_name_with_a_hyphen() -> None:
    arm = tiny_experiment({"arms.my-arm": tiny_dict()["arms"]["scion"]})
    made = override(Experiment, arm, ["--arms.my-arm.optimizer.constrained"])
    assert made.arms["my-arm"].optimizer.constrained
    assert not made.arms["scion"].optimizer.constrained
