"""What a verdict names as fixed, where a study of its own would take too long."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

from launch.pipeline import Finished, fixed_axes
from sweeps.experiment import Experiment
from sweeps.reading import load_experiment
from transfer.config import Cifar10Config


def finished(experiment: Experiment) -> Finished:
    """Return a study as far as fixed axes look at it."""
    study = SimpleNamespace(experiment=experiment)
    return cast(Finished, SimpleNamespace(study=study, tuned=experiment.arms))


def test_views_are_named_unless_plain() -> None:
    plain = load_experiment("airbench")
    assert isinstance(plain.data, Cifar10Config)
    averaged = replace(plain, data=replace(plain.data, val_views="mirror"))
    before, after = (fixed_axes(finished(e), "sgd") for e in (plain, averaged))
    assert after == before | {"val_views": "mirror"} != before
