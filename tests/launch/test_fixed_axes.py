"""What a verdict names as fixed, where a study of its own would take too long."""

from dataclasses import replace

from launch.pipeline import fixed_axes
from sweeps.reading import load_experiment
from transfer.config import Cifar10Config


def test_views_are_named_unless_plain() -> None:
    plain = load_experiment("airbench")
    assert isinstance(plain.data, Cifar10Config)
    averaged = replace(plain, data=replace(plain.data, val_views="mirror"))
    before, after = (fixed_axes(e, "sgd", e.arms["sgd"].optimizer) for e in (plain, averaged))
    assert after == before | {"val_views": "mirror"} != before
