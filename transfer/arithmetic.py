"""Where and in which number format a run is computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from transfer.config import DeviceName, Precision, require


class Arithmetic:
    """Device and number formats of one run.

    Weights, gradients and optimizer state are float64 under `float64`, else float32. `tf32` rounds
    the factors of matrix products to 10 bits on CUDA devices; `bf16` computes the forward and
    backward passes under autocast to bfloat16. The optimizer's step has float32 products.

    Raises:
        ValueError: no such device here, or a format that it does not have.
    """

    def __init__(self, precision: Precision, device: DeviceName) -> None:
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
        found = ", ".join(name for name, has in there.items() if has)
        require(there[device], "device", f"one that torch finds here ({found})", device)
        if precision == "tf32":
            require(device == "cuda", "precision", f"float32 or bf16 on {device}", precision)
        if precision == "float64":
            require(device != "mps", "precision", "float32 or bf16 on mps", precision)
        self.precision = precision
        self.device = torch.device(device)
        self.dtype = torch.float64 if precision == "float64" else torch.float32

    @contextmanager
    def flushed(self) -> Iterator[None]:
        """Have numbers too small for float32's full precision counted as 0, while it lasts.

        On a CPU each of them takes a hundred times as long as others: where a network has learnt
        its data and gradients vanish, a step took 35 times as long. Below 1e-38 nothing is lost.
        """
        if self.device.type != "cpu" or _flushes():
            yield
            return
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(False)

    @contextmanager
    def products(self) -> Iterator[None]:
        """Have float32 matrix products computed in the run's format, while it lasts."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def autocast(self) -> torch.autocast:
        """Have the forward pass computed in bfloat16 under `bf16`; the backward pass follows."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def _flushes() -> bool:
    """Whether this thread counts such numbers as 0 already: torch does not tell."""
    return bool((torch.tensor(1e-40) * 1.0 == 0).item())
