"""Training of one run, from its configuration to its record."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from transfer import data as datasets
from transfer.checkpoint import load_checkpoint, save_checkpoint
from transfer.config import NUMERICS, RunConfig, require
from transfer.data.base import derived_seed
from transfer.families import build_model, build_table
from transfer.roles import build_optimizer, init_parameters
from transfer.schedules import factor

Status = Literal["done", "diverged", "failed"]

# Losses are looked at this often: on a GPU every look waits for the device.
_STEPS_BETWEEN_LOOKS = 10


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
    *,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 60.0,
    on_step: Callable[[int], None] | None = None,
) -> RunRecord:
    """Train one run on the CPU and return its record.

    Args:
        config: What to train.
        checkpoint: File that is written every `checkpoint_every_s` seconds and, if it holds this
            run, resumed from with the same result; removed at the end.
        checkpoint_every_s: Seconds between checkpoints.
        on_step: Called after every step with the number of steps done.

    Raises:
        ValueError: the configuration does not fit the model or the data.
    """
    started = time.monotonic()
    run = TrainingRun(config)
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
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return record


class TrainingRun:
    """A model, its optimizer and data, at some step.

    Raises:
        ValueError: the configuration does not fit the model or the data.
    """

    def __init__(self, config: RunConfig) -> None:
        require(config.numerics == NUMERICS, "numerics", f"{NUMERICS} here", config.numerics)
        self.config = config
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        data = datasets.load(config.data)
        datasets.require_fits(data, config.data, config.batch_size)
        self.data = data
        self.train_x, self.train_y = self._tensors(data.train_x, data.train_y)
        self.val_x, self.val_y = self._tensors(data.val_x, data.val_y)
        self.model = self._build(data)
        self.table = build_table(config.model, self.model, width=config.width, depth=config.depth)
        generator = torch.Generator().manual_seed(derived_seed("init", config.seed))
        init_parameters(self.model, self.table, config.optimizer, generator, config.width)
        self.optimizer = build_optimizer(self.model, self.table, config.optimizer, config.width)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.step = 0
        self.losses = torch.zeros(config.steps, dtype=torch.float32)
        self.initial_loss, _ = self.validate()

    def _tensors(self, x: NDArray[np.float64], y: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(x).to(self.dtype), torch.from_numpy(y)

    def _build(self, data: datasets.ArrayData) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            # What `init = "keep"` keeps follows from the seed too.
            torch.manual_seed(derived_seed("build", self.config.seed))
            return build_model(
                self.config.model,
                width=self.config.width,
                depth=self.config.depth,
                d_input=data.train_x.shape[1],
                d_output=data.num_classes,
            ).to(self.dtype)

    def _loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the mean loss in nats, and the logits of our own families."""
        own = getattr(self.model, "loss", None)
        if own is not None:
            loss: Tensor = own(x, y)
            good = isinstance(loss, Tensor) and loss.ndim == 0
            require(good, "loss(x, y)", "a tensor without dimensions", loss)
            return loss, None
        logits: Tensor = self.model(x)
        return F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing), logits

    @torch.no_grad()
    def validate(self, num_examples: int | None = None) -> tuple[float, float]:
        """Return loss and accuracy on the first validation examples, by default on all."""
        x, y = self.val_x[:num_examples], self.val_y[:num_examples]
        self.model.eval()
        loss, logits = self._loss(x, y)
        self.model.train()
        if logits is None:
            return loss.item(), math.nan
        return loss.item(), (logits.argmax(-1) == y).double().mean().item()

    def advance(self) -> None:
        """Do one step."""
        indices = self.data.batch_indices(self.config.seed, self.step, self.config.batch_size)
        chosen = torch.from_numpy(indices)
        scale = factor(self.config.schedule, self.step, self.config.steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale
        loss, _ = self._loss(self.train_x[chosen], self.train_y[chosen])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch annotates it in part only
        self.optimizer.step()
        self.losses[self.step] = loss.detach()
        self.step += 1

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
        state = load_checkpoint(checkpoint, self.config.run_id)
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
        curve = self.losses[: min(stopped + 1, self.step)].numpy().copy()
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


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
