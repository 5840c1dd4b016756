"""From a tuned setting to runs: grids, stars, checks and their counts."""

from dataclasses import replace
from typing import Any

import pytest

from sweeps.plan import (
    check_runs,
    run_config,
    star_runs,
    stepsize_grid,
    sweep_runs,
    with_settings,
)
from tests.helpers import tiny_experiment
from transfer.config import AdamWConfig, ScionConfig

WIDE = {
    "sweep.widths": [4, 8, 32],
    "sweep.seeds": [1, 2],
    "arms.scion.octaves_below": 3,
    "arms.scion.octaves_above": 2,
    "arms.scion.star": {"hidden": [0.5, 2.0], "output": [4.0]},
}


def tuned(changes: dict[str, Any], stepsize: float, **radii: float) -> tuple[Any, Any]:
    experiment = tiny_experiment(changes)
    settings = {"stepsize": stepsize, **radii}
    return experiment, with_settings(experiment.arms["scion"].optimizer, settings)


def test_grid_surrounds_the_tuned_stepsize() -> None:
    experiment, optimizer = tuned(WIDE, 0.25)
    arm = experiment.arms["scion"]
    assert stepsize_grid(arm, optimizer) == [2.0**k for k in range(-5, 1)]
    given = stepsize_grid(arm, replace(optimizer, stepsize=0.3))
    assert given == [0.3 * 2.0**k for k in range(-3, 3)], "a stepsize that is not tuned is kept"


def test_constrained_grid_stops_at_one() -> None:
    experiment, optimizer = tuned({**WIDE, "arms.scion.optimizer.constrained": True}, 0.5)
    grid = stepsize_grid(experiment.arms["scion"], optimizer)
    assert grid == [0.0625, 0.125, 0.25, 0.5, 1.0]
    at_top = replace(optimizer, stepsize=1.0)
    assert stepsize_grid(experiment.arms["scion"], at_top)[-1] == 1.0
    for plan in (sweep_runs, star_runs, check_runs):
        runs = plan(experiment, "scion", at_top)
        assert runs and max(r.config.optimizer.stepsize for r in runs) == 1.0


def test_sweep_has_every_cell_once() -> None:
    experiment, optimizer = tuned(WIDE, 0.25, hidden=2.0)
    runs = sweep_runs(experiment, "scion", optimizer)
    cells = [(r.config.width, r.config.optimizer.stepsize, r.config.seed) for r in runs]
    wanted = [(w, 2.0**k, s) for w in (4, 8, 32) for k in range(-5, 1) for s in (1, 2)]
    assert sorted(cells) == sorted(wanted)
    for run in runs:
        assert (run.arm, run.purpose) == ("scion", "sweep")
        assert run.config.optimizer.roles["hidden"].radius == 2.0, "radii as tuned"
        assert run.config.data == experiment.data
        assert (run.config.steps, run.config.batch_size, run.config.depth) == (3, 16, 3)
        assert run.config.label_smoothing == 0.1


@pytest.mark.parametrize("neighbours", [0, 1, 2, 9])
def test_star_tries_one_radius_at_a_time(neighbours: int) -> None:
    experiment, optimizer = tuned({**WIDE, "sweep.star_neighbours": neighbours}, 0.25, hidden=2.0)
    runs = star_runs(experiment, "scion", optimizer)
    near = [2.0**k for k in range(-5, 1) if abs(k + 2) <= neighbours]
    seen = set()
    for run in runs:
        roles = run.config.optimizer.roles
        radii = (roles["hidden"].radius, roles["output"].radius)
        seen.add((run.config.width, run.config.optimizer.stepsize, radii, run.config.seed))
        assert roles["input"] == optimizer.roles["input"]
    stars = [(1.0, 1.0), (4.0, 1.0), (2.0, 4.0)]
    assert seen == {(w, s, r, k) for w in (4, 8, 32) for s in near for r in stars for k in (1, 2)}
    assert len(runs) == len(seen)


def test_check_is_at_twice_the_largest_width() -> None:
    experiment, optimizer = tuned(WIDE, 0.3, hidden=2.0)
    runs = check_runs(experiment, "scion", optimizer)
    assert [(r.config.width, r.config.optimizer.stepsize, r.config.seed) for r in runs] == [
        (64, 0.3, 1),
        (64, 0.3, 2),
    ]
    assert runs[0].config.optimizer.roles["hidden"].radius == 2.0


def test_arm_without_radii() -> None:
    experiment = tiny_experiment(WIDE)
    optimizer = AdamWConfig(stepsize=2.0**-6)
    assert star_runs(experiment, "adamw", optimizer) == []
    assert len(sweep_runs(experiment, "adamw", optimizer)) == 3 * 3 * 2
    assert len(check_runs(experiment, "adamw", optimizer)) == 2


SHALLOW = {
    "train.depth": 2,
    "arms.scion.search": {"stepsize": [-5, -1], "output": [-1, 1]},
    "arms.scion.star": {"output": [2.0]},
}


@pytest.mark.parametrize(
    ("changes", "roles"),
    [
        ({}, {"input", "hidden", "output"}),
        (SHALLOW, {"input", "output"}),
        ({"model.bias": True}, {"input", "hidden", "output", "bias"}),
        ({**SHALLOW, "model.bias": True}, {"input", "output", "bias"}),
    ],
)
def test_roles_follow_the_model(changes: dict[str, Any], roles: set[str]) -> None:
    from transfer.families import Family, model_roles

    experiment = tiny_experiment(changes)
    config = run_config(experiment, "scion", experiment.arms["scion"].optimizer, size=4, seed=1)
    assert isinstance(config.optimizer, ScionConfig)
    assert config.optimizer.roles.keys() == roles
    model = Family(config.model, config.data.shape).build(4, config.depth)
    assert set(model_roles(model).roles.values()) == roles


@pytest.mark.parametrize("what", ["search", "star"])
def test_settings_of_an_absent_role_are_refused(what: str) -> None:
    """Tuning a radius that no parameter has would train the same runs over and over."""
    value = {"search": {"stepsize": [-5, -1], "hidden": [-1, 1]}, "star": {"hidden": [2.0]}}[what]
    with pytest.raises(ValueError, match="arms.scion.*hidden"):
        tiny_experiment({**SHALLOW, f"arms.scion.{what}": value})


def test_run_ids_are_unique_across_purposes_and_arms() -> None:
    experiment, optimizer = tuned(WIDE, 0.25)
    runs = [
        run
        for plan in (sweep_runs, star_runs, check_runs)
        for arm, best in (("scion", optimizer), ("adamw", AdamWConfig(stepsize=0.25)))
        for run in plan(experiment, arm, best)
    ]
    for seed in experiment.tune.seeds:
        runs += [replace(runs[0], config=replace(runs[0].config, seed=seed))]
    assert len({run.config.run_id for run in runs}) == len(runs)


def test_with_settings_changes_nothing_else() -> None:
    optimizer = tiny_experiment().arms["scion"].optimizer
    changed = with_settings(optimizer, {"stepsize": 0.5, "hidden": 4.0})
    assert isinstance(optimizer, ScionConfig) and isinstance(changed, ScionConfig)
    assert changed.stepsize == 0.5 and changed.roles["hidden"].radius == 4.0
    roles = {**changed.roles, "hidden": optimizer.roles["hidden"]}
    assert replace(changed, stepsize=optimizer.stepsize, roles=roles) == optimizer
    assert with_settings(optimizer, {}) == optimizer
