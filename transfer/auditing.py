"""Audit: what each parameter really gets from an optimizer, in anybody's training loop."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from transfer.balls import Ball, Stated, ball_of_group
from transfer.config import RoleConfig, require
from transfer.optimizers import Almond
from transfer.roles.build import Roles
from transfer.roles.table import text_table


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One parameter in the last step looked at; None is what does not apply or is not known."""

    parameter: str
    role: str = ""
    norm: str = ""
    radius: float | None = None
    stepsize: float | None = None
    """The `lr` that the parameter's group had for the step."""
    update_ratio: float | None = None
    """norm(update) / (stepsize * radius), 1 on the sphere; the worst of several matrices."""
    weight_ratio: float | None = None
    """norm(weight) / radius after the step; the largest of several matrices."""
    flag: str = ""
    """What is wrong; empty if nothing is."""
    note: str = ""


def audit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    roles: Roles | None = None,
    rules: Mapping[str, RoleConfig] | None = None,
    *,
    stepsize: float | None = None,
    constrained: bool = False,
    every: int = 1,
) -> "Audit":
    """Watch an optimizer's steps and tell what each parameter gets; `str` prints the table.

    Use it around one or several steps, `with audit(model, optimizer) as report:`, or keep it with
    `report = audit(model, optimizer).attach()`. It shows the last step looked at.

    A parameter's ball is what the table of roles says, or without one what its group says, as the
    groups of the optimizers here do. A table without stated rules is about norms only; radii then
    are the groups', else 1. The update of a constrained group is x_new - (1 - stepsize) x_old.
    Weight decay counts as part of the update: the parameter gets it.

    On its sphere is a ratio within 0.1 %, from 0.65 to 1.21 for spectral norms unless the group's
    polar factor is exact; beyond that the rounding of the weights in their own precision is
    allowed for. Memory: one copy of the weights during a step that is looked at.

    Args:
        model: The bare module, not its compiled or distributed wrapper; weights whole, not sharded.
        optimizer: Any torch optimizer.
        roles: A table, or roles by parameter name; may leave parameters out.
        rules: Norm and radius by role; by default those of the table, or `DEFAULT_RULES`.
        stepsize: What the stepsize should be now. Updates are compared with the group's own `lr`,
            so a schedule that overwrote it is flagged only if this is given.
        constrained: Whether groups that do not say so are constrained.
        every: Look at one of so many steps, the first included.

    Raises:
        ValueError: a role given to no parameter or without a rule, a table of other shapes, or
            `every` below 1.
    """
    require(every >= 1, "every", "at least 1", every)
    stated = None if roles is None else Stated.of(model, roles, rules)
    return Audit(model, optimizer, stated, stepsize, constrained, every)


