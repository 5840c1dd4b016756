"""Training of one run, from its configuration to its record."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transfer import data as datasets
from transfer.arithmetic import Arithmetic
from transfer.checkpoint import load_checkpoint, save_checkpoint
from transfer.config import AdamWConfig, ComputeConfig, RunConfig, require
from transfer.data.base import Batch, derived_seed
from transfer.families import Family
from transfer.roles import build_optimizer, init_parameters
from transfer.schedules import factor

Status = Literal["done", "diverged", "failed"]
Weighted = Sequence[tuple[float, Tensor]]
"""Inputs with weights of sum 1."""

# Losses are looked at this often: on a GPU every look waits for the device.
_STEPS_BETWEEN_LOOKS = 10
_ROWS_TO_VALIDATE = 1024
_EXAMPLES_TO_FIT = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What one run gave. Losses are in nats; None where the number does not exist."""

    config: RunConfig
    status: Status
    stopped_step: int
    """Steps done; for a diverged run, the step of its first non-finite loss, or all of them."""
    val_loss: float | None
    val_accuracy: float | None
    initial_loss: float | None
    """Validation loss before the first step."""
    train_loss: float | None
    """Training loss of the last batch, before its step."""
    error: str | None
    wall_s: float
    curve: NDArray[np.float32]
    """Training loss of every step done, shape (stopped_step,) or one more if that is not finite."""


def train(
    config: RunConfig,
    compute: ComputeConfig | None = None,
    *,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 60.0,
    on_step: Callable[[int], None] | None = None,
) -> RunRecord:
    """Train one run and return its record.

    Args:
        config: What to train.
        compute: Where, and how many examples at once; by default on the CPU, whole batches.
        checkpoint: File that is written every `checkpoint_every_s` seconds and, if it holds this
            run, resumed from with the same result; removed at the end.
        checkpoint_every_s: Seconds between checkpoints.
        on_step: Called after every step with the number of steps done.

    Raises:
        ValueError: the configuration does not fit the model, the data or the device.
    """
    started = time.monotonic()
    run = TrainingRun(config, compute)
    try:
        if checkpoint is not None:
            run.resume(checkpoint)
        saved = time.monotonic()
        while run.step < config.steps and not run.diverged():
            run.advance()
            if on_step is not None:
                on_step(run.step)
            if checkpoint is not None and time.monotonic() - saved >= checkpoint_every_s:
                save_checkpoint(checkpoint, run.state())
                saved = time.monotonic()
        record = run.record(time.monotonic() - started)
    finally:
        run.data.close()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return record


