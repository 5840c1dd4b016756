"""The table of what every parameter is: shape, role, norm, radius, d_in and d_out."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from torch import Size, nn

from transfer.config import RoleConfig, RoleOverride, require, unknown
from transfer.layouts import LAYOUT_NAMES, Layout
from transfer.norms import NORMS
from transfer.roles.facts import Fact, parameter_facts

DEFAULT_RULES: dict[str, RoleConfig] = {
    "input": RoleConfig(norm="spectral-max"),
    "embedding": RoleConfig(norm="col-norm"),
    "hidden": RoleConfig(norm="spectral"),
    "output": RoleConfig(norm="scaled-sign"),
    "tied": RoleConfig(norm="scaled-sign"),
    "bias": RoleConfig(norm="bias-rms"),
    "gain": RoleConfig(norm="gain-rms"),
    "convolution": RoleConfig(norm="conv-spectral"),
}
"""Recommended norm of every role (Pethick et al. 2025), with radius 1 and boundary init."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRow:
    """One parameter of a model."""

    name: str
    shape: tuple[int, ...]
    role: str
    layout: Layout
    override: RoleOverride = field(default_factory=RoleOverride)
    note: str = ""
    trainable: bool = True
    in_grows: bool | None = None
    """Whether d_in grows with the width; None where roles were stated, not inferred."""

    def rule(self, rules: Mapping[str, RoleConfig]) -> RoleConfig:
        """Return norm, radius and initialisation: those of the role, unless overridden by name."""
        rule, said = rules[self.role], self.override
        return RoleConfig(
            norm=said.norm or rule.norm,
            radius=rule.radius if said.radius is None else said.radius,
            init=said.init or rule.init,
        )

    def dims(self, norm: str) -> tuple[int, int]:
        """Return (d_out, d_in) of the first block as the norm sees it; a vector is (d, 1).

        Raises:
            ValueError: the norm does not fit; the parameter is named.
        """
        kind = NORMS[norm]
        try:
            shape = self.layout_for(norm).event_shapes(Size(self.shape), kind.event_ndim)[0]
        except ValueError as error:
            raise ValueError(f"parameter {self.name}: {norm}: {error}") from None
        return (shape[0], 1) if len(shape) == 1 else (shape[0], shape[1])

    def layout_for(self, norm: str) -> Layout:
        """Return the layout; norms that take any shape read it as one vector."""
        matrices = NORMS[norm].event_ndim > 1
        vector = self.layout.name in ("vector", "whole")
        if matrices or vector or not NORMS[norm].any_shape:
            return self.layout
        return Layout(name="whole")


@dataclass(frozen=True, slots=True)
class ParameterTable:
    """The parameters of one model with their roles; `str` prints it.

    Keyed by name: nothing is hung on tensors, so that copies, compiled and sharded models keep
    their roles.
    """

    rows: tuple[ParameterRow, ...]
    rules: Mapping[str, RoleConfig] = field(default_factory=lambda: DEFAULT_RULES)

    def __iter__(self) -> Iterator[ParameterRow]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> ParameterRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no parameter {name!r} in the table")

    @property
    def roles(self) -> dict[str, str]:
        """Role of every parameter, by name."""
        return {row.name: row.role for row in self.rows}

    def with_rules(self, rules: Mapping[str, RoleConfig]) -> "ParameterTable":
        """Return the table with other rules; every role of a trainable parameter needs one.

        Raises:
            ValueError: a role without a rule, or a norm that does not fit a parameter.
        """
        trained = [row for row in self.rows if row.trainable]
        require_rules(rules, trained)
        for row in trained:
            row.dims(row.rule(rules).norm)
        return ParameterTable(self.rows, rules)

    def override(self, overrides: Mapping[str, RoleOverride]) -> "ParameterTable":
        """Return the table with what is said of parameters by name pattern (`*` is any text).

        Later patterns win. A tensor's layout and blocks can be given too.

        Raises:
            ValueError: a pattern that matches no parameter, or a setting that does not fit.
        """
        rows = self.rows
        for pattern, said in overrides.items():
            if not isinstance(said, RoleOverride):
                raise ValueError(f"override {pattern!r} must be a RoleOverride, got {said!r}")
            if not any(fnmatchcase(row.name, pattern) for row in rows):
                names = ", ".join(row.name for row in rows[:8])
                more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
                raise ValueError(f"override {pattern!r} matches no parameter of {names}{more}")
            rows = tuple(
                _overridden(row, said) if fnmatchcase(row.name, pattern) else row for row in rows
            )
        return ParameterTable(rows, self.rules)

    def to_records(self) -> list[dict[str, object]]:
        """Return one dictionary a parameter, ready for pandas."""
        return [self._record(row) for row in self.rows]

    def _record(self, row: ParameterRow) -> dict[str, object]:
        # A frozen parameter's role may have no rule here.
        rule = row.rule(self.rules if row.role in self.rules else DEFAULT_RULES)
        d_out, d_in = row.dims(rule.norm)
        blocks = len(row.layout.split_sizes)
        return {
            "parameter": row.name,
            "shape": "x".join(map(str, row.shape)) or "scalar",
            "role": row.role,
            "norm": rule.norm,
            "radius": rule.radius,
            "d_in": d_in,
            "d_out": d_out,
            "layout": f"{row.layout.name} in {blocks} blocks" if blocks else row.layout.name,
            "note": "; ".join(filter(None, (row.note, "" if row.trainable else "frozen"))),
        }

    def __str__(self) -> str:
        return text_table(self.to_records())


