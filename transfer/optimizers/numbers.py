"""A group's numbers: one for all of it, or one per run of a stacked group."""

from typing import Any

import torch
from torch import Tensor

Number = float | Tensor


def number(group: dict[str, Any], key: str) -> Number:
    """Return a setting: a number, a tensor without dimensions, or one entry per stacked run.

    Entries are in double precision, on the parameters' device; nothing waits for the device.
    """
    value: Number = group[key]
    if not group["stacked"]:
        return value.reshape(()) if isinstance(value, Tensor) else value
    p: Tensor = group["params"][0]
    # Not every device knows float64.
    dtype = torch.float32 if p.device.type == "mps" else torch.float64
    if isinstance(value, Tensor):
        return send(value.to(dtype), p.device).expand(p.shape[0])
    return torch.full((p.shape[0],), value, dtype=dtype, device=p.device)


def send(x: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without waiting for what it still computes."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def spread(value: Number, params: list[Tensor]) -> list[Number]:
    """Return a number for each parameter, of R numbers as tensors (R, 1, ...) that broadcast.

    They have the parameter's dtype, float32 for half precision: rounded to bfloat16 a stepsize
    would be off by up to 0.4 %.
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return [value for _ in params]
    cast: dict[torch.dtype, Tensor] = {}
    found: list[Number] = []
    for p in params:
        wide = torch.float32 if p.dtype in (torch.bfloat16, torch.float16) else p.dtype
        if wide not in cast:
            cast[wide] = value.to(wide)
        found.append(cast[wide].reshape((-1,) + (1,) * (p.ndim - 1)))
    return found


# --- elementwise steps on lists of tensors, with a number for all or R numbers ---


def average_in(averages: list[Tensor], fresh: list[Tensor], alpha: Number) -> None:
    """Do average <- (1 - alpha) average + alpha fresh."""
    if not isinstance(alpha, Tensor):
        torch._foreach_lerp_(averages, fresh, alpha)
        return
    for average, new, weight in zip(averages, fresh, spread(alpha, averages), strict=True):
        assert isinstance(weight, Tensor), "stacked groups have tensors"
        if weight.dtype == average.dtype:
            average.lerp_(new, weight)
        else:
            average.copy_(average.to(weight.dtype).lerp_(new.to(weight.dtype), weight))


def multiply(tensors: list[Tensor], by: Number) -> None:
    """Multiply in place."""
    if isinstance(by, Tensor) and by.ndim:
        for tensor, factor in zip(tensors, spread(by, tensors), strict=True):
            tensor.mul_(factor)
    else:
        torch._foreach_mul_(tensors, send(by, tensors[0].device) if isinstance(by, Tensor) else by)


def add_multiple(tensors: list[Tensor], others: list[Tensor], by: Number) -> None:
    """Do tensor <- tensor + by * other."""
    if not isinstance(by, Tensor):
        torch._foreach_add_(tensors, others, alpha=by)
    elif by.ndim:
        for tensor, other, factor in zip(tensors, others, spread(by, tensors), strict=True):
            tensor.add_(other * factor)
    else:
        # In its own dtype: rounded to bfloat16 the stepsize would be off by up to 0.4 %.
        torch._foreach_add_(tensors, torch._foreach_mul(others, send(by, tensors[0].device)))
