"""The stages after computing: tables, verdicts, figures and the recipe of one study."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.adaptive import needed
from sweeps.experiment import Experiment
from sweeps.plan import PlannedRun, roles_at, run_config, stepsize_grid
from sweeps.progress import Reporter
from sweeps.sizes import SIZE_FIELDS
from sweeps.study import Study, write_json
from sweeps.table import StoredRun
from sweeps.tune import Tuned
from transfer.config import CustomConfig, ModelConfig, OptimizerConfig, ScionConfig

if TYPE_CHECKING:
    import pandas as pd

    from analysis import Verdict
    from transfer.recipe import Recipe

VERDICT_FILE = "verdict.json"


class IncompleteError(RuntimeError):
    """The study lacks runs that a stage needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A study whose sweep is complete, ready to be judged."""

    study: Study
    tuned: dict[str, Tuned]
    planned: list[PlannedRun]
    rows: dict[str, StoredRun]
    frame: "pd.DataFrame"

    @property
    def results(self) -> Path:
        """Folder of everything that can be made again from the run table."""
        return self.study.folder / "results"

    def runs(self, arm: str, purpose: str) -> "pd.DataFrame":
        """Return the rows of one arm and purpose."""
        return self.frame[(self.frame["arm"] == arm) & (self.frame["purpose"] == purpose)]

    def at_transferred(self, arm: str) -> "pd.DataFrame":
        """Return the rows of an arm's sweep at the stepsize that the verdict is about."""
        runs = self.runs(arm, "sweep")
        return runs[runs["stepsize"] == self.transferred(arm)]

    def transferred(self, arm: str) -> float:
        """Return the stepsize that the verdict is about."""
        return self.tuned[arm].optimizer.stepsize

    def num_failed(self) -> int:
        """Count the runs that raised."""
        return int((self.frame["status"] == "failed").sum())


def finished(
    study: Study, *, need_check: bool = False, tuned: dict[str, Tuned] | None = None
) -> Finished:
    """Read a study whose sweep is complete.

    Args:
        study: What to read.
        need_check: Whether the runs beyond the largest size must be there too.
        tuned: Result of the tuning, if it is known; else it is read from the run table.

    Raises:
        IncompleteError: runs are missing; says how many and what to run.
    """
    from sweeps.frame import to_frame

    try:
        tuned = tuned or study.tune(None, Reporter())
    except LookupError as error:
        raise IncompleteError(
            f"tuning is not complete ({error}): lmo-transfer sweep {study.folder}"
        ) from None
    planned = needed(study, tuned, settled)
    rows = study.table.read()
    wanted = [r for r in planned if need_check or r.purpose != "check"]
    missing = [r for r in wanted if r.config.run_id not in rows]
    if missing:
        raise IncompleteError(
            f"{len(missing)} of {len(wanted)} runs are missing: lmo-transfer sweep {study.folder}"
        )
    everything = _tuning_runs(study, tuned) + planned
    return Finished(
        study=study,
        tuned=tuned,
        planned=planned,
        rows=rows,
        frame=to_frame(everything, rows),
    )


def _tuning_runs(study: Study, tuned: dict[str, Tuned]) -> list[PlannedRun]:
    # Trials may repeat a setting, and arms may share runs.
    runs = {
        (arm, config.run_id): PlannedRun(arm=arm, purpose="tune", config=config)
        for arm, result in tuned.items()
        for config in result.tried
    }
    return list(runs.values())


def write_tables(done: Finished) -> list[Path]:
    """Write the tidy table and the tuned settings."""
    from sweeps.frame import write_tables as write

    summary = {
        arm: {
            "settings": tuned.settings,
            "val_loss": tuned.value,
            "method": tuned.method,
            "num_trials": tuned.num_trials,
            "on_edge": list(tuned.on_edge),
            "run_ids": list(tuned.run_ids),
        }
        for arm, tuned in done.tuned.items()
    }
    return [*write(done.frame, done.results), write_json(done.results / "tuned.json", summary)]