def text_table(records: list[dict[str, object]]) -> str:
    """Lay records out in aligned columns; numbers to the right, empty columns left out."""
    if not records:
        return "(no parameters)"
    columns = [
        key for key in records[0] if any(record[key] not in ("", None) for record in records)
    ]
    cells = [[_cell(record[key]) for key in columns] for record in records]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = [all(_numeric(record[key]) for record in records) for key in columns]

    def line(row: list[str]) -> str:
        padded = zip(row, widths, right, strict=True)
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in padded).rstrip()

    return "\n".join([line(columns), *map(line, cells)])


def _numeric(value: object) -> bool:
    return value in ("", None) or isinstance(value, (int, float))


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _overridden(row: ParameterRow, said: RoleOverride) -> ParameterRow:
    names = ("norm", "radius", "init")
    kept = {name: getattr(said, name) or getattr(row.override, name) for name in names}
    if said.layout is not None and said.layout not in LAYOUT_NAMES:
        raise ValueError(unknown("layout", said.layout, LAYOUT_NAMES))
    layout = Layout(name=said.layout) if said.layout else row.layout  # type: ignore[arg-type]
    if said.split_sizes is not None:
        layout = replace(layout, split_sizes=tuple(said.split_sizes))
    if said.split is not None:
        layout = replace(layout, split_sizes=_equal_blocks(row, layout, said.split))
    settled = said.role or said.layout or said.split or said.split_sizes is not None
    note = "" if settled else row.note
    return replace(
        row,
        role=said.role or row.role,
        layout=layout,
        override=RoleOverride(**kept),
        note=note,
    )


def _equal_blocks(row: ParameterRow, layout: Layout, count: int) -> tuple[int, ...]:
    whole = replace(layout, split_sizes=())
    ndim = 1 if layout.name in ("vector", "whole") else 2
    d_out = whole.event_shapes(Size(row.shape), ndim)[0][0]
    require(d_out % count == 0, f"split of {row.name}", f"a divisor of {d_out}", count)
    return (d_out // count,) * count if count > 1 else ()


# --- from stated roles -----------------------------------------------------------------------


def stated_table(model: nn.Module, roles: Mapping[str, str]) -> ParameterTable:
    """Return the table of a model whose roles are known by parameter name.

    Layouts follow from module types; frozen parameters without a role are left out.

    Raises:
        ValueError: a trainable parameter without a role, or a role given to no parameter.
    """
    parameters = dict(model.named_parameters())
    problems = [
        f"parameter {name!r} has no role"
        for name, p in parameters.items()
        if p.requires_grad and name not in roles
    ]
    strangers = roles.keys() - parameters.keys()
    problems += [f"role given to {name!r}, which is no parameter" for name in strangers]
    if problems:
        raise ValueError("; ".join(sorted(problems)))
    facts = parameter_facts(model)
    rows = (
        make_row(name, p, roles[name], facts[name])
        for name, p in parameters.items()
        if name in roles
    )
    return ParameterTable(tuple(rows))


def make_row(name: str, p: nn.Parameter, role: str, facts: list[Fact]) -> ParameterRow:
    """Compose a row from a role and what the modules say; a tied tensor is read as its head."""
    linear = [fact for fact in facts if fact.kind == "linear"]
    fact = linear[0] if role == "tied" and linear else facts[0]
    return ParameterRow(
        name=name,
        shape=tuple(p.shape),
        role=role,
        layout=fact.layout,
        note=fact.note,
        trainable=p.requires_grad,
    )


def require_rules(rules: Mapping[str, RoleConfig], rows: Iterable[ParameterRow]) -> None:
    """Raise ValueError naming every role without a rule, with the first parameter that has it."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.role, row.name)
    problems = []
    for role in sorted(first.keys() - rules.keys()):
        near = difflib.get_close_matches(role, rules, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        problems.append(f"role {role!r} of parameter {first[role]!r} has no rule{hint}")
    if problems:
        raise ValueError("; ".join(problems))
