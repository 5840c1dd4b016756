"""Roles inferred from a family itself: which dimensions of which module types grow with width."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import Size, nn

from transfer.config import RoleOverride
from transfer.layouts import Layout
from transfer.roles.facts import Fact, parameter_facts
from transfer.roles.table import ParameterRow, ParameterTable, make_row

_ADVICE = (
    "; say what they are: overrides={PATTERN: RoleOverride(role='hidden', layout='matrix')} "
    "with a pattern for their names ([model.overrides] in a file)"
)


def infer_roles(
    model: nn.Module,
    other: nn.Module,
    overrides: Mapping[str, RoleOverride] | None = None,
) -> ParameterTable:
    """Infer the role of every parameter of a model, comparing it with one of another width.

    A linear layer whose d_out alone grows is an input, whose d_in alone grows an output (hidden,
    if it is repeated over blocks, as the gate of a router), and hidden otherwise. Embeddings,
    position embeddings and class tokens are one-hot inputs; an embedding shared with a linear layer
    is tied; convolutions over separate patches of an input that does not grow are inputs.
    Parameters that modules of unknown types hold themselves are known by whole words of their
    names (bias, gain, scale, token, position, ...), or not at all.

    Args:
        model: The model the table is for.
        other: The same family and depth at another width; both may be on the meta device.
        overrides: Roles, norms, radii or layouts by name pattern, where the inferred ones are
            wrong or nothing can be inferred.

    Raises:
        ValueError: different parameters, no dimension that grows, a parameter whose role cannot
            be inferred, a pattern that matches nothing; the parameters are named.
    """
    mine, its = dict(model.named_parameters()), dict(other.named_parameters())
    if mine.keys() != its.keys():
        names = ", ".join(sorted(mine.keys() ^ its.keys())[:4])
        raise ValueError(f"the two models must have the same parameters; only in one: {names}")
    if all(p.shape == its[name].shape for name, p in mine.items()):
        raise ValueError("no parameter's shape differs between the two models: equal widths?")
    facts, other_facts = parameter_facts(model), parameter_facts(other)
    grows = {
        name: _growth(facts[name], other_facts[name], p.shape, its[name].shape)
        for name, p in mine.items()
    }
    heads = {name: p.shape for name, p in mine.items() if grows[name] == (False, True)}
    repeated = _repeated(heads)
    rows, unknown = [], []
    for name, p in mine.items():
        role, note = _role(facts[name], grows[name], name in repeated)
        row = make_row(name, p, role or "hidden", facts[name])
        rows.append(_noted(replace(row, in_grows=grows[name][1]), note))
        if role is None:
            unknown.append(name)
    table = ParameterTable(tuple(rows)).override(overrides or {})
    _require_known(unknown, mine, table, overrides or {})
    return table.with_rules(table.rules)


def _role(facts: list[Fact], growth: tuple[bool, bool], repeated: bool) -> tuple[str | None, str]:
    """Return the role and what a reader should look at; None if it cannot be inferred."""
    kinds = {fact.kind for fact in facts}
    if {"embedding", "linear"} <= kinds:
        return "tied", ""
    kind = facts[0].kind
    out_grows, in_grows = growth
    if kind == "embedding" and facts[0].by_name and in_grows:
        return None, ""  # a matrix between layers, whatever it is called
    if kind in ("embedding", "gain", "bias"):
        return kind, ""
    if kind == "patches" and not in_grows:
        return "input", ""
    if kind in ("convolution", "patches"):
        head = in_grows and not out_grows and not repeated
        return ("output" if head else "convolution"), ""
    if kind == "unknown":
        return None, ""
    if out_grows == in_grows:
        return "hidden", "" if out_grows else "does not grow with the width"
    if out_grows:
        return "input", ""
    return ("hidden", "d_out does not grow") if repeated else ("output", "")


def _growth(
    facts: list[Fact], other_facts: list[Fact], shape: Size, other: Size
) -> tuple[bool, bool]:
    """Return whether d_out and d_in differ between the two widths."""

    def dims(layout: Layout, shape: Size) -> tuple[int, ...]:
        ndim = 1 if layout.name in ("vector", "whole") else 3 if "conv" in layout.name else 2
        return layout.event_shapes(shape, ndim)[0]

    linear = [i for i, fact in enumerate(facts) if fact.kind == "linear"]
    index = linear[0] if linear else 0
    mine = dims(facts[index].layout, shape)
    its = dims(other_facts[index].layout, other)
    if len(mine) == 1:
        return mine != its, False
    return mine[0] != its[0], mine[1] != its[1]


def _repeated(shapes: Mapping[str, Size]) -> set[str]:
    """Return the names that occur, with the same shape, in several blocks of a list of blocks.

    blocks.0.router.weight does; heads.0.weight, which a list holds itself, does not.
    """

    def key(name: str) -> tuple[str, Size]:
        *path, owner, own = name.split(".") if "." in name else ["", name]
        blocks = ["#" if part.isdigit() else part for part in path]
        return ".".join([*blocks, owner, own]), shapes[name]

    counts = Counter(key(name) for name in shapes)
    return {name for name in shapes if counts[key(name)] > 1}


def _noted(row: ParameterRow, note: str) -> ParameterRow:
    return replace(row, note="; ".join(part for part in (row.note, note) if part))


def _require_known(
    unknown: list[str],
    parameters: Mapping[str, nn.Parameter],
    table: ParameterTable,
    overrides: Mapping[str, RoleOverride],
) -> None:
    told = [pattern for pattern, said in overrides.items() if said.role is not None]
    left = [name for name in unknown if not any(fnmatchcase(name, p) for p in told)]
    if left:
        shapes = ", ".join(f"{name} {tuple(parameters[name].shape)}" for name in left)
        raise ValueError(f"no role can be inferred for {shapes}{_ADVICE}")