# --- verdict ---------------------------------------------------------------------------------


def judge(done: Finished) -> dict[str, dict[str, "Verdict"]]:
    """Judge every arm: the transferred stepsize, and its radii where a star was swept."""
    from analysis import radii_verdict

    verdicts: dict[str, dict[str, Verdict]] = {}
    for arm, tuned in done.tuned.items():
        main, star = done.runs(arm, "sweep"), done.runs(arm, "radii")
        verdicts[arm] = {"stepsize": _judge_stepsize(done.study, arm, tuned, main)}
        if isinstance(tuned.optimizer, ScionConfig):
            radii = [c for c in main.columns if c.startswith("radius_") and main[c].notna().all()]
            varied = {f"radius_{role}" for role in done.study.experiment.arms[arm].star}
            fixed = fixed_axes(done.study.experiment, arm, tuned.optimizer)
            rest = {axis: value for axis, value in fixed.items() if axis not in varied}
            verdicts[arm]["radii"] = radii_verdict(
                main, star, comparators=radii, fixed=rest, **_common(done.study, tuned)
            )
    return verdicts


def settled(study: Study, arm: str, tuned: Tuned, runs: Sequence[PlannedRun]) -> bool:
    """Return whether a part of an arm's sweep, which the run table has, decides its verdict."""
    from analysis import settles
    from sweeps.frame import to_frame

    frame = to_frame(runs, study.table.read())
    grid = stepsize_grid(study.experiment.arms[arm], tuned.optimizer)
    return settles(_judge_stepsize(study, arm, tuned, frame), frame, grid)


def _judge_stepsize(study: Study, arm: str, tuned: Tuned, main: "pd.DataFrame") -> "Verdict":
    """Judge the stepsize from an arm's sweep, or from the part that an adaptive one needs."""
    from analysis import verdict

    experiment, optimizer = study.experiment, tuned.optimizer
    grid = len(stepsize_grid(experiment.arms[arm], optimizer)) * len(experiment.sweep.sizes)
    return verdict(
        main,
        fixed=fixed_axes(experiment, arm, optimizer),
        bounds={"stepsize": (None, largest_stepsize(optimizer))},
        num_planned=grid,  # also of a whole grid, so that a part of it is judged alike
        **_common(study, tuned),
    )


def _common(study: Study, tuned: Tuned) -> dict[str, Any]:
    settings = study.experiment.verdict
    return {
        "transferred": tuned.optimizer.stepsize,
        "epsilon": settings.epsilon,
        # The significance level is halved at each further look.
        "level": settings.level / 2 ** (study.looks() - 1),
        "group": "arm",
        "size": study.experiment.sweep.axis,
    }


def largest_stepsize(optimizer: OptimizerConfig) -> float | None:
    """Return the largest stepsize that an optimizer allows; None if there is none."""
    return 1.0 if isinstance(optimizer, ScionConfig) and optimizer.constrained else None


def fixed_axes(experiment: Experiment, arm: str, optimizer: OptimizerConfig) -> dict[str, Any]:
    """Return what the verdict about an arm with a tuned optimizer holds fixed."""
    train, sweep = experiment.train, experiment.sweep
    point = experiment.at(sweep.sizes[0])
    axes: dict[str, Any] = {
        "data": experiment.data.name,
        "family": _family(experiment.model),
        "width": point.width,
        "depth": point.depth,
        "steps": point.steps,
        "batch_size": point.batch_size,
        "schedule": (experiment.arms[arm].schedule or train.schedule).name,
        "label_smoothing": train.label_smoothing,
        "precision": train.precision,
        "optimizer": optimizer.name,
    }
    del axes[sweep.axis]
    if sweep.fixed_examples:
        del axes["steps"]
        axes["examples"] = train.batch_size * train.steps
    shape = experiment.data.shape
    if shape.kind == "tokens":
        axes["sequence_length"] = shape.inputs[0]
    views = getattr(experiment.data, "val_views", "plain")
    if views != "plain":
        axes["val_views"] = views
    if isinstance(optimizer, ScionConfig):
        axes |= {"alpha": optimizer.alpha, "constrained": optimizer.constrained}
        if optimizer.average == "oracles":
            axes["algorithm"] = "ALMOND"
        for role in roles_at(experiment, sweep.sizes[0]):
            rule = optimizer.roles[role]
            axes |= {f"norm_{role}": rule.norm, f"radius_{role}": rule.radius}
    return axes


