"""ALMOND: the oracle is asked about each gradient, then its answers are averaged."""

from typing import Any, final

import torch
from torch import Tensor

from transfer.config import require
from transfer.optimizers.base import LmoOptimizer
from transfer.optimizers.batch import Length
from transfer.optimizers.groups import gradients, stepsize, with_gradients


@final
class Almond(LmoOptimizer):
    """Averaged oracles::

        d <- (1 - alpha) d + alpha lmo(g)
        x <- x + gamma d

    Arguments and errors: see `LmoOptimizer`; `constrained` must be False.

    References:
        Pethick et al. 2025, arXiv:2502.07529, the algorithm ALMOND.
    """

    def _check_group(self, group: dict[str, Any]) -> None:
        require(not group["constrained"], "constrained", "False for Almond", group["constrained"])
        super()._check_group(group)

    def _begin(self) -> None:
        pass

    def _ready(self, group: dict[str, Any]) -> list[Tensor]:
        return with_gradients(group)

    def _prepare(
        self, group: dict[str, Any], params: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Length]:
        averages, alpha = self._averages(params), group["alpha"]
        torch._foreach_mul_(averages, 1 - alpha)
        return averages, gradients(params), alpha * group["radius"]

    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        averages, gamma = self._averages(params), stepsize(group)
        if isinstance(gamma, Tensor):
            # In its own dtype: rounded to bfloat16 the stepsize would be off by up to 0.4 %.
            gamma = gamma.to(averages[0].device)
            torch._foreach_add_(params, torch._foreach_mul(averages, gamma))
        else:
            torch._foreach_add_(params, averages, alpha=gamma)
