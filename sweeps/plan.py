"""From an experiment to the runs it consists of."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from sweeps.experiment import ArmConfig, Experiment
from transfer.config import OptimizerConfig, RunConfig, ScionConfig

Purpose = Literal["tune", "sweep", "radii", "check"]


def roles_at(experiment: Experiment, width: int) -> tuple[str, ...]:
    """Return the roles that the experiment's model has; a custom family is built to find out."""
    stated = experiment.model.roles(experiment.train.depth)
    if stated is not None:
        return stated
    from transfer.families import role_names  # torch, which other families need not wait for

    return role_names(experiment.model, width=width, depth=experiment.train.depth)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """A run, the arm it belongs to and what it is for."""

    arm: str
    purpose: Purpose
    config: RunConfig


def run_config(
    experiment: Experiment,
    optimizer: OptimizerConfig,
    *,
    fingerprint: str,
    width: int,
    seed: int,
) -> RunConfig:
    """Return one run; of the optimizer's rules, those for roles the model has."""
    if isinstance(optimizer, ScionConfig):
        present = roles_at(experiment, width)
        kept = {role: rule for role, rule in optimizer.roles.items() if role in present}
        optimizer = replace(optimizer, roles=kept)
    train = experiment.train
    return RunConfig(
        model=experiment.model,
        width=width,
        depth=train.depth,
        data=replace(experiment.data, fingerprint=fingerprint),
        batch_size=train.batch_size,
        steps=train.steps,
        label_smoothing=train.label_smoothing,
        schedule=train.schedule,
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


def sweep_runs(
    experiment: Experiment, name: str, tuned: OptimizerConfig, fingerprint: str
) -> list[PlannedRun]:
    """Return every stepsize x width x seed of an arm, radii as tuned."""
    settings = [{"stepsize": s} for s in stepsize_grid(experiment.arms[name], tuned)]
    return _cells(experiment, name, "sweep", tuned, settings, fingerprint)


def star_runs(
    experiment: Experiment, name: str, tuned: OptimizerConfig, fingerprint: str
) -> list[PlannedRun]:
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
    return _cells(experiment, name, "radii", tuned, settings, fingerprint)


def check_runs(
    experiment: Experiment, name: str, tuned: OptimizerConfig, fingerprint: str
) -> list[PlannedRun]:
    """Return the runs at twice the largest width with the setting that is handed over."""
    width = 2 * experiment.sweep.widths[-1]
    return _cells(experiment, name, "check", tuned, [{}], fingerprint, widths=(width,))


def _cells(
    experiment: Experiment,
    name: str,
    purpose: Purpose,
    tuned: OptimizerConfig,
    settings: Iterable[dict[str, float]],
    fingerprint: str,
    widths: tuple[int, ...] = (),
) -> list[PlannedRun]:
    return [
        PlannedRun(
            arm=name,
            purpose=purpose,
            config=run_config(
                experiment,
                with_settings(tuned, cell),
                fingerprint=fingerprint,
                width=width,
                seed=seed,
            ),
        )
        for width in widths or experiment.sweep.widths
        for cell in settings
        for seed in experiment.sweep.seeds
    ]
