"""What a report says of a study beside its verdicts: its course, its recipe, how to make it."""

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from launch import norms
from launch.commands import PROG
from launch.figures import training_curves, tuning_trials
from launch.pipeline import Finished, provenance, recipe_of
from launch.sources import quoted
from sweeps.plan import roles_at
from transfer.config import ScionConfig

if TYPE_CHECKING:
    import pandas as pd

    from analysis import Verdict
    from analysis.page import Cell, Picture, Section, Table

    Verdicts = Mapping[str, Mapping[str, Verdict]]


def sections_of(done: Finished, verdicts: "Verdicts", prefix: str) -> "list[Section]":
    """Return them all, with something before their titles."""
    return [
        *_beyond(done, prefix),
        _course(done, prefix),
        *_coordinates(done, prefix),
        *_recipes(done, verdicts, prefix),
        _reproduction(done, prefix),
    ]


def _beyond(done: Finished, prefix: str) -> "list[Section]":
    """Losses at the size that was not swept, beside the swept ones."""
    from analysis.page import Cell, Column, Section, Table

    sweep, checks = done.study.experiment.sweep, done.frame[done.frame["purpose"] == "check"]
    new = sweep.check_size
    if new is None or checks.empty:
        return []
    rows = []
    for arm in done.tuned:
        main = done.at_transferred(arm)
        parts = [main[main[sweep.axis] == size] for size in sweep.sizes]
        rows.append([Cell(arm), *map(_mean, (*parts, checks[checks["arm"] == arm]))])
    columns = [Column("arm", numeric=False), *(Column(str(size)) for size in sweep.sizes)]
    table = Table(
        title=f"Validation loss of the tuned setting by {sweep.axis}",
        columns=[*columns, Column(f"{new} (new)")],
        rows=rows,
    )
    title = f"{prefix}At {sweep.axis} {new}, which was not swept"
    return [Section(title=title, tables=[table])]


def _mean(runs: "pd.DataFrame") -> "Cell":
    """The mean loss of runs that are all done."""
    from analysis.page import Cell

    if (runs["status"] == "diverged").any():
        return Cell("diverged", 1e308)
    if runs.empty or (runs["status"] != "done").any():
        return Cell.dash()
    return Cell.number(float(runs["val_loss"].mean()))


def _course(done: Finished, prefix: str) -> "Section":
    """What happened in time: the tuning's trials, and the losses at the transferred setting."""
    from analysis import plot_norms, plot_training, plot_tuning
    from analysis.page import Picture, Section

    pictures, axis = list["Picture"](), done.study.experiment.sweep.axis
    if curves := training_curves(done):
        text = (
            "Means over the seeds still alive, at the transferred setting; bands span the seeds; "
            f"one curve for each {axis}; a cross at the top is a seed that diverged."
        )
        pictures.append(
            Picture.of(
                partial(plot_training, curves, axis),
                title="Training loss",
                text=text,
                alt=f"Training loss against the step for {', '.join(curves)}. {text}",
            )
        )
    if trials := tuning_trials(done):
        best = "; ".join(f"{arm}: {_best(values)}" for arm, values in trials.items())
        pictures.append(
            Picture.of(
                partial(plot_tuning, trials),
                title="Tuning",
                text="Mean validation loss of every trial; the lines are the best so far, "
                f"triangles at the top lie above. {best}.",
                alt=f"Loss of every trial of the tuning. {best}.",
            )
        )
    weights = norms.read(done.results)
    if weights is not None:
        pictures.append(
            Picture.of(
                partial(plot_norms, weights, axis),
                title="Norms of the weights",
                text="The tuned setting, one seed; each layer in the norm of its role, the output "
                "layer's is RMS→∞ under scaled-sign. Lines are medians over the layers of a role.",
                alt=f"Norms of the weights against the step, by role and {axis}.",
            )
        )
    return Section(title=f"{prefix}In time", pictures=pictures, tables=[_tuned_table(done)])


def _best(values: list[float]) -> str:
    if not any(map(math.isfinite, values)):
        return f"all {len(values)} trials diverged"
    return f"{min(values):.4f} after {len(values)} trials"


