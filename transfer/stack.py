"""Runs of one shape, trained as one program.

Every parameter and buffer of R runs is one tensor (R, *shape); models whose parameters view it
stand for the single runs. A single run is a stack of one: the same program, so that on the CPU,
with one thread, a run has the same bits in every company. Shapes: R runs, B examples of a batch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transfer import data as datasets
from transfer.arithmetic import Arithmetic
from transfer.config import ComputeConfig, CustomConfig, RunConfig, ScionConfig, stack_key
from transfer.data.base import Batch, derived_seed
from transfer.families import Family
from transfer.program import Judged, Program, noise_seed, template, why_not_together
from transfer.roles import init_parameters
from transfer.schedules import factor
from transfer.steppers import make_stepper

_ROWS_TO_VALIDATE = 1024
_EXAMPLES_TO_FIT = 5000
_EXAMPLES_TO_TRY = 2
_MODELS_KEPT = 4
_recent: dict[tuple[str, ...], nn.Module] = {}
"""Initial models by run and device: the stacks of a sweep start from the same few."""


class Stack:
    """R models, their optimizer and data, at some step.

    Args:
        configs: Runs with one `stack_key`.
        compute: Where, and how many examples at once; by default on the CPU, whole batches.

    Raises:
        ValueError: the runs do not belong together, or a configuration does not fit the model, the
            data or the device.

    Attributes:
        model: A model whose parameters are those of the first run.
        alone: Why the runs go through the model one at a time; None if they do not.
        losses: Training losses so far, (R, steps), zero where there is none yet.
        initial: Validation loss and accuracy before the first step, one pair a run.
    """

    def __init__(self, configs: Sequence[RunConfig], compute: ComputeConfig | None = None) -> None:
        keys = {stack_key(config) for config in configs}
        if len(keys) != 1:
            raise ValueError(f"runs of a stack must have one stack_key, got {len(keys)} of them")
        self.configs = list(configs)
        first, compute = self.configs[0], compute or ComputeConfig()
        self.arithmetic = Arithmetic(first.precision, compute.device)
        self.micro_batch_size = compute.micro_batch_size or first.batch_size
        data = datasets.load(first.data)
        datasets.require_fits(data, first.data, first.batch_size)
        self.data = data.to(self.arithmetic.device, self.arithmetic.dtype)
        family = Family(first.model, data.shape)
        # Somebody's own model may change between two stacks, ours does not.
        known = {} if isinstance(first.model, CustomConfig) else _recent
        models = [self._initial(family, config, known) for config in self.configs]
        self.table = family.table(models[0], first.width, first.depth)
        self.model = template(models[0])
        self._hold(_stacked(models))
        del models
        self.alone = self._why_alone(Judged(self.model, first.label_smoothing))
        self.program = self._program()
        self.stepper = make_stepper(self.trained, self.view, self.table, self.configs)
        self.step = 0
        self.losses = torch.zeros(len(configs), first.steps, device=self.arithmetic.device)
        self.initial = self.validate()

    # --- building ---

    def _initial(
        self, family: Family, config: RunConfig, known: dict[tuple[str, ...], nn.Module]
    ) -> nn.Module:
        """Return the model that a run starts from; runs that start alike share it."""
        start = replace(config, optimizer=_start(config)).run_id
        key = (start, self.data.fingerprint, str(self.arithmetic.device))
        if key not in known:
            if known is _recent and len(known) >= _MODELS_KEPT:
                del known[next(iter(known))]
            known[key] = self._initialised(family, config)
        if self.micro_batch_size < config.batch_size:
            _require_splittable(known[key])
        return known[key]

    def _initialised(self, family: Family, config: RunConfig) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            # What `init = "keep"` keeps follows from the seed too.
            torch.manual_seed(derived_seed("build", config.seed))
            model = family.build(config.width, config.depth)
        model.to(self.arithmetic.device, self.arithmetic.dtype)
        table = family.table(model, config.width, config.depth)
        generator = torch.Generator().manual_seed(derived_seed("init", config.seed))
        with self.arithmetic.device:
            init_parameters(model, table, config.optimizer, generator, config.width)
        fit = getattr(model, "fit_to_data", None)
        if fit is not None:
            # Fixed layers that come from the data, such as whitening.
            fit(self.data.rows_to_fit(config.seed, _EXAMPLES_TO_FIT))
        return model

    def _hold(self, weights: dict[str, Tensor]) -> None:
        """Keep stacked tensors; the model's own become views of the first run's."""
        self.weights = weights
        wanted = {name for name, p in self.model.named_parameters() if p.requires_grad}
        self.trained = {n: w.requires_grad_() for n, w in weights.items() if n in wanted}
        _point(self.model, self.weights, 0)

    def view(self, run: int) -> nn.Module:
        """Return a model whose parameters and buffers are those of one run."""
        if run == 0:
            return self.model
        model = template(self.model)
        _point(model, self.weights, run)
        return model

    def _program(self) -> Program:
        judged = Judged(template(self.model), self.configs[0].label_smoothing)
        return Program(judged, self.arithmetic, together=self.alone is None)

    def _why_alone(self, judged: Judged) -> str | None:
        size = min(_EXAMPLES_TO_TRY, self.micro_batch_size)
        batch = self.data.train_rows(self.configs[0].seed, 0, size, slice(0, size))
        return why_not_together(judged, self.arithmetic, batch)

    # --- training ---

    def advance(self) -> None:
        """Do one step."""
        config = self.configs[0]
        parts = _slices(config.batch_size, self.micro_batch_size)
        with self.arithmetic.products():
            gradients = self._gradients(parts[0])
            for rows in parts[1:]:
                _add(gradients, self._gradients(rows))
        self.stepper.step(gradients, factor(config.schedule, self.step, config.steps))
        self.step += 1

    def _gradients(self, rows: slice) -> dict[str, Tensor | None]:
        """Return the gradients of some rows of the batch, in proportion to their number."""
        size = self.configs[0].batch_size
        noise = [noise_seed(c.seed, self.step, rows.start) for c in self.configs]
        losses = self.program.losses(self.weights, self._batch(rows), noise)
        losses = losses * ((rows.stop - rows.start) / size)
        self.losses[:, self.step] += losses.detach()
        # Runs share nothing, so each gets its own gradient out of the sum.
        found = torch.autograd.grad(losses.sum(), [*self.trained.values()], allow_unused=True)
        return dict(zip(self.trained, found, strict=True))

    def _batch(self, rows: slice) -> Batch:
        """Return rows of every run's batch, (R, B, ...); runs of one seed share theirs."""
        size, seeds = self.configs[0].batch_size, [c.seed for c in self.configs]
        parts = {s: self.data.train_rows(s, self.step, size, rows) for s in dict.fromkeys(seeds)}
        return Batch(
            _spread([parts[seed].x for seed in seeds]), _spread([parts[seed].y for seed in seeds])
        )

    def validate(self, num_examples: int | None = None) -> list[tuple[float, float]]:
        """Return every run's loss and accuracy on the first validation examples, by default all."""
        slices = self._val_slices(num_examples or self.data.num_val)
        end = slices[-1].stop
        with self.arithmetic.products():
            parts = torch.stack([self._judged(rows) for rows in slices]).cpu().double()
        sizes = torch.tensor([rows.stop - rows.start for rows in slices], dtype=torch.float64)
        loss = (parts[:, :, 0] * (sizes / end)[:, None]).sum(0)
        accuracy = parts[:, :, 1].sum(0) / (end * self.data.shape.positions)
        return list(zip(loss.tolist(), accuracy.tolist(), strict=True))

    def _val_slices(self, num_examples: int) -> list[slice]:
        # Sequences are long; of images and vectors more fit than a small batch has.
        most = 1 if self.data.shape.kind == "tokens" else _ROWS_TO_VALIDATE
        end = min(num_examples, self.data.num_val)
        return _slices(end, max(self.micro_batch_size, most))

    def _judged(self, rows: slice) -> Tensor:
        """Return mean loss and number of right answers on some validation rows, (R, 2)."""
        x, y = self.data.val_rows(rows)
        shares, views = zip(*self.data.views(x), strict=True)
        several = len(views) > 1
        shown = torch.stack(views) if several else x
        shared = Batch(*(_spread([part] * len(self.configs)) for part in (shown, y)))
        return self.program.judge(self.weights, shared, shares if several else ())

    @torch.no_grad()
    def pass_through(self, num_examples: int) -> None:
        """Send the first validation examples through `model` itself, for who listens to its layers.

        `validate` computes with stacked tensors, which no hook on a module can read.
        """
        self.model.eval()
        with self.arithmetic.products(), self.arithmetic.autocast():
            for rows in self._val_slices(num_examples):
                Judged(self.model, 0.0)(*self.data.val_rows(rows))
        self.model.train()

    def finite_steps(self) -> list[int]:
        """Return for every run how many losses there are before the first that is not finite."""
        broken = ~torch.isfinite(self.losses)  # of steps to come they are zero
        ends = torch.where(broken.any(1), broken.int().argmax(1), self.step)
        return [int(end) for end in ends.tolist()]

    # --- parts of a stack ---

    def keep(self, runs: Sequence[int]) -> None:
        """Go on with some of the runs alone."""
        states = [self.stepper.state(run) for run in runs]
        chosen = torch.tensor(list(runs), device=self.arithmetic.device)
        self.configs = [self.configs[run] for run in runs]
        self.program = self._program()
        self.initial = [self.initial[run] for run in runs]
        self.losses = self.losses[chosen]
        self._hold({name: w.detach()[chosen] for name, w in self.weights.items()})
        self.stepper = make_stepper(self.trained, self.view, self.table, self.configs)
        self.stepper.load(states)

    def state(self, run: int) -> dict[str, Any]:
        """Return all that a checkpoint of one run needs, on its own storage."""
        return {
            "run_id": self.configs[run].run_id,
            "step": self.step,
            "losses": self.losses[run].clone(),
            "model": {name: w.detach()[run].clone() for name, w in self.weights.items()},
            "optimizer": self.stepper.state(run),
        }

    @torch.no_grad()
    def load(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue from checkpoints of all runs, taken at one step."""
        self.step = int(states[0]["step"])
        for name, w in self.weights.items():
            w.copy_(torch.stack([state["model"][name] for state in states]))
        self.losses = torch.stack([state["losses"] for state in states])
        self.stepper.load([state["optimizer"] for state in states])


def _start(config: RunConfig) -> Any:
    """Return the optimizer's settings without those that do not show in the initial weights."""
    if isinstance(config.optimizer, ScionConfig):
        return replace(config.optimizer, stepsize=1.0, alpha=1.0)
    return replace(config.optimizer, stepsize=1.0)


def _stacked(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Return parameters and buffers of all models, (R, *shape); a tied tensor once."""
    parts = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in models]
    return {name: torch.stack([part[name].detach() for part in parts]) for name in parts[0]}


def _point(model: nn.Module, weights: dict[str, Tensor], run: int) -> None:
    """Have a model's parameters and buffers view one run's."""
    for owned in (model.named_parameters(), model.named_buffers()):
        for name, tensor in owned:
            tensor.data = weights[name].detach()[run]


def _spread(parts: list[Tensor]) -> Tensor:
    """Stack one tensor a run; if it is the same for all, without copies."""
    if all(part is parts[0] for part in parts):
        return parts[0].expand(len(parts), *parts[0].shape)
    return torch.stack(parts)


def _add(sums: dict[str, Tensor | None], more: dict[str, Tensor | None]) -> None:
    for name, value in more.items():
        total = sums[name]
        sums[name] = value if total is None else total if value is None else total.add_(value)


def _slices(end: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, end)) for start in range(0, end, size)]


def _require_splittable(model: nn.Module) -> None:
    """Raise ValueError for a model whose batches cannot be computed in parts."""
    for name, module in model.named_modules():
        if getattr(module, "needs_whole_batch", isinstance(module, _BatchNorm)):
            raise ValueError(
                f"micro_batch_size must be 0: {name or 'the model'} normalises over the whole batch"
            )
