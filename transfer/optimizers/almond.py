"""ALMOND: the oracle is asked about each gradient, then its answers are averaged."""

from typing import Any, final

from torch import Tensor

from transfer.config import require
from transfer.optimizers.base import LmoOptimizer
from transfer.optimizers.groups import gradients, with_gradients
from transfer.optimizers.jobs import Job
from transfer.optimizers.numbers import add_multiple, number


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
        alpha = number(group, "alpha")
        return Job(
            targets=self._averages(params),
            sources=gradients(params),
            length=alpha * number(group, "radius"),
            keep=1 - alpha,
        )

    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        add_multiple(params, self._averages(params), number(group, "lr"))
