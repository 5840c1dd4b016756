"""The losses of many runs as one program: one model's code, run over stacked weights.

R runs of one architecture keep every parameter and buffer as one tensor (R, *shape). Where
`torch.vmap` can take the model, one call computes all of them; where it cannot, the same tensors
go through the model one run at a time. Shapes: R runs, B examples of a batch.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from transfer.arithmetic import Arithmetic
from transfer.config import require
from transfer.data.base import Batch
from transfer.seeds import derived_seed

Tensors = dict[str, Tensor]
_PREFIX = "model."
_COMPILATIONS = 256


class Judged(nn.Module):
    """A model whose output is its loss.

    Args:
        model: Returns logits (B, classes) or (B, T, classes); or has a method `loss(x, y)`.
        label_smoothing: Share of the target spread over all classes.
    """

    def __init__(self, model: nn.Module, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(
        self, x: Tensor, y: Tensor, count: bool = False, shares: tuple[float, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss in nats and, if asked for, the number of right answers.

        NaN instead of that number for a model with a loss of its own, and where nobody asked.

        Args:
            x: Examples (B, ...); with shares, that many views of them, (views, B, ...).
            y: Targets, (B,) or (B, T).
            count: Whether to count.
            shares: Weights, of sum 1, with which the logits of the views are averaged.

        Raises:
            ValueError: the model's own loss is not one number.
        """
        nan = torch.full((), torch.nan, device=y.device)
        own = getattr(self.model, "loss", None)
        if own is not None:
            loss: Tensor = own(x, y)
            good = isinstance(loss, Tensor) and loss.ndim == 0
            require(good, "loss(x, y)", "a tensor without dimensions", loss)
            return loss, nan
        logits: Tensor = self._averaged(x, shares) if shares else self.model(x)
        flat, targets = logits.flatten(0, -2), y.flatten()
        loss = F.cross_entropy(flat, targets, label_smoothing=self.label_smoothing)
        return loss, (flat.argmax(-1) == targets).float().sum() if count else nan

    def _averaged(self, x: Tensor, shares: tuple[float, ...]) -> Tensor:
        seen = zip(shares, x.unbind(), strict=True)
        return torch.stack([share * self.model(view) for share, view in seen]).sum(0)


def template(model: nn.Module) -> nn.Module:
    """Return a copy of a model without its numbers; ties between parameters stay.

    A program that is kept for later stacks would otherwise keep the weights of its first one.
    """
    memo: dict[int, object] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(p.detach().new_empty(0), requires_grad=p.requires_grad)
    for b in model.buffers():
        memo[id(b)] = b.detach().new_empty(0)
    return copy.deepcopy(model, memo)


class Program:
    """One model's losses over stacked weights.

    Args:
        judged: The model; its own weights are not read.
        arithmetic: Number formats and device.
        together: Whether all runs go through the model as one call.

    Attributes:
        compiled: Whether the training loss goes through torch.compile.
    """

    def __init__(self, judged: Judged, arithmetic: Arithmetic, *, together: bool) -> None:
        self.judged = judged
        self.arithmetic = arithmetic
        self.together = together
        self.compiled = False
        self._over_runs: Callable[..., tuple[Tensor, Tensor]]
        self._over_runs = torch.vmap(self._one, in_dims=(0, 0, 0, None, None))
        self._trained = self._over_runs

    def compile(self) -> None:
        """Compile the training loss, for the shapes that come; runs together alone.

        That happens when it is computed next, which raises TorchDynamoException, with nothing
        changed, if torch.compile cannot take the model.
        """
        assert self.together, "runs in turn share no graph"
        # Every shape compiles the same code once more; torch gives up after 8 by default.
        torch._dynamo.config.recompile_limit = max(
            _COMPILATIONS, torch._dynamo.config.recompile_limit
        )
        self._trained = torch.compile(self._laid_out, dynamic=False, fullgraph=True)
        self.compiled = True

    def uncompile(self) -> None:
        """Compute the training loss without torch.compile."""
        self._trained = self._over_runs
        self.compiled = False

    def _laid_out(
        self, weights: Tensors, x: Tensor, y: Tensor, count: bool, shares: tuple[float, ...]
    ) -> tuple[Tensor, Tensor]:
        """Do what `_over_runs` does, with gradients that lie in memory as the weights do.

        Stacked products give them transposed, and the optimizer would copy every one; here the
        copy is part of a pass that the compiler makes anyway.
        """
        laid: Callable[[Tensor], Tensor] = _LikeItself.apply
        weights = {n: laid(w) if w.requires_grad else w for n, w in weights.items()}
        return self._over_runs(weights, x, y, count, shares)

    def losses(self, weights: Tensors, batch: Batch, noise: Sequence[int] = ()) -> Tensor:
        """Return the loss of every run, (R,), with a graph to the weights.

        Args:
            weights: Parameters and buffers, (R, *shape), under the model's names.
            batch: One for each run, (R, B, ...).
            noise: A seed for each run, of what the model draws itself, such as dropout; models
                that draw are computed one run at a time.
        """
        return self._compute(weights, batch, noise)[0]

    @torch.no_grad()
    def judge(self, weights: Tensors, batch: Batch, shares: tuple[float, ...] = ()) -> Tensor:
        """Return mean loss and number of right answers of every run, (R, 2), in evaluation mode.

        Arguments are those of `losses` and of `Judged.forward`.
        """
        self.judged.eval()
        try:
            return torch.stack(self._compute(weights, batch, (), True, shares), dim=1)
        finally:
            self.judged.train()

    def _compute(
        self,
        weights: Tensors,
        batch: Batch,
        noise: Sequence[int],
        count: bool = False,
        shares: tuple[float, ...] = (),
    ) -> tuple[Tensor, Tensor]:
        named = {_PREFIX + name: value for name, value in weights.items()}
        if not self.together:
            return self._in_turn(named, batch, noise, count, shares)
        with sdpa_kernel(attention_kernels(self.arithmetic)):  # those that vmap has rules for
            return (self._over_runs if count else self._trained)(named, *batch, count, shares)

    def _in_turn(
        self,
        named: Tensors,
        batch: Batch,
        noise: Sequence[int],
        count: bool,
        shares: tuple[float, ...],
    ) -> tuple[Tensor, Tensor]:
        """Do for one run after the other what vmap does for all."""
        parts = []
        for r in range(len(batch.x)):
            with _seeded(noise[r], batch.x.device) if noise else nullcontext():
                own = {name: value[r] for name, value in named.items()}
                parts.append(self._one(own, batch.x[r], batch.y[r], count, shares))
        losses, hits = zip(*parts, strict=True)
        return torch.stack(losses), torch.stack(hits)

    def _one(
        self, weights: Tensors, x: Tensor, y: Tensor, count: bool, shares: tuple[float, ...]
    ) -> tuple[Tensor, Tensor]:
        with self.arithmetic.autocast():
            loss: tuple[Tensor, Tensor] = functional_call(
                self.judged, weights, (x, y, count, shares)
            )
        return loss


