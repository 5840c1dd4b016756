"""Plain English for verdicts: the one-sentence reason, and settings as people write them."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.axes import Axis
from analysis.drift import Drift
from analysis.grids import Point
from analysis.landscapes import Landscape
from analysis.result import SizeRow, Verdict
from analysis.rule import Judgement, SizeJudgement

_MOST_NAMED = 4
"""Settings, and sizes, that are written out one by one."""
_PLAIN = 0.1
"""Drifts of fewer octaves per doubling are not worth a sentence, however sure they are."""


def axes_text(axes: Mapping[str, object]) -> str:
    """Write fixed axes as a reader says them: `batch size 128, not constrained`."""

    def text(name: str, value: object) -> str:
        name = name.replace("_", " ")
        if isinstance(value, bool):
            return name if value else f"not {name}"
        return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"

    return ", ".join(text(name, value) for name, value in axes.items())


def octaves(change: float, axis: Axis) -> str:
    """Write a change on a hyperparameter's scale, with its sign and without a negative zero."""
    if axis.linear:
        return f"{change + 0.0:+.3g}"
    return f"{round(change, 2) + 0.0:+.2f}"


def drift_text(drift: Drift, axis: Axis) -> str:
    """Write a drift with its interval."""
    unit = "" if axis.linear else " octaves"
    text = f"the best {axis.name} drifts by {octaves(drift.slope, axis)}{unit} per doubling"
    if drift.low is None or drift.high is None:
        return text
    return f"{text} (95 %: {octaves(drift.low, axis)} to {octaves(drift.high, axis)})"


def law(drift: Drift, axis: Axis, size_name: str, smallest: float) -> str:
    """Write the line through the optima: as a power of the size, where the scale is logarithmic."""
    there, slope = axis.text(axis.back(drift.place_at(smallest))), round(drift.slope, 2) + 0.0
    if axis.linear:
        step = f"{'-' if drift.slope < 0 else '+'} {abs(drift.slope):.3g}"
        return f"best {axis.name} = {there} {step} log2({size_name} / {smallest:.12g})"
    return f"best {axis.name} = {there} ({size_name} / {smallest:.12g})^{slope:.2f}"


def more_seeds(number: int) -> str:
    """Write how many seeds."""
    return f"{number} more seed{'s' if number != 1 else ''}"


def setting(values: Mapping[str, float], axes: Sequence[Axis]) -> str:
    """Write those of a setting's values that are there: `stepsize 2^-4, alpha 0.1`."""
    return ", ".join(f"{a.name} {a.text(values[a.name])}" for a in axes if a.name in values)


def reason(
    judgement: Judgement[Point],
    axes: Sequence[Axis],
    transferred: Point,
    size_name: str,
    metric: str,
    num_seeds: int,
) -> str:
    """Say why the bounds lead to the judgement's status."""
    who = _home(axes, transferred)
    sizes, eps = judgement.sizes, judgement.epsilon
    seeds = f"{num_seeds} seed" + ("s" if num_seeds != 1 else "")
    if judgement.status == "transfers":
        worst = max(sizes, key=lambda j: j.upper or 0.0)
        who = who[0].upper() + who[1:]
        return (
            f"{who} is within {eps:.3g} {metric} of the best setting at every {size_name} from "
            f"{sizes[0].size:.12g} to {sizes[-1].size:.12g} (largest upper bound "
            f"{worst.upper:.2g}, at {size_name} {worst.size:.12g}; {seeds})."
        )
    if judgement.status == "does not transfer":
        return _not(judgement, axes, transferred, size_name, metric, seeds)
    return _undecided(judgement, axes, transferred, size_name, metric, seeds)


def _home(axes: Sequence[Axis], transferred: Point) -> str:
    """Name the transferred setting; of several columns the reader sees the values elsewhere."""
    if len(axes) > 1:
        return "the transferred setting"
    return f"{axes[0].name} {axes[0].text(transferred[0])}"