class TrainingRun:
    """A model, its optimizer and data, at some step.

    Raises:
        ValueError: the configuration does not fit the model, the data or the device.
    """

    def __init__(self, config: RunConfig, compute: ComputeConfig | None = None) -> None:
        compute = compute or ComputeConfig()
        self.config = config
        self.arithmetic = Arithmetic(config.precision, compute.device)
        self.micro_batch_size = compute.micro_batch_size or config.batch_size
        device = self.arithmetic.device
        data = datasets.load(config.data)
        datasets.require_fits(data, config.data, config.batch_size)
        self.data = data.to(device, self.arithmetic.dtype)
        family = Family(config.model, data.shape)
        self.model = self._build(family)
        self.table = family.table(self.model, config.width, config.depth)
        generator = torch.Generator().manual_seed(derived_seed("init", config.seed))
        init_parameters(self.model, self.table, config.optimizer, generator, config.width)
        self.model.to(device)
        self._fit_to_data()
        self.optimizer = build_optimizer(self.model, self.table, config.optimizer, config.width)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.step = 0
        self.losses = torch.zeros(config.steps, dtype=torch.float32, device=device)
        self.initial_loss, _ = self.validate()

    def _build(self, family: Family) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            # What `init = "keep"` keeps follows from the seed too.
            torch.manual_seed(derived_seed("build", self.config.seed))
            model = family.build(self.config.width, self.config.depth)
        if self.micro_batch_size < self.config.batch_size:
            _require_splittable(model)
        return model.to(self.arithmetic.dtype)

    def _fit_to_data(self) -> None:
        """Let a model with fixed layers from the data, such as whitening, look at some."""
        fit = getattr(self.model, "fit_to_data", None)
        if fit is not None:
            fit(self.data.rows_to_fit(self.config.seed, _EXAMPLES_TO_FIT))

    def _loss(self, batch: Batch, views: Weighted = ()) -> tuple[Tensor, Tensor | None]:
        """Return the mean loss in nats, and the logits of our own families.

        Those of several views of the inputs, if given, are averaged.
        """
        own = getattr(self.model, "loss", None)
        if own is not None:
            loss: Tensor = own(batch.x, batch.y)
            good = isinstance(loss, Tensor) and loss.ndim == 0
            require(good, "loss(x, y)", "a tensor without dimensions", loss)
            return loss, None
        if len(views) > 1:
            logits = torch.stack([share * self.model(x) for share, x in views]).sum(0)
        else:
            logits = self.model(batch.x)
        flat, targets = logits.flatten(0, -2), batch.y.flatten()
        smoothing = self.config.label_smoothing
        return F.cross_entropy(flat, targets, label_smoothing=smoothing), logits

    @torch.no_grad()
    def validate(self, num_examples: int | None = None) -> tuple[float, float]:
        """Return loss and accuracy on the first validation examples, by default on all."""
        end = min(num_examples or self.data.num_val, self.data.num_val)
        # Sequences are long; of images and vectors more fit than a small batch has.
        most = 1 if self.data.shape.kind == "tokens" else _ROWS_TO_VALIDATE
        self.model.eval()
        with self.arithmetic.products():
            parts = [self._judge(r, end) for r in _slices(end, max(self.micro_batch_size, most))]
        self.model.train()
        loss, accuracy = torch.stack(parts).sum(0).tolist()
        return loss, accuracy

    def _judge(self, rows: slice, num_examples: int) -> Tensor:
        """Return what some validation rows add to loss and accuracy."""
        batch = self.data.val_rows(rows)
        with self.arithmetic.autocast():
            loss, logits = self._loss(batch, self.data.views(batch.x))
        nan = torch.tensor(math.nan)
        hits = nan if logits is None else logits.argmax(-1) == batch.y
        share = (rows.stop - rows.start) / num_examples
        # On the host: some devices have no float64.
        return torch.stack([loss.cpu().double(), hits.cpu().double().mean()]).mul(share)

    def advance(self) -> None:
        """Do one step."""
        config = self.config
        scale = factor(config.schedule, self.step, config.steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale
        self.optimizer.zero_grad()
        with self.arithmetic.products():
            for rows in _slices(config.batch_size, self.micro_batch_size):
                self._backward(rows)
        if isinstance(config.optimizer, AdamWConfig) and config.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        self.step += 1

    def _backward(self, rows: slice) -> None:
        """Add the gradient of some rows of the step's batch, in proportion to their number."""
        batch_size = self.config.batch_size
        batch = self.data.train_rows(self.config.seed, self.step, batch_size, rows)
        with self.arithmetic.autocast():
            loss, _ = self._loss(batch)
        loss = loss * ((rows.stop - rows.start) / batch_size)
        torch.autograd.backward(loss)
        self.losses[self.step] += loss.detach()

    def diverged(self) -> bool:
        """Whether a loss so far is not finite; looked at every few steps and at the end."""
        if self.step % _STEPS_BETWEEN_LOOKS and self.step < self.config.steps:
            return False
        return not bool(torch.isfinite(self.losses[: self.step]).all())

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint needs."""
        return {
            "run_id": self.config.run_id,
            "step": self.step,
            "losses": self.losses,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint of this run, if there is one."""
        state = load_checkpoint(checkpoint, self.config.run_id, self.arithmetic.device)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.step = state["losses"], state["step"]

    def record(self, wall_s: float) -> RunRecord:
        """Judge and summarise the run; call it once training has ended."""
        finite = torch.isfinite(self.losses[: self.step])
        stopped = self.step if bool(finite.all()) else int((~finite).int().argmax())
        val_loss, accuracy = self.validate() if stopped == self.step else (math.nan, math.nan)
        # A finite loss that ends above where it began is no result either.
        diverged = not math.isfinite(val_loss) or val_loss > self.initial_loss
        curve = self.losses[: min(stopped + 1, self.step)].cpu().numpy().copy()
        return RunRecord(
            config=self.config,
            status="diverged" if diverged else "done",
            stopped_step=stopped,
            val_loss=_number(val_loss),
            val_accuracy=_number(accuracy),
            initial_loss=_number(self.initial_loss),
            train_loss=_number(float(curve[-1])),
            error=None,
            wall_s=wall_s,
            curve=curve,
        )


def _slices(end: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, end)) for start in range(0, end, size)]


def _require_splittable(model: nn.Module) -> None:
    """Raise ValueError for a model whose batches cannot be computed in parts."""
    for name, module in model.named_modules():
        if getattr(module, "needs_whole_batch", isinstance(module, _BatchNorm)):
            raise ValueError(
                f"micro_batch_size must be 0: {name or 'the model'} normalises over the whole batch"
            )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