def _family(model: ModelConfig) -> str:
    return model.build if isinstance(model, CustomConfig) else model.family


def write_verdicts(done: Finished, verdicts: dict[str, dict[str, "Verdict"]]) -> Path:
    """Write all verdicts of a study as one JSON file."""
    return write_json(done.results / VERDICT_FILE, verdicts_to_dict(done, verdicts))


def verdicts_to_dict(done: Finished, verdicts: dict[str, dict[str, "Verdict"]]) -> dict[str, Any]:
    """Return all verdicts of a study as JSON-ready data."""
    return {
        "experiment": done.study.experiment.name,
        "arms": {
            arm: {claim: verdict.to_dict() for claim, verdict in claims.items()}
            for arm, claims in verdicts.items()
        },
    }


# --- recipe ----------------------------------------------------------------------------------


def export_recipe(
    done: Finished, verdicts: Mapping[str, Mapping[str, "Verdict"]], arm: str | None, path: Path
) -> Path | None:
    """Write the recipe of an arm, by default the first that has radii; None if none has.

    Raises:
        ValueError: the arm does not exist, or has no radii to hand over.
    """
    from transfer.config import unknown

    if arm is None:
        scion = (a for a, t in done.tuned.items() if isinstance(t.optimizer, ScionConfig))
        arm = next(scion, None)
        if arm is None:
            return None
    if arm not in done.tuned:
        raise ValueError(unknown("arm", arm, done.tuned))
    return recipe_of(done, verdicts, arm).save(path)


def recipe_of(
    done: Finished, verdicts: Mapping[str, Mapping[str, "Verdict"]], arm: str
) -> "Recipe":
    """Return the recipe of an arm.

    Raises:
        ValueError: the arm has no radii to hand over.
    """
    from transfer.recipe import Recipe

    experiment = done.study.experiment
    run = run_config(
        experiment,
        arm,
        done.tuned[arm].optimizer,
        size=experiment.sweep.sizes[0],
        seed=experiment.sweep.seeds[0],
    )
    return Recipe(
        name=f"{done.study.experiment.name}/{arm}",
        run=run,
        verdict={claim: v.to_dict() for claim, v in verdicts[arm].items()},
        provenance=provenance(done, arm),
    )


def provenance(done: Finished, arm: str) -> dict[str, Any]:
    """Return what an arm's setting and verdict rest on."""
    tuned, experiment = done.tuned[arm], done.study.experiment
    sweep = experiment.sweep
    axis = sweep.axis
    swept = [r.config.run_id for r in done.planned if r.arm == arm and r.purpose == "sweep"]
    return {
        f"tuned_{axis}": sweep.sizes[0],
        f"swept_{SIZE_FIELDS[axis]}": list(sweep.sizes),
        "tuning_seeds": list(experiment.tune.seeds),
        "sweep_seeds": list(experiment.sweep.seeds),
        "tuning_val_loss": tuned.value,
        "tuning_method": tuned.method,
        "tuning_num_trials": tuned.num_trials,
        "tuning_run_ids": list(tuned.run_ids),
        "sweep_run_ids": sorted(swept),
        "versions": _versions([done.rows[run_id].versions for run_id in swept]),
        "commit": _commit(),
    }


def _versions(used: list[dict[str, str]]) -> dict[str, str]:
    """Return the versions behind a set of runs, all of them where they differ."""
    names = sorted({name for versions in used for name in versions})
    return {name: ", ".join(sorted({v.get(name, "unknown") for v in used})) for name in names}


def _commit() -> str | None:
    """Return the commit of the source tree this runs from, if it is one."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        told = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None
