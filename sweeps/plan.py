"""From an experiment to the runs it consists of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sweeps.experiment import ArmConfig, Experiment
from transfer.config import OptimizerConfig, RunConfig, ScionConfig

Purpose = Literal["tune", "sweep", "radii", "check"]


def roles_at(experiment: Experiment, size: int) -> tuple[str, ...]:
    """Return the roles that the experiment's model has; a custom family is built to find out."""
    point = experiment.at(size)
    stated = experiment.model.roles(point.depth)
    if stated is not None:
        return stated
    from transfer.families import Family  # torch, which other families need not wait for

    family = Family(experiment.model, experiment.data.shape)
    return family.role_names(point.width, point.depth)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """A run, the arm it belongs to and what it is for."""

    arm: str
    purpose: Purpose
    config: RunConfig


def run_config(
    experiment: Experiment, arm: str, optimizer: OptimizerConfig, *, size: int, seed: int
) -> RunConfig:
    """Return one run; of the optimizer's rules, those for roles the model has."""
    if isinstance(optimizer, ScionConfig):
        present = roles_at(experiment, size)
        kept = {role: rule for role, rule in optimizer.roles.items() if role in present}
        optimizer = replace(optimizer, roles=kept)
    train, point = experiment.train, experiment.at(size)
    return RunConfig(
        model=experiment.model,
        width=point.width,
        depth=point.depth,
        data=experiment.data,
        batch_size=point.batch_size,
        steps=point.steps,
        label_smoothing=train.label_smoothing,
        schedule=experiment.arms[arm].schedule or train.schedule,
        optimizer=optimizer,
        precision=train.precision,
        seed=seed,
    )


def with_settings(optimizer: OptimizerConfig, settings: dict[str, float]) -> OptimizerConfig:
    """Return the optimizer with `stepsize` and the radii of roles replaced."""
    radii = {name: value for name, value in settings.items() if name != "stepsize"}
    if radii:
        assert isinstance(optimizer, ScionConfig), "only Scion has radii"
        roles = dict(optimizer.roles)
        for role, radius in radii.items():
            roles[role] = replace(roles[role], radius=radius)
        optimizer = replace(optimizer, roles=roles)
    return replace(optimizer, stepsize=settings.get("stepsize", optimizer.stepsize))


def stepsize_grid(arm: ArmConfig, tuned: OptimizerConfig) -> list[float]:
    """Return the octaves around the tuned stepsize, increasing; tuning stays on powers of two."""
    grid = [tuned.stepsize * 2.0**k for k in range(-arm.octaves_below, arm.octaves_above + 1)]
    constrained = isinstance(tuned, ScionConfig) and tuned.constrained
    return [s for s in grid if not constrained or s <= 1]


def runs_around(
    experiment: Experiment, settings: Mapping[str, OptimizerConfig]
) -> list[PlannedRun]:
    """Return all runs but the tuning's around one setting of each arm: sweeps, stars, checks."""
    return [
        run
        for plan in (sweep_runs, star_runs, check_runs)
        for arm, optimizer in settings.items()
        for run in plan(experiment, arm, optimizer)
    ]


def sweep_runs(experiment: Experiment, name: str, tuned: OptimizerConfig) -> list[PlannedRun]:
    """Return every stepsize x size x seed of an arm, radii as tuned."""
    settings = [{"stepsize": s} for s in stepsize_grid(experiment.arms[name], tuned)]
    return _cells(experiment, name, "sweep", tuned, settings)


def star_runs(experiment: Experiment, name: str, tuned: OptimizerConfig) -> list[PlannedRun]:
    """Return the star of radii: one radius off its tuned value, at the stepsizes around s0."""
    arm = experiment.arms[name]
    if not arm.star or not isinstance(tuned, ScionConfig):
        return []
    reach = experiment.sweep.star_neighbours
    grid = stepsize_grid(arm, tuned)
    middle = grid.index(tuned.stepsize)
    near = grid[max(0, middle - reach) : middle + reach + 1]
    settings = [
        {"stepsize": s, role: tuned.roles[role].radius * factor}
        for role, factors in arm.star.items()
        for factor in factors
        for s in near
    ]
    return _cells(experiment, name, "radii", tuned, settings)


def check_runs(experiment: Experiment, name: str, tuned: OptimizerConfig) -> list[PlannedRun]:
    """Return the runs beyond the largest size with the setting that is handed over."""
    size = experiment.sweep.check_size
    return [] if size is None else _cells(experiment, name, "check", tuned, [{}], (size,))


def _cells(
    experiment: Experiment,
    name: str,
    purpose: Purpose,
    tuned: OptimizerConfig,
    settings: Iterable[dict[str, float]],
    sizes: tuple[int, ...] = (),
) -> list[PlannedRun]:
    return [
        PlannedRun(
            arm=name,
            purpose=purpose,
            config=run_config(experiment, name, with_settings(tuned, cell), size=size, seed=seed),
        )
        for size in sizes or experiment.sweep.sizes
        for cell in settings
        for seed in experiment.sweep.seeds
    ]
