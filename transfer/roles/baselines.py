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


def _mup_groups(rows: Rows, config: MupAdamWConfig, width: int | None) -> list[dict[str, Any]]:
    """Hidden and output weights, whose d_in grows with the width, get stepsize / m."""
    if width is None:
        raise ValueError(f"optimizer {config.name!r} needs width=, the width of the model")
    unscaled = {"input", "embedding", "bias", "gain"}
    fixed = [(row.name, p) for row, p in rows if row.role in unscaled]
    growing = [(row.name, p) for row, p in rows if row.role not in unscaled]
    narrowed = config.stepsize * config.base_width / width
    groups = [
        {"name": "fixed d_in", "params": fixed, "lr": config.stepsize},
        {"name": "growing d_in", "params": growing, "lr": narrowed},
    ]
    return [group for group in groups if group["params"]]


def _muon(rows: Rows, config: MuonConfig) -> torch.optim.Optimizer:
    """Muon where torch's takes the parameter: hidden matrices of two dimensions."""
    matrices = [(r.name, p) for r, p in rows if r.role == "hidden" and p.ndim == 2]
    taken = {name for name, _ in matrices}
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
