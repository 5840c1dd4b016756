"""Parameter groups of the LMO optimizers: their keys, checks, and what is read from them."""

import math
from typing import Any

import torch
from torch import Tensor

from transfer.config import require, require_positive, unknown
from transfer.norms import Norm
from transfer.optimizers.folded import FoldedGradient, refuse

DEFAULTS: dict[str, Any] = {
    "norm": "spectral",
    "radius": 1.0,
    "alpha": 0.1,
    "constrained": False,
    "polar": "muon",
    "layout": None,
    "split_sizes": (),
    "groups": 1,
    "joint": False,
    "maximize": False,
    "foreach": None,
    "stacked": False,
    "workspace_mb": 512.0,
}
"""Of every key but `lr`; groups pickled before a key existed get it from here."""

# Keys that others put into groups: torch itself, its schedulers, and our tables of roles.
_FOREIGN_KEYS = {
    *("params", "param_names", "role", "name"),
    *("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"),
}


def named(group: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """Return a group's parameters with their names, or #0, #1, ... without."""
    params = group["params"]
    names = group.get("param_names") or [f"#{i}" for i in range(len(params))]
    return list(zip(names, params, strict=True))


# --- checks ---


def check_keys(group: dict[str, Any]) -> None:
    """Raise ValueError for a key that nobody reads."""
    for key in group:
        if key not in DEFAULTS and key not in _FOREIGN_KEYS and key != "lr":
            raise ValueError(unknown("group key", key, {"params", "lr", *DEFAULTS}))


def check_new(group: dict[str, Any], groups: list[dict[str, Any]]) -> None:
    """Raise ValueError for a parameter that is there already, and say where.

    torch refuses it in two groups without saying which, and only warns of twice in one.
    """
    params = group.get("params")
    if params is None or isinstance(params, set):
        return  # torch says what it wants instead
    group["params"] = params = [params] if isinstance(params, Tensor) else list(params)
    taken = {
        id(p): f"{name} of group {number}"
        for number, other in enumerate(groups)
        for name, p in named(other)
    }
    for index, given in enumerate(params):
        name, p = given if isinstance(given, tuple) else (f"#{index}", given)
        place = f"{name} of group {len(groups)}"
        if id(p) in taken:
            raise ValueError(
                f"parameter {place} is already parameter {taken[id(p)]}: every parameter belongs "
                "to one group, once"
            )
        taken[id(p)] = place


def check_settings(group: dict[str, Any]) -> None:
    """Raise ValueError unless what schedules may change is in its range."""
    for key in ("constrained", "joint", "maximize", "stacked"):
        require(type(group[key]) is bool, key, "True or False", group[key])
    require(isinstance(group["polar"], str), "polar", "a name", group["polar"])
    size = group["workspace_mb"]
    require(type(size) in (int, float), "workspace_mb", "a number", size)
    require_positive("workspace_mb", size)
    check_stepsize(group)
    check_alpha(group)
    for radius in _numbers(group, "radius"):
        require_positive("radius", radius)


def check_alpha(group: dict[str, Any]) -> None:
    """Raise ValueError unless alpha is in its range."""
    for alpha in _numbers(group, "alpha"):
        require(0 < alpha <= 1, "alpha", "in (0, 1]", alpha)


def check_stepsize(group: dict[str, Any]) -> None:
    """Raise ValueError unless the stepsize is in its range."""
    for lr in _numbers(group, "lr"):
        require(0 <= lr < math.inf, "lr", "a finite number, at least 0", lr)
        if group["constrained"]:
            require(lr <= 1, "lr", "at most 1 when constrained", lr)


def _numbers(group: dict[str, Any], key: str) -> list[float]:
    """Return the numbers of a setting, those of a tensor on a GPU excepted.

    Looking into one would wait for the device in every step, and break a compiled one: there the
    range is the caller's to keep.
    """
    value = group[key]
    if isinstance(value, (int, float)) and type(value) is not bool:
        return [value]
    require(isinstance(value, Tensor), key, "a number or a tensor", value)
    if group["stacked"]:
        runs = count_runs(group)
        fits = value.shape in ((), (runs,))
        require(fits, key, f"one number or a vector of {runs}, one per run", value)
    else:
        require(key == "lr", key, "a number, not a tensor", value)
        require(value.numel() == 1, key, "one number", value)
    if torch.compiler.is_compiling() or value.device.type != "cpu":
        return []
    entries: list[float] = value.reshape(-1).tolist()
    return entries


def count_runs(group: dict[str, Any]) -> int:
    """Return the number of stacked runs.

    Raises:
        ValueError: the parameters of the group do not agree on it.
    """
    firsts = {p.shape[:1] for p in group["params"]}
    if len(firsts) > 1 or firsts & {(), (0,)}:
        shapes = {name: tuple(p.shape) for name, p in named(group)}
        raise ValueError(
            "stacked must be False unless the first dimension of every parameter of the group "
            f"counts the same runs, got shapes {shapes}"
        )
    return firsts.pop()[0] if firsts else 0


def check_parameters(group: dict[str, Any], norm: Norm) -> None:
    """Raise ValueError unless the norm, in the group's layout, can read every parameter."""
    sizes = group["split_sizes"]
    require(isinstance(sizes, (list, tuple)), "split_sizes", "a list of sizes", sizes)
    stacked: bool = group["stacked"]
    layout = norm.layout(group["layout"], sizes, group["groups"], stacked)
    if stacked:
        count_runs(group)
    whole = norm.any_shape and layout.name == "whole"
    if group["joint"] and not whole:
        raise ValueError(
            "joint must be False unless the norm is of one vector of any shape, euclidean say, "
            f"got True with norm {group['norm']!r} and layout {layout.name!r}"
        )
    for name, parameter in named(group):
        if not parameter.is_floating_point():
            hint = ": take torch.view_as_real of it" if parameter.is_complex() else ""
            raise ValueError(
                f"parameter {name} must be of real floating point, got {parameter.dtype}{hint}"
            )
        try:
            layout.event_shapes(parameter.shape[stacked:], norm.event_ndim)
        except ValueError as error:
            raise ValueError(f"parameter {name}: {group['norm']}: {error}") from None


# --- gradients ---


def require_dense(name: str, grad: Tensor) -> None:
    """Raise RuntimeError for a sparse gradient, or none but Scion Light's stand-in."""
    if isinstance(grad, FoldedGradient):
        refuse(f"another optimizer's step on parameter {name}")
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"parameter {name} has a sparse gradient, which has no oracle here: build "
            "nn.Embedding with sparse=False"
        )


def with_gradients(group: dict[str, Any]) -> list[Tensor]:
    """Return the parameters that have a gradient.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    for name, p in named(group):
        if p.grad is not None:
            require_dense(name, p.grad)
    return [p for p in group["params"] if p.grad is not None]


def gradients(params: list[Tensor]) -> list[Tensor]:
    """Return the gradients of parameters that have one."""
    return [p.grad for p in params if p.grad is not None]
