"""ALMOND: the oracle is asked about each gradient, then its answers are averaged."""

from typing import Any, final

import torch
from torch import Tensor

from transfer.config import require
from transfer.optimizers.base import LmoOptimizer, gradients, with_gradients
from transfer.optimizers.batch import Length


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

    def _ready(self, group: dict[str, Any]) -> list[Tensor]:
        return with_gradients(group)

    def _ask(
        self, group: dict[str, Any], params: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Length]:
        averages, alpha = self._averages(params), group["alpha"]
        torch._foreach_mul_(averages, 1 - alpha)
        return averages, gradients(group, params), alpha * group["radius"]

    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        stepsize = group["lr"]
        averages = self._averages(params)
        if isinstance(stepsize, Tensor):
            stepsize = stepsize.to(averages[0])
            torch._foreach_add_(params, torch._foreach_mul(averages, stepsize))
        else:
            torch._foreach_add_(params, averages, alpha=stepsize)