class Audit:
    """The report of the last step looked at; made by `audit`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        stated: Stated | None,
        stepsize: float | None,
        constrained: bool,
        every: int,
    ) -> None:
        self.rows: tuple[AuditRow, ...] = ()
        self.step = 0
        """Number of the step that the rows are about, counted from 1; 0 before."""
        self._model, self._optimizer, self._stated = model, optimizer, stated
        self._stepsize, self._constrained, self._every = stepsize, constrained, every
        self._handles: list[Any] = []
        self._begun = 0
        self._before: list[tuple[dict[str, Any], float, list[Tensor]]] = []

    # --- watching ---

    def attach(self) -> "Audit":
        """Hook the optimizer's steps, wherever they are called from."""
        if not self._handles:
            self._handles = [
                self._optimizer.register_step_pre_hook(self._look_before),
                self._optimizer.register_step_post_hook(self._look_after),
            ]
        return self

    def detach(self) -> None:
        """Take the hooks off; the report stays."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._before = [], []

    def __enter__(self) -> "Audit":
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    @torch.no_grad()
    def _look_before(self, *_: Any) -> None:
        self._before = []  # a step that raised has left its copy
        self._begun += 1
        if (self._begun - 1) % self._every == 0:
            self._before = [
                (group, float(group["lr"]), [p.detach().clone() for p in group["params"]])
                for group in self._optimizer.param_groups
            ]

    @torch.no_grad()
    def _look_after(self, *_: Any) -> None:
        if not self._before:
            return
        parameters = dict(self._model.named_parameters())
        names = {id(p): name for name, p in parameters.items()}
        rows: dict[str, AuditRow] = {}
        for number, (group, stepsize, before) in enumerate(self._before):
            for row in self._group(group, stepsize, before, names, f"group {number}"):
                rows[row.parameter] = row
        own = [rows.pop(n) if n in rows else self._unowned(n, p) for n, p in parameters.items()]
        self.rows, self.step, self._before = (*own, *rows.values()), self._begun, []

    # --- judging ---

    def _group(
        self,
        group: dict[str, Any],
        stepsize: float,
        before: list[Tensor],
        names: dict[int, str],
        where: str,
    ) -> list[AuditRow]:
        constrained = bool(group.get("constrained", self._constrained))
        whole = _joint_change(group, stepsize, before, constrained) if group.get("joint") else None
        rows = []
        for index, (p, old) in enumerate(zip(group["params"], before, strict=False)):
            name = names.get(id(p), f"{where} #{index}")
            flags = [] if id(p) in names else ["not in the model"]
            ball = self._ball(name, group, p.shape)
            if self._stated is not None and name not in self._stated.rows:
                flags.append("not in the table")
            elif ball is None:
                flags.append("no norm known")
            change = whole or _Change.of(p, old, stepsize, constrained)
            judged = _judge(p, change, ball, stepsize, constrained)
            flags += [f for f in (judged.flag, self._stepsize_flag(stepsize)) if f]
            if "not on its sphere" in judged.flag and ball is not None:
                flags += _disagreement(ball, group)
            rows.append(replace(judged, parameter=name, flag="; ".join(flags)))
        return rows

    def _ball(self, name: str, group: Mapping[str, Any], shape: torch.Size) -> Ball | None:
        stated = None if self._stated is None else self._stated.ball(name, group)
        ball = stated or ball_of_group(group, shape)
        if ball is not None and isinstance(self._optimizer, Almond):
            return replace(ball, low=0.0)  # an average of oracles is a point of the ball
        return ball

    def _stepsize_flag(self, stepsize: float) -> str:
        wanted = self._stepsize
        if wanted is None or math.isclose(stepsize, wanted, rel_tol=1e-6):
            return ""
        return f"stepsize is not {wanted:.4g}"

    def _unowned(self, name: str, p: Tensor) -> AuditRow:
        ball = self._ball(name, {}, p.shape)
        row = AuditRow(parameter=name) if ball is None else _row(ball, None, _largest(ball, p))
        if not p.requires_grad:
            return replace(row, parameter=name, note="frozen")
        listed = self._stated is None or name in self._stated.rows
        flag = "in no group" if listed else "not in the table; in no group"
        return replace(row, parameter=name, flag=flag)

    # --- telling ---

    @property
    def flagged(self) -> list[str]:
        """Names of the parameters with a flag."""
        return [row.parameter for row in self.rows if row.flag]

    def to_records(self) -> list[dict[str, object]]:
        """Return one dictionary a parameter, ready for pandas."""
        return [asdict(row) for row in self.rows]

    def __str__(self) -> str:
        if not self.rows:
            return "no step seen"
        return f"{text_table(self.to_records())}\n{self.summary}"

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        flagged, total = self.flagged, len(self.rows)
        if not flagged:
            return f"step {self.step}: nothing flagged, {total} parameters"
        shown = ", ".join(flagged[:5]) + (", ..." if len(flagged) > 5 else "")
        return f"step {self.step}: {len(flagged)} of {total} parameters flagged: {shown}"


# --- one parameter ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    """What a step did to one parameter, or to a whole joint group."""

    new: Tensor
    update: Tensor
    still: bool
    """Whether no weight changed."""
    rounding: Tensor
    """About the error that storing the weights has made, entry by entry."""

    @classmethod
    def of(cls, p: Tensor, old: Tensor, stepsize: float, constrained: bool) -> "_Change":
        wide = torch.float64 if p.dtype == torch.float64 else torch.float32
        new, kept = p.detach().to(wide), old.to(wide) * (1 - stepsize if constrained else 1)
        update = new - kept
        # Half a unit in the last place of all that was rounded. The signs are random: in one
        # direction these errors would add up to far more in a spectral norm.
        bound = torch.finfo(p.dtype).eps / 2 * (new.abs() + kept.abs() + update.abs())
        generator = torch.Generator(p.device).manual_seed(0)
        signs = torch.empty_like(bound).bernoulli_(generator=generator) * 2 - 1
        return cls(new, update, torch.equal(p, old), bound * signs)


def _joint_change(
    group: dict[str, Any], stepsize: float, before: list[Tensor], constrained: bool
) -> _Change:
    pairs = zip(group["params"], before, strict=True)
    parts = [_Change.of(p, old, stepsize, constrained) for p, old in pairs]

    def together(field: str) -> Tensor:
        return torch.cat([getattr(part, field).reshape(-1) for part in parts])

    still = all(part.still for part in parts)
    return _Change(together("new"), together("update"), still, together("rounding"))


def _judge(
    p: Tensor, change: _Change, ball: Ball | None, stepsize: float, constrained: bool
) -> AuditRow:
    """Return the parameter's row, without its name."""
    note = "" if p.requires_grad or not change.still else "frozen"
    weight = None if ball is None else _largest(ball, change.new)
    row = replace(_row(ball, stepsize, weight), note=note)
    flags = []
    if stepsize == 0:
        flags.append("zero stepsize")
    elif change.still and (ball is None or p.grad is None):
        flags.append("" if note else _unmoved(p))
    elif ball is not None:
        sizes = ball.sizes(change.update) / stepsize
        row = replace(row, update_ratio=_worst(sizes))
        flags.append(_update_flag(p, change, ball, stepsize, sizes))
    if constrained and ball is not None and weight is not None:
        if not weight <= ball.high + torch.finfo(p.dtype).eps:
            flags.append("outside its ball")
    return replace(row, flag="; ".join(flag for flag in flags if flag))