def _tuned_table(done: Finished) -> "Table":
    from analysis.axes import Axis
    from analysis.page import Cell, Column, Table

    rows = []
    for arm, tuned in done.tuned.items():
        settings = sorted(tuned.settings.items(), key=lambda i: i[0] != "stepsize")
        text = ", ".join(
            f"{n if n == 'stepsize' else n + ' radius'} {Axis(n).text(v)}" for n, v in settings
        )
        edge = ", ".join(tuned.on_edge)
        rows.append(
            [Cell(arm), Cell(text or "as given"), Cell.number(tuned.value), Cell(tuned.method),
             Cell(str(tuned.num_trials), tuned.num_trials), Cell(edge or "none")]
        )  # fmt: skip
    columns = [Column("arm", numeric=False), Column("setting", numeric=False), Column("loss")]
    columns += [Column("how", numeric=False), Column("trials")]
    columns += [Column("at an end of its search range", numeric=False)]
    return Table(title="Tuned at the smallest size", columns=columns, rows=rows)


def _coordinates(done: Finished, prefix: str) -> "list[Section]":
    """The figures of the coordinate check, where it was made."""
    from analysis.page import Picture, Section

    pictures = [
        Picture(
            svg=path.read_bytes(),
            title=path.stem.replace("_", " "),
            text="Sizes of activations, weights and updates over the widths: flat lines keep them.",
            alt=f"Coordinate check: slopes of the sizes of activations, {path.stem}.",
        )
        for path in sorted(done.results.glob("coordcheck*.svg"))
    ]
    return [Section(title=f"{prefix}Coordinate check", pictures=pictures)] if pictures else []


def _recipes(done: Finished, verdicts: "Verdicts", prefix: str) -> "list[Section]":
    """What the large run is started with."""
    from analysis.page import Cell, Column, Section, Table, Text

    sections, experiment = [], done.study.experiment
    present = roles_at(experiment, experiment.sweep.sizes[0])
    for arm, tuned in done.tuned.items():
        optimizer = tuned.optimizer
        if not isinstance(optimizer, ScionConfig):
            continue
        rows = [
            [Cell(role), Cell(rule.norm), Cell(f"{rule.radius:.4g}", rule.radius), Cell(rule.init)]
            for role, rule in optimizer.roles.items()
            if role in present
        ]
        columns = [Column("role", numeric=False), Column("norm", numeric=False)]
        columns += [Column("radius"), Column("initial weights", numeric=False)]
        facts = [("stepsize", f"{optimizer.stepsize:.6g}"), ("alpha", f"{optimizer.alpha:.4g}")]
        facts += [("constrained", "yes" if optimizer.constrained else "no")]
        told = "; ".join(f"{claim}: {v.status}" for claim, v in verdicts[arm].items())
        sections.append(
            Section(
                title=f"{prefix}Recipe of {arm}",
                texts=[f"Verdict: {told}."],
                facts=facts,
                tables=[Table(title="Norms and radii", columns=columns, rows=rows)],
                commands=[f"{PROG} export {quoted(done.study.folder)} --arm {arm}"],
                files=[Text("recipe.json", recipe_of(done, verdicts, arm).to_json())],
            )
        )
    return sections


def _reproduction(done: Finished, prefix: str) -> "Section":
    import tomli_w

    from analysis.page import Section, Text
    from sweeps.reading import experiment_to_dict

    experiment, arm = done.study.experiment, next(iter(done.tuned))
    # Whose cluster it was matters to no result, and the page may go to others.
    written = {k: v for k, v in experiment_to_dict(experiment).items() if k != "cluster"}
    known, folder = provenance(done, arm), quoted(done.study.folder)
    facts = [(name, str(version)) for name, version in known["versions"].items()]
    facts += [("commit", str(known["commit"] or "unknown"))]
    facts += [("last run", str(done.frame["finished"].dropna().astype(str).max()))]
    facts += [("seeds", ", ".join(map(str, experiment.sweep.seeds)))]
    return Section(
        title=f"{prefix}How to reproduce it",
        texts=["Save the experiment below as experiment.toml; then:"],
        commands=[f"{PROG} run experiment.toml --study {folder}\n{PROG} report {folder}"],
        facts=facts,
        files=[
            Text("experiment.toml", tomli_w.dumps(written), printed=True),
            Text("provenance.json", json.dumps(known, indent=2)),
        ],
    )
