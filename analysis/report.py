"""From verdicts and figures to the report's page: anybody's table, or a study with more beside."""

from collections.abc import Mapping, Sequence

from analysis.page import Claim, Page, Section, filled
from analysis.panels import Panel
from analysis.report_pictures import pictures_of
from analysis.report_tables import cell_tables, comparison, size_table
from analysis.result import Verdict
from analysis.words import (
    axes_text,
    drift_text,
    interaction,
    law,
    more_seeds,
    near_optimal,
    setting,
)

_MOST_NEXT = 6
_WORDS = """\
transferred: the setting that is best at the smallest size, and is to be used at the others.
regret: the loss that the transferred setting gives away at a size against the best setting there.
\u03b5 (epsilon): the difference of the loss that matters; fixed before looking.
transfers: the regret is at most \u03b5 at every size. Does not transfer: it exceeds \u03b5 at
  one, or training diverges there. Undecided: neither can be said with the confidence asked for.
best, optimum: the best grid point; and between the grid points, the vertex of a parabola.
drift: how the optimum moves when the size doubles, in octaves (factors of two) of the
  hyperparameter, or in its units where its scale is linear.
radii: sizes of the balls that bound each layer's step. Their star is a sweep in which one radius
  at a time is changed; what lies beyond its ends was not tried.
"""


def page_of(
    title: str,
    judged: Mapping[str, Mapping[str, Verdict]],
    panels: Sequence[Panel],
    *,
    subtitle: str = "",
    more: Sequence[Section] = (),
    foot: str = "",
) -> Page:
    """Put a report together.

    Args:
        title: What was judged.
        judged: By group, then by claim; the first claim of a group is the one that is drawn.
        panels: The landscapes of every group, as from `panels_of`, in the order of the groups.
        subtitle: A line below the title.
        more: Sections after the figures and the tables.
        foot: A line at the end.
    """
    firsts = {name: next(iter(claims.values())) for name, claims in judged.items()}
    sections = [
        Section(title="Figures", pictures=pictures_of(judged, panels)),
        Section(title="By size", tables=[size_table(name, v) for name, v in firsts.items()]),
    ]
    if len(firsts) > 1:
        sections.insert(0, Section(title="Comparison", tables=[comparison(firsts)]))
    if tables := cell_tables(panels):
        sections.append(Section(title="Every setting", tables=tables))
    return Page(
        title=title,
        subtitle=subtitle,
        question=_question(list(firsts.values())),
        claims=claims_of(judged),
        sections=[*sections, *more, Section(title="Words", commands=[_WORDS.rstrip()])],
        holds_for=axes_text(_shared([v.fixed for v in firsts.values()])),
        foot=foot,
    )


def _shared(fixed: Sequence[Mapping[str, object]]) -> dict[str, object]:
    first = fixed[0] if fixed else {}
    return {k: v for k, v in first.items() if all(f.get(k) == v for f in fixed)}


def _question(judged: Sequence[Verdict]) -> str:
    asked = {_asks(v) for v in judged}
    return (
        asked.pop()
        if len(asked) == 1
        else "May what is best at the smallest size be used up to the largest?"
    )


def _asks(v: Verdict) -> str:
    names, are = " and ".join(a.name for a in v.axes), "are" if len(v.axes) > 1 else "is"
    if len(v.rows) < 2:
        return f"May the {names} be used at other sizes?"
    small, large = v.rows[0].size, v.rows[-1].size
    return (
        f"May the {names} that {are} best at {v.size_name} {small:.12g} be used up to "
        f"{v.size_name} {large:.12g}?"
    )


def claims_of(judged: Mapping[str, Mapping[str, Verdict]]) -> list[Claim]:
    """Return every verdict in words."""
    found = []
    for name, claims in judged.items():
        for claim, v in claims.items():
            notes = [*v.notes]
            if not all(row.flat for row in v.rows):
                notes += [
                    f"{drift_text(drift, a)}: {law(drift, a, v.size_name, v.rows[0].size)}"
                    for a in v.axes
                    if (drift := v.drifts.get(a.name)) is not None
                ]
            if v.near_optimal or v.drifts:
                notes.append(near_optimal(v))
            if together := interaction(v.rows, v.axes, v.size_name):
                notes.append(together)
            notes += _next(v)
            who = f"{name}: {claim}" if name else claim
            found.append(Claim(who=who, status=v.status, reason=v.reason, notes=notes))
    return found


def fragment(v: Verdict) -> str:
    """Return one verdict as HTML, for notebooks."""
    (claim,) = claims_of({v.group: {v.hyperparameter: v}})
    table, holds_for = size_table(v.group, v), axes_text(v.fixed)
    return filled("verdict.html.j2", claim=claim, table=table, holds_for=holds_for)


def _next(v: Verdict) -> list[str]:
    runs = [
        f"would decide it: {more_seeds(run.more_seeds)} at {v.size_name} {run.size:.12g}, "
        + (setting(_moved(run.comparator, v), v.axes) or "the transferred setting")
        for run in v.next_runs[:_MOST_NEXT]
    ]
    left = len(v.next_runs) - len(runs)
    return [*runs, f"and {left} more"] if left else runs


def _moved(point: Mapping[str, float], v: Verdict) -> dict[str, float]:
    return {name: value for name, value in point.items() if value != v.transferred[name]}
