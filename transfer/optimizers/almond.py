"""ALMOND: the oracle is asked about each gradient, then its answers are averaged."""

from typing import Any, final

from torch import Tensor

from transfer.config import require
from transfer.optimizers.base import LmoOptimizer
from transfer.optimizers.batch import Job
from transfer.optimizers.groups import gradients, with_gradients
from transfer.optimizers.numbers import add_multiple, multiply, number


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

    def _prepare(self, group: dict[str, Any], params: list[Tensor]) -> Job:
        averages, alpha = self._averages(params), number(group, "alpha")
        multiply(averages, 1 - alpha)
        return Job(averages, gradients(params), alpha * number(group, "radius"))

    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        add_multiple(params, self._averages(params), number(group, "lr"))