def _not(
    judgement: Judgement[Point],
    axes: Sequence[Axis],
    transferred: Point,
    size_name: str,
    metric: str,
    seeds: str,
) -> str:
    who = _home(axes, transferred)
    gone = [f"{j.size:.12g}" for j in judgement.sizes if j.reference_diverged]
    if gone:
        return f"Training with {who} diverges at {size_name} {', '.join(gone)}."
    bad = [j for j in judgement.sizes if j.lower is not None and j.lower > judgement.epsilon]
    worst = max(bad, key=lambda j: j.lower or 0.0)
    text = (
        f"At {size_name} {worst.size:.12g}, {who} loses {worst.regret:.2g} {metric} against the "
        f"best setting, at least {worst.lower:.2g} with {_sure(judgement.level)} confidence "
        f"({seeds}; {judgement.epsilon:.3g} matters); clearest against "
        f"{_better(worst, axes, transferred)}"
    )
    if bad[0].size == judgement.sizes[0].size:
        text += f"; it is not the best at the smallest {size_name} either, so tune again there"
    return text + "."


def _undecided(
    judgement: Judgement[Point],
    axes: Sequence[Axis],
    transferred: Point,
    size_name: str,
    metric: str,
    seeds: str,
) -> str:
    who = _home(axes, transferred)
    if untested := _untested(judgement, who, size_name):
        others = [
            f"{j.size:.12g}" for j in judgement.sizes if not j.untested and _open(j, judgement)
        ]
        more = f" The noise leaves it open at {size_name} {', '.join(others)} too."
        return untested + (more if others else "")
    open_ = [j for j in judgement.sizes if _open(j, judgement)]
    unknown = [f"{j.size:.12g}" for j in open_ if j.upper is None]
    if unknown:
        return (
            f"The runs at {size_name} {', '.join(unknown)} do not tell how noisy the comparison "
            f"of {who} with the other settings is: more seeds are needed."
        )
    worst = max(open_, key=lambda j: j.upper or 0.0)
    at = ", ".join(f"{j.size:.12g}" for j in open_)
    return (
        f"The noise leaves it open at {size_name} {at}: at {worst.size:.12g}, {who} may lose up to "
        f"{worst.upper:.2g} {metric} against {_better(worst, axes, transferred)} ({seeds}; "
        f"{judgement.epsilon:.3g} matters)."
    )


def _open(j: SizeJudgement[Point], judgement: Judgement[Point]) -> bool:
    return j.upper is None or j.upper > judgement.epsilon


def _untested(judgement: Judgement[Point], who: str, size_name: str) -> str:
    sizes = [f"{j.size:.12g}" for j in judgement.sizes if j.untested]
    return f"There is no run with {who} at {size_name} {', '.join(sizes)}." if sizes else ""


def _better(j: SizeJudgement[Point], axes: Sequence[Axis], transferred: Point) -> str:
    """Name the comparator by the columns in which it differs."""
    if j.binding is None:
        return "another setting"
    pairs = zip(axes, j.binding, transferred, strict=True)
    return setting({axis.name: value for axis, value, home in pairs if value != home}, axes)


def _sure(level: float) -> str:
    return f"{100 * (1 - level):g} %"


def one_size(size_name: str) -> str:
    return f"The table holds one {size_name} only: transfer needs at least two."


def not_tuned(smallest: Landscape, size_name: str) -> str:
    """Say on which edges of its grid the smallest size is best."""
    edges = "; ".join(_edge(smallest, k) for k in smallest.censored)
    return (
        f"Not tuned: at the smallest {size_name}, {smallest.size:.12g}, {edges}, so a better one "
        "may lie beyond."
    )


def _edge(c: Landscape, k: int) -> str:
    """Say that nothing was run beyond the best value of one hyperparameter."""
    assert c.best is not None
    axis, side, values = c.axes[k], c.censored[k], np.unique(c.points[:, k])
    best = f"the best {axis.name}, {axis.text(c.best[k])},"
    if values.size == 1:
        return f"{best} is the only one that was run"
    if side != "alone" and c.best[k] in (values[0], values[-1]):
        return f"{best} is the {'smallest' if side == 'below' else 'largest'} of the grid"
    what = {"below": "smaller", "above": "larger", "alone": "other"}[side]
    return f"no {what} {axis.name} was run beside the best setting ({setting_at(c)})"