def _update_flag(p: Tensor, change: _Change, ball: Ball, stepsize: float, sizes: Tensor) -> str:
    if not torch.isfinite(sizes).all():
        return "not finite"
    if ((sizes >= ball.low) & (sizes <= ball.high)).all():
        return ""
    rounding = ball.sizes(change.rounding) / stepsize
    lost = bool((rounding > 0.5).any())
    if not sizes.any() and not (lost and _has_gradient(p)):
        return _unmoved(p)
    idle = (sizes == 0) & (rounding <= 0.5)
    off = (sizes < ball.low - rounding) | (sizes > ball.high + rounding)
    if (off & ~idle).any():
        return "not on its sphere"
    if lost:
        return f"lost in the rounding of {str(p.dtype).removeprefix('torch.')}"
    return f"{int(idle.sum())} of {len(sizes)} matrices did not move" if idle.any() else ""


def _has_gradient(p: Tensor) -> bool:
    # ScionLight leaves a sparse stand-in, of which nothing may be asked.
    return p.grad is not None and (p.grad.layout != torch.strided or bool(p.grad.any()))


def _unmoved(p: Tensor) -> str:
    if p.grad is None:
        return "did not move (no gradient)"
    return "did not move" if _has_gradient(p) else "did not move (zero gradient)"


def _row(ball: Ball | None, stepsize: float | None, weight: float | None) -> AuditRow:
    if ball is None:
        return AuditRow(parameter="", stepsize=stepsize)
    return AuditRow(
        parameter="",
        role=ball.role,
        norm=ball.norm,
        radius=ball.radius,
        stepsize=stepsize,
        weight_ratio=weight,
    )


def _largest(ball: Ball, x: Tensor) -> float:
    return ball.sizes(x.detach()).max().item()


def _worst(sizes: Tensor) -> float:
    """Return the size farthest from 1 as a ratio."""
    off = torch.where(sizes > 0, sizes, torch.zeros_like(sizes)).log().abs()
    return sizes[torch.nan_to_num(off, nan=math.inf).argmax()].item()


def _disagreement(ball: Ball, group: Mapping[str, Any]) -> list[str]:
    """Say where the group has other settings than the table."""
    norm, radius = group.get("norm", ball.norm), group.get("radius", ball.radius)
    said = []
    if norm != ball.norm:
        said.append(f"its group has norm {norm}")
    if radius != ball.radius:
        said.append(f"its group has radius {radius:.4g}")
    return said
