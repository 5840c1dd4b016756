"""Plain English for verdicts: the one-sentence reason, and numbers as people write them."""

import math
from collections.abc import Mapping, Sequence

from analysis.curves import Curve, Drift
from analysis.rule import Judgement, SizeJudgement

Point = tuple[float, ...]
"""A comparator's values, in the order of the verdict's columns."""


_PLAIN = 0.1
"""Drifts of fewer octaves per doubling are not worth a sentence, however sure they are."""


def number(value: float) -> str:
    """Write powers of two below 1 as 2^-k, other numbers with four digits."""
    if 0 < value < 1:
        exponent = math.log2(value)
        if abs(exponent - round(exponent)) < 1e-9:
            return f"2^{round(exponent)}"
    return f"{value:.4g}"


def axes_text(axes: Mapping[str, object]) -> str:
    """Write fixed axes as a reader says them: `batch size 128, not constrained`."""

    def text(name: str, value: object) -> str:
        name = name.replace("_", " ")
        if isinstance(value, bool):
            return name if value else f"not {name}"
        return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"

    return ", ".join(text(name, value) for name, value in axes.items())


def power_law(drift: Drift, hyperparameter: str, size_name: str, smallest: float) -> str:
    """Write the line through the optima as a power of the size."""
    there, slope = number(2 ** drift.log2_at(smallest)), round(drift.slope, 2) + 0.0
    return f"best {hyperparameter} = {there} ({size_name} / {smallest:.12g})^{slope:.2f}"


def setting(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number(v)}" for name, v in values.items())


def reason(
    judgement: Judgement[Point],
    columns: Sequence[str],
    transferred: Point,
    size_name: str,
    metric: str,
    num_seeds: int,
) -> str:
    """Say why the bounds lead to the judgement's status."""
    who = _home(columns, transferred)
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
        return _not(judgement, columns, transferred, size_name, metric, seeds)
    return _undecided(judgement, columns, transferred, size_name, metric, seeds)


def _home(columns: Sequence[str], transferred: Point) -> str:
    """Name the transferred setting; of several columns the reader sees the values elsewhere."""
    if len(columns) > 1:
        return "the transferred setting"
    return setting(dict(zip(columns, transferred, strict=True)))


def _not(
    judgement: Judgement[Point],
    columns: Sequence[str],
    transferred: Point,
    size_name: str,
    metric: str,
    seeds: str,
) -> str:
    who = _home(columns, transferred)
    gone = [f"{j.size:.12g}" for j in judgement.sizes if j.reference_diverged]
    if gone:
        return f"Training with {who} diverges at {size_name} {', '.join(gone)}."
    bad = [j for j in judgement.sizes if j.lower is not None and j.lower > judgement.epsilon]
    worst = max(bad, key=lambda j: j.lower or 0.0)
    text = (
        f"At {size_name} {worst.size:.12g}, {who} loses {worst.regret:.2g} {metric} against the "
        f"best setting, at least {worst.lower:.2g} with {_sure(judgement.level)} confidence "
        f"({seeds}; {judgement.epsilon:.3g} matters); clearest against "
        f"{_better(worst, columns, transferred)}"
    )
    if bad[0].size == judgement.sizes[0].size:
        text += f"; it is not the best at the smallest {size_name} either, so tune again there"
    return text + "."


def _undecided(
    judgement: Judgement[Point],
    columns: Sequence[str],
    transferred: Point,
    size_name: str,
    metric: str,
    seeds: str,
) -> str:
    who = _home(columns, transferred)
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
        f"{worst.upper:.2g} {metric} against {_better(worst, columns, transferred)} ({seeds}; "
        f"{judgement.epsilon:.3g} matters)."
    )


def _open(j: SizeJudgement[Point], judgement: Judgement[Point]) -> bool:
    return j.upper is None or j.upper > judgement.epsilon


def _untested(judgement: Judgement[Point], who: str, size_name: str) -> str:
    sizes = [f"{j.size:.12g}" for j in judgement.sizes if j.untested]
    return f"There is no run with {who} at {size_name} {', '.join(sizes)}." if sizes else ""


def _better(j: SizeJudgement[Point], columns: Sequence[str], transferred: Point) -> str:
    """Name the comparator by the columns in which it differs."""
    if j.binding is None:
        return "another setting"
    pairs = zip(columns, j.binding, transferred, strict=True)
    return setting({name: value for name, value, home in pairs if value != home})


def _sure(level: float) -> str:
    return f"{100 * (1 - level):g} %"


def one_size(size_name: str) -> str:
    return f"The table holds one {size_name} only: transfer needs at least two."


def not_tuned(curve: Curve, hyperparameter: str, size_name: str) -> str:
    side = "smaller" if curve.censored == "below" else "larger"
    return (
        f"Not tuned: at the smallest {size_name}, {curve.size:.12g}, the best {hyperparameter} "
        f"{number(curve.best_x)} is the grid's edge, so {side} values may be better still."
    )


def at_edge(
    edges: Sequence[Curve],
    judgement: Judgement[Point],
    transferred: Point,
    hyperparameter: str,
    size_name: str,
) -> str:
    """Name the edges, and what else leaves it open."""
    where = "; ".join(
        f"{'smallest' if c.censored == 'below' else 'largest'} grid value "
        f"{number(c.best_x)} at {size_name} {c.size:.12g}"
        for c in edges
    )
    noisy = any(_open(j, judgement) for j in judgement.sizes if not j.untested)
    rest = ", and the noise leaves other sizes open" if noisy else ""
    untested = _untested(judgement, _home([hyperparameter], transferred), size_name)
    return (
        f"The best {hyperparameter} lies on the grid's edge ({where}), so a better one may lie "
        f"outside{rest}. {untested}"
    ).rstrip()


def plain_drift(drift: Drift | None, hyperparameter: str, size_name: str) -> str:
    """Words for an undecided verdict whose optimum moves all the same."""
    if drift is None or not drift.excludes_zero or abs(drift.slope) <= _PLAIN:
        return ""
    return (
        f" All the same the best {hyperparameter} drifts plainly, by a factor of "
        f"{2**drift.slope:.2f} per doubling of {size_name} (95 % interval {2**drift.low:.2f} to "
        f"{2**drift.high:.2f})."
        if drift.low is not None and drift.high is not None
        else ""
    )
