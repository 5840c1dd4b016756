"""The baselines, as their users have them today: torch's AdamW, SGD and Muon, and muP-AdamW."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from transfer.config import (
    AdamWConfig,
    MuonConfig,
    MupAdamWConfig,
    OptimizerConfig,
    ScionConfig,
    SgdConfig,
    require,
)
from transfer.optimizers.combined import Combined

if TYPE_CHECKING:
    from transfer.roles.table import ParameterRow

Rows = list[tuple["ParameterRow", nn.Parameter]]


def build_baseline(
    rows: Rows, config: OptimizerConfig, width: int | None = None
) -> torch.optim.Optimizer:
    """Build a baseline optimizer; groups are by role where roles differ in their settings.

    Raises:
        ValueError: muP-AdamW without a width.
    """
    assert not isinstance(config, ScionConfig)
    named = [(row.name, p) for row, p in rows]
    match config:
        case AdamWConfig():
            return torch.optim.AdamW(named, **_adam(config, config.stepsize))
        case SgdConfig():
            return torch.optim.SGD(
                named,
                lr=config.stepsize,
                momentum=config.momentum,
                nesterov=config.nesterov,
                weight_decay=config.weight_decay,
            )
        case MupAdamWConfig():
            return torch.optim.AdamW(_mup_groups(rows, config, width), **_adam(config, 0.0))
        case MuonConfig():
            return _muon(rows, config)


def _adam(config: AdamWConfig | MuonConfig | MupAdamWConfig, stepsize: float) -> dict[str, Any]:
    return {
        "lr": stepsize,
        "betas": (config.beta1, config.beta2),
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }


def required_width(config: MupAdamWConfig, width: int | None) -> int:
    """Return the width, which muP cannot do without."""
    if width is None:
        raise ValueError(f"optimizer {config.name!r} needs width=, the width of the model")
    require(width >= 1, "width", "at least 1", width)
    return width


def d_in_grows(row: "ParameterRow") -> bool:
    """Return whether a parameter's d_in grows with the width: muP's question.

    Raises:
        ValueError: it is not known, or the parameter is tied, which muP can train only with a
            multiplier at the output.
    """
    if row.role == "tied":
        raise ValueError(
            f"parameter {row.name}: muP-AdamW has no rate for a tied embedding and head without a "
            "multiplier at the output: untie them"
        )
    if row.role in ("input", "embedding", "bias", "gain"):
        return False
    if row.in_grows is None and row.role == "convolution":
        raise ValueError(
            f"parameter {row.name}: muP-AdamW must know whether d_in grows with the width: take "
            "the table of infer_roles instead of stated roles"
        )
    return row.in_grows is not False


def _mup_groups(rows: Rows, config: MupAdamWConfig, width: int | None) -> list[dict[str, Any]]:
    """Weights whose d_in grows with the width get stepsize / m."""
    narrowed = config.stepsize * config.base_width / required_width(config, width)
    growing = {row.name for row, _ in rows if d_in_grows(row)}
    groups: list[dict[str, Any]] = [
        {"name": "fixed d_in", "params": [], "lr": config.stepsize},
        {"name": "growing d_in", "params": [], "lr": narrowed},
    ]
    for row, p in rows:
        groups[row.name in growing]["params"].append((row.name, p))
    return [group for group in groups if group["params"]]


def _muon(rows: Rows, config: MuonConfig) -> torch.optim.Optimizer:
    """Muon where torch's takes the parameter: hidden matrices of two dimensions."""
    matrices = [(r.name, p) for r, p in rows if r.role == "hidden" and p.ndim == 2]
    taken = {name for name, _ in matrices}
    for row, _ in rows:
        if row.name in taken and row.layout.name != "matrix":
            raise ValueError(
                f"parameter {row.name}: torch's Muon takes (d_out, d_in), and would scale this "
                f"one, of layout {row.layout.name!r}, by the inverse of its aspect ratio"
            )
    others = [(row.name, p) for row, p in rows if row.name not in taken]
    parts: list[torch.optim.Optimizer] = []
    if matrices:
        parts.append(
            torch.optim.Muon(
                matrices,
                lr=config.stepsize,
                momentum=config.momentum,
                nesterov=config.nesterov,
                weight_decay=config.weight_decay,
                adjust_lr_fn=config.adjust.replace("-", "_"),
            )
        )
    if others:
        settings = _adam(config, config.stepsize * config.adamw_factor)
        parts.append(torch.optim.AdamW(others, **settings))
    return Combined(parts)
