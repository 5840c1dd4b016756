"""Modules without the random numbers that they are built with, where others replace them anyway."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWING = (
    *(nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_),
    *(Tensor.uniform_, Tensor.normal_),
)


class Undrawn(TorchFunctionMode):
    """Under it random numbers are zeros: of a model of 100M weights they take seconds to draw."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING:
            tensor: Tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            return tensor.detach().zero_()
        return func(*args, **kwargs)