def setting_at(c: Landscape) -> str:
    """Write the best setting of a size."""
    return (
        ""
        if c.best is None
        else setting({a.name: v for a, v in zip(c.axes, c.best, strict=True)}, c.axes)
    )


def at_edge(
    edges: Sequence[Landscape],
    judgement: Judgement[Point],
    transferred: Point,
    axes: Sequence[Axis],
    size_name: str,
) -> str:
    """Name the edges, and what else leaves it open."""
    where: dict[str, list[str]] = {}
    for c in edges:
        for k in c.censored:
            where.setdefault(_edge(c, k), []).append(f"{c.size:.12g}")
    found = "; ".join(f"at {size_name} {_few(sizes)} {text}" for text, sizes in where.items())
    noisy = any(_open(j, judgement) for j in judgement.sizes if not j.untested)
    rest = ", and the noise leaves other sizes open" if noisy else ""
    untested = _untested(judgement, _home(axes, transferred), size_name)
    return (
        f"{found[0].upper()}{found[1:]}, so a better one may lie beyond{rest}. {untested}"
    ).rstrip()


def _few(sizes: Sequence[str]) -> str:
    """List sizes, the first few of many."""
    if len(sizes) <= _MOST_NAMED:
        return ", ".join(sizes)
    return f"{', '.join(sizes[: _MOST_NAMED - 1])} and {len(sizes) - _MOST_NAMED + 1} more"


def plain_drift(drift: Drift | None, axis: Axis, size_name: str) -> str:
    """Words for an undecided verdict whose optimum moves all the same."""
    if drift is None or drift.low is None or drift.high is None or not drift.excludes_zero:
        return ""
    if axis.linear:
        moved = f"by {drift.slope:+.3g} per doubling of {size_name} (95 % interval "
        moved += f"{drift.low:+.3g} to {drift.high:+.3g})"
    elif abs(drift.slope) <= _PLAIN:
        return ""
    else:
        moved = f"by a factor of {2**drift.slope:.2f} per doubling of {size_name} (95 % interval "
        moved += f"{2**drift.low:.2f} to {2**drift.high:.2f})"
    return f" All the same the best {axis.name} drifts plainly, {moved}."


def near_optimal(verdict: Verdict) -> str:
    """Say which settings are within epsilon of the best mean at every size."""
    near, axes = verdict.near_optimal, verdict.axes
    if not near:
        found = "no setting"
    elif len(near) > _MOST_NAMED:
        ends = (min, max)
        spans = [[end(p[a.name] for p in near) for end in ends] for a in axes]
        found = f"{len(near)} settings, " + ", ".join(
            f"{a.name} {a.text(low)} to {a.text(high)}"
            for a, (low, high) in zip(axes, spans, strict=True)
        )
    else:
        found = "; ".join(setting(p, axes) for p in near)
    return f"within epsilon of the best at every {verdict.size_name}: {found}"


def interaction(rows: Sequence[SizeRow], axes: Sequence[Axis], size_name: str) -> str:
    """Say how the best value of the first of two hyperparameters follows the second.

    Whether it does is judged by the mean over the sizes. Empty for one hyperparameter, or where no
    size has enough cells about its best one.
    """
    known = [(row.size, row.tilt) for row in rows if row.tilt is not None]
    if len(axes) != 2 or not known:
        return ""
    first, second = axes
    one = f"one unit of {second.name}" if second.linear else f"a doubling of {second.name}"
    unit = f"units of {first.name}" if first.linear else "octaves"
    digits = "+.3g" if first.linear else "+.2f"
    many = "; ".join(
        f"{tilt.slope:{digits}} {unit} ({tilt.low:{digits}} to {tilt.high:{digits}}) at "
        f"{size_name} {size:.12g}"
        for size, tilt in known
    )
    mean = sum(t.slope for _, t in known) / len(known)
    half = math.sqrt(sum(((t.high - t.low) / 2) ** 2 for _, t in known)) / len(known)
    if abs(mean) <= half or (not first.linear and not second.linear and abs(mean) < _PLAIN):
        return f"No interaction is seen: {one} moves the best {first.name} by {many}."
    verb = "rises" if mean > 0 else "falls"
    return f"They interact: the best {first.name} {verb} with {second.name}, for {one} by {many}."