class _LikeItself(torch.autograd.Function):
    """The identity for a contiguous tensor; its gradient is contiguous too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


def attention_kernels(arithmetic: Arithmetic) -> list[SDPBackend]:
    """Return the attention kernels for stacked runs."""
    if arithmetic.device.type != "cuda":
        return [SDPBackend.MATH]
    return [SDPBackend.FLASH_ATTENTION]


@contextmanager
def _seeded(noise: int, device: torch.device) -> Iterator[None]:
    """Have torch's generators start from a seed, and put them back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(noise)
        yield


# --- what can be stacked ---------------------------------------------------------------------


def why_not_together(judged: Judged, arithmetic: Arithmetic, batch: Batch) -> str | None:
    """Return why the runs of a model cannot go through it as one call, or None if they can.

    Found out with a few examples, forward and backward; the model's buffers stay as they are.
    The answer depends on the model alone, not on the number of runs: a single run is computed as
    a stack of one, so that it has the same bits in every company.

    Args:
        judged: The model with its loss.
        arithmetic: Number formats and device.
        batch: Two or more examples.
    """
    weights = {**dict(judged.model.named_parameters()), **dict(judged.model.named_buffers())}
    copies = {name: w.detach().clone()[None] for name, w in weights.items()}
    for name, p in judged.model.named_parameters():
        copies[name].requires_grad_(p.requires_grad)
    seen = _Seen()
    try:
        with seen:
            alone = Program(judged, arithmetic, together=False)
            alone.losses(copies, Batch(batch.x[None], batch.y[None]))
        if seen.random:
            return f"it draws random numbers ({seen.random})"
        if seen.convolution and arithmetic.device.type == "cpu":
            # As groups of one convolution its bits depend on the number of runs, at little gain.
            return "it has convolutions, which on the CPU are no faster together"
        if seen.attention and arithmetic.device.type == "cuda" and arithmetic.precision != "bf16":
            return "on GPUs its attention can be computed together in precision bf16 alone"
        together = Program(judged, arithmetic, together=True)
        loss = together.losses(copies, Batch(batch.x[None], batch.y[None]))
        trained = [w for w in copies.values() if w.requires_grad]
        torch.autograd.grad(loss.sum(), trained, allow_unused=True)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return f"torch.vmap cannot take it ({str(error).strip().splitlines()[0]})"
    return None


class _Notes:
    """What a model computes with.

    Apart from the mode below: of a mode that defines this method itself, torch keeps its compiler
    away, which it imports to do so, and that takes as long as importing torch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.random = ""
        self.convolution = self.attention = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and not _draws_nothing(func, args):
            self.random = str(func)
        self.convolution |= "convolution" in str(func)
        self.attention |= "attention" in str(func)
        return func(*args, **(kwargs or {}))


class _Seen(_Notes, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes these notes of whatever is computed under it."""


def _draws_nothing(func: Any, args: Any) -> bool:
    """Whether an attention kernel, which may drop out, was told to drop nothing."""
    return "attention" in str(func) and not any(isinstance(a, float) and a > 0 for a in args)


def noise_seed(seed: int, step: int, row: int) -> int:
    """Return the seed of what a model draws itself for one part of one batch."""
    return derived_seed("noise", seed, step, row)
