"""One axis of a sweep grows, everything else is fixed and named."""

from typing import Any

import pytest

from sweeps.extends import extended
from sweeps.plan import check_runs, sweep_runs
from sweeps.sizes import SweepConfig
from tests.helpers import tiny_experiment

AXES: list[tuple[dict[str, Any], str, tuple[int, ...]]] = [
    ({}, "width", (4, 8)),
    ({"sweep.widths": [4], "sweep.depths": [3, 4, 6]}, "depth", (3, 4, 6)),
    ({"sweep.widths": [4], "sweep.batch_sizes": [8, 16]}, "batch_size", (8, 16)),
    ({"sweep.widths": [4], "sweep.steps": [3, 6]}, "steps", (3, 6)),
]


@pytest.mark.parametrize(("changes", "axis", "sizes"), AXES, ids=[a for _, a, _ in AXES])
def test_only_the_axis_grows(changes: dict[str, Any], axis: str, sizes: tuple[int, ...]) -> None:
    experiment = tiny_experiment({"arms.scion.search": {"stepsize": [-5, -1]}, **changes})
    assert (experiment.sweep.axis, experiment.sweep.sizes) == (axis, sizes)
    optimizer = experiment.arms["adamw"].optimizer
    runs = sweep_runs(experiment, "adamw", optimizer)
    assert sorted({getattr(run.config, axis) for run in runs}) == list(sizes)
    for other in {"width", "depth", "batch_size", "steps"} - {axis}:
        assert len({getattr(run.config, other) for run in runs}) == 1
    (check,) = {getattr(r.config, axis) for r in check_runs(experiment, "adamw", optimizer)}
    assert check == 2 * sizes[-1]


def test_examples_can_be_kept() -> None:
    changes = {
        "sweep.widths": [4],
        "sweep.batch_sizes": [8, 16, 24],
        "sweep.fixed_examples": True,
        "sweep.check_factor": 0,
        "train.steps": 6,
    }
    experiment = tiny_experiment(changes)
    assert [experiment.at(size).steps for size in (8, 16, 24)] == [12, 6, 4]
    assert check_runs(experiment, "adamw", experiment.arms["adamw"].optimizer) == []
    with pytest.raises(ValueError, match=r"batch_sizes .*divisors of the 96 examples seen.*got 10"):
        tiny_experiment({**changes, "sweep.batch_sizes": [8, 10]})


BAD: list[tuple[dict[str, Any], str]] = [
    ({"depths": (2, 3)}, "along one axis, got 'sizes in depths and widths'"),
    ({"widths": (4,), "depths": (2,), "steps": (9,)}, "one axis, got 'sizes in depths and steps'"),
    ({"widths": (8, 4)}, "widths must be positive, increasing"),
    ({"widths": (4,), "steps": (0, 4)}, "steps must be positive, increasing"),
    ({"widths": ()}, "widths must be at least one width"),
    ({"check_factor": 1}, "check_factor must be 0 or at least 2, got 1"),
    ({"fixed_examples": True}, "fixed_examples must be false unless batch_sizes are swept"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_bad_sizes(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepConfig(**fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"family": "gpt"}}, "gpt needs data of tokens, got data of vectors"),
        ({"model": {"family": "cnn"}}, "cnn needs data of images, got data of vectors"),
        ({"sweep.widths": [4], "sweep.depths": [1, 2]}, "sweep.depths must be at least 2"),
        ({"train.depth": 1}, "train.depth must be at least 2"),
        (
            {"model": {"family": "gpt", "head_dim": 8}, "data": {"name": "tokens"}},
            r"sweep.widths must be a multiple of model.head_dim = 8, got 4",
        ),
    ],
)
def test_sizes_that_no_model_has(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_experiment(changes)


# --- extends ---------------------------------------------------------------------------------

FILES: dict[str, dict[str, Any]] = {
    "base": {"a": {"x": 1, "y": 2}, "search": {"p": 1}, "arm": {"name": "s", "k": 1}},
    "loop": {"extends": "loop"},
}


def extend(**changes: Any) -> dict[str, Any]:
    """Return changes to `base`, filled in."""
    return extended({"extends": "base", **changes}, FILES.__getitem__)


def test_tables_are_merged_and_search_is_replaced() -> None:
    merged = extend(a={"y": 3}, search={"q": 2}, arm={"k": 5})
    assert merged == {"a": {"x": 1, "y": 3}, "search": {"q": 2}, "arm": {"name": "s", "k": 5}}
    assert extend(arm={"name": "t"})["arm"] == {"name": "t"}, "of another kind: nothing is kept"
    assert extend(remove=["a.x", "search"]) == {"a": {"y": 2}, "arm": {"name": "s", "k": 1}}
    assert FILES["base"]["a"] == {"x": 1, "y": 2}, "the base itself stays"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"extends": "loop"}, "lead back to itself"),
        ({"extends": 3}, "extends must be the name"),
        ({"remove": ["a"]}, "remove needs extends"),
        ({"extends": "base", "remove": ["a.z"]}, "remove must list what the base has, got 'a.z'"),
    ],
)
def test_bad_extensions(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extended(data, FILES.__getitem__)
