"""Triton kernels for NVIDIA GPUs; everything here has a plain PyTorch equal elsewhere.

`symmetric` multiplies matrices by their transposes at half the work, `elementwise` averages,
normalises and moves many matrices by one pass over memory each, `blocks` does passes over the
activations of transformers. Triton comes with torch on Linux
GPUs; without it, or on other devices, nobody imports these modules.
"""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs kernels on the CPU, slowly: for tests."""

# Inside a compiled step the compiler makes kernels of its own. AMD's and Intel's GPUs are called
# cuda and xpu by torch; nobody has measured these kernels there.
THERE = find_spec("triton") is not None and torch.version.hip is None


def usable(x: Tensor) -> bool:
    """Return whether the kernels run on a tensor's device."""
    device = x.device.type == "cuda" or (INTERPRETED and x.device.type == "cpu")
    return THERE and device and not torch.compiler.is_compiling()
