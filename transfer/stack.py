"""Runs of one shape, trained as one program.

Every parameter and buffer of R runs is one tensor (R, *shape); models whose parameters view it
stand for the single runs. A single run is a stack of one: the same program, so that on the CPU,
with one thread, a run has the same bits in every company. Of several processes (see
`transfer.distributed`) each computes its part of every batch.

Shapes: R runs, B examples of a batch.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transfer import data as datasets
from transfer.arithmetic import Arithmetic
from transfer.config import ComputeConfig, CustomConfig, RunConfig, ScionConfig, stack_key
from transfer.data.base import Batch
from transfer.distributed import Team, current
from transfer.families import Family
from transfer.program import Judged, Program, noise_seed, template, why_not_together
from transfer.roles import init_parameters
from transfer.schedules import factor
from transfer.seeds import derived_seed
from transfer.steppers import make_stepper
from transfer.undrawn import Undrawn

_ROWS_TO_VALIDATE = 1024
_EXAMPLES_TO_FIT = 5000
_EXAMPLES_TO_TRY = 2
_MODELS_KEPT = 4


@dataclass
class _Start:
    """What runs that start alike share."""

    model: nn.Module
    judged: tuple[float, float] | None = None
    """Its validation loss and accuracy, once they are known."""


_recent: dict[tuple[object, ...], _Start] = {}
"""By run and device: the stacks of a sweep start from the same few."""


def forget() -> None:
    """Begin the next stack with nothing kept, as processes must that failed at different places."""
    _recent.clear()


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
        team: The processes that this one trains with.
        losses: Training losses so far, (R, steps), zero where there is none yet.
        initial: Validation loss and accuracy before the first step, one pair a run.
    """

    def __init__(self, configs: Sequence[RunConfig], compute: ComputeConfig | None = None) -> None:
        keys = {stack_key(config) for config in configs}
        if len(keys) != 1:
            raise ValueError(f"runs of a stack must have one stack_key, got {len(keys)} of them")
        self.configs = list(configs)
        first, compute = self.configs[0], compute or ComputeConfig()
        self.team = current()
        self.arithmetic = Arithmetic(first.precision, compute.device)
        self.rows = self.team.share(first.batch_size)
        most = self.team.largest_share(first.batch_size)
        self.micro_batch_size = min(compute.micro_batch_size or most, most)
        data = datasets.load(first.data)
        datasets.require_fits(data, first.data, first.batch_size)
        self.data = data.to(self.arithmetic.device, self.arithmetic.dtype)
        family = Family(first.model, data.shape)
        starts = self._starts(family)
        self.table = family.table(starts[0].model, first.width, first.depth)
        self.model = template(starts[0].model)
        self._hold(_stacked([start.model for start in starts]))
        self.alone = self._why_alone(Judged(self.model, first.label_smoothing))
        self.program = self._program()
        self.stepper = make_stepper(self.trained, self.view, self.table, self.configs)
        self.step = 0
        self.losses = torch.zeros(len(configs), first.steps, device=self.arithmetic.device)
        self.initial = self._judge(starts)

    # --- building ---

    def _starts(self, family: Family) -> list[_Start]:
        """Return what every run starts from; runs that start alike share it."""
        first = self.configs[0]
        # Somebody's own model may change between two stacks, ours does not.
        known = {} if isinstance(first.model, CustomConfig) else _recent
        keys = [self._start_key(config) for config in self.configs]
        new = {k: c for k, c in zip(keys, self.configs, strict=True) if k not in known}
        made = zip(new, self._initialised(family, [*new.values()]), strict=True)
        found = {key: known[key] for key in keys if key in known}
        found |= {key: _Start(model) for key, model in made}
        if self.micro_batch_size < first.batch_size:
            _require_splittable(found[keys[0]].model, self.team)
        for key in found:
            known.pop(key, None)  # to be the most recent ones
        known.update(found)
        for key in [*known][: max(0, len(known) - _MODELS_KEPT)]:
            del known[key]
        return [found[key] for key in keys]

    def _start_key(self, config: RunConfig) -> tuple[object, ...]:
        start = replace(config, optimizer=_before(config)).run_id
        device = str(self.arithmetic.device)
        return start, self.data.fingerprint, device, self.micro_batch_size

    def _initialised(self, family: Family, configs: Sequence[RunConfig]) -> list[nn.Module]:
        """Return models with their initial weights."""
        # With torch's own generator, so one after the other.
        models = [self._built(family, config) for config in configs]
        if self.arithmetic.device.type == "cpu":
            for model, config in zip(models, configs, strict=True):
                self._fill(family, model, config)
        else:
            # Numbers are drawn on the CPU, which would keep a GPU waiting for seconds a model.
            # Torch loads its linear algebra when first asked, which fails in two threads at once.
            torch.linalg.inv(torch.ones(1, 1, device=self.arithmetic.device))
            # Every thread begins with the first GPU, which may be another process's.
            gpu = torch.cuda.current_device() if self.arithmetic.device.type == "cuda" else None
            choose = nullcontext if gpu is None else partial(torch.cuda.set_device, gpu)
            with ThreadPoolExecutor(_MODELS_KEPT, initializer=choose) as pool:
                list(pool.map(self._fill, [family] * len(models), models, configs))
        return models

    def _built(self, family: Family, config: RunConfig) -> nn.Module:
        with torch.random.fork_rng(devices=[]), nullcontext() if _keeps(config) else Undrawn():
            # What `init = "keep"` keeps follows from the seed too.
            torch.manual_seed(derived_seed("build", config.seed))
            model = family.build(config.width, config.depth)
        return model.to(self.arithmetic.device, self.arithmetic.dtype)

    def _fill(self, family: Family, model: nn.Module, config: RunConfig) -> None:
        table = family.table(model, config.width, config.depth)
        generator = torch.Generator().manual_seed(derived_seed("init", config.seed))
        with self.arithmetic.device:
            init_parameters(model, table, config.optimizer, generator, config.width)
        fit = getattr(model, "fit_to_data", None)
        if fit is not None:
            # Fixed layers that come from the data, such as whitening.
            fit(self.data.rows_to_fit(config.seed, _EXAMPLES_TO_FIT))

    def _judge(self, starts: Sequence[_Start]) -> list[tuple[float, float]]:
        """Return the validation of every run's start, those that are alike computed once."""
        new = {id(start): run for run, start in enumerate(starts) if start.judged is None}
        if new:
            chosen = torch.tensor([*new.values()], device=self.arithmetic.device)
            weights = {name: w.detach()[chosen] for name, w in self.weights.items()}
            for run, judged in zip(new.values(), self._validated(weights), strict=True):
                starts[run].judged = judged
        return [start.judged for start in starts if start.judged is not None]

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
        with self.arithmetic.flushed():
            self._advance()

    def _advance(self) -> None:
        config = self.configs[0]
        parts = _slices(self.rows.start, self.rows.stop, self.micro_batch_size)
        with self.arithmetic.products():
            gradients = self._gradients(parts[0])
            for rows in parts[1:]:
                _add(gradients, self._gradients(rows))
        if self.team.size > 1:
            gradients = self._added_up(gradients)
        self.stepper.step(gradients, factor(config.schedule, self.step, config.steps))
        self.step += 1

    def _added_up(self, gradients: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
        """Return the gradients of the whole batch, and note its losses."""
        names, parts = [*gradients], [*gradients.values(), self.losses[:, self.step]]
        gradients.clear()  # they are let go of one by one
        self.team.add_up(parts)
        losses = parts.pop()
        assert losses is not None
        self.losses[:, self.step] = losses
        return dict(zip(names, parts, strict=True))

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
        return self._validated(self.weights, num_examples)

    def _validated(
        self, weights: dict[str, Tensor], num_examples: int | None = None
    ) -> list[tuple[float, float]]:
        slices = self._val_slices(num_examples or self.data.num_val)
        end, team = slices[-1].stop, self.team
        runs = len(next(iter(weights.values())))
        parts = torch.zeros(len(slices), runs, 2, dtype=torch.float64)  # those of others stay 0
        with self.arithmetic.products():
            own = [self._judged(weights, rows) for rows in slices[team.rank :: team.size]]
            if own:
                parts[team.rank :: team.size] = torch.stack(own).cpu().double()
        parts = team.total(parts)
        sizes = torch.tensor([rows.stop - rows.start for rows in slices], dtype=torch.float64)
        loss = (parts[:, :, 0] * (sizes / end)[:, None]).sum(0)
        accuracy = parts[:, :, 1].sum(0) / (end * self.data.shape.positions)
        return list(zip(loss.tolist(), accuracy.tolist(), strict=True))

    def _val_slices(self, num_examples: int) -> list[slice]:
        # Sequences are long; of images and vectors more fit than a small batch has.
        most = 1 if self.data.shape.kind == "tokens" else _ROWS_TO_VALIDATE
        end = min(num_examples, self.data.num_val)
        return _slices(0, end, max(self.micro_batch_size, most))

    def _judged(self, weights: dict[str, Tensor], rows: slice) -> Tensor:
        """Return mean loss and number of right answers on some validation rows, (R, 2)."""
        number = len(next(iter(weights.values())))
        x, y = self.data.val_rows(rows)
        shares, views = zip(*self.data.views(x), strict=True)
        several = len(views) > 1
        shown = torch.stack(views) if several else x
        shared = Batch(*(_spread([part] * number) for part in (shown, y)))
        return self.program.judge(weights, shared, shares if several else ())

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

    @property
    def num_bytes(self) -> int:
        """About what checkpoints of all runs hold: weights, and as much for the optimizer."""
        return 2 * sum(w.numel() * w.element_size() for w in self.weights.values())

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


def _before(config: RunConfig) -> Any:
    """Return the optimizer's settings without those that do not show in the initial weights."""
    if isinstance(config.optimizer, ScionConfig):
        return replace(config.optimizer, stepsize=1.0, alpha=1.0)
    return replace(config.optimizer, stepsize=1.0)


def _keeps(config: RunConfig) -> bool:
    """Whether some parameter may start as the model was built."""
    if isinstance(config.model, CustomConfig):
        return True
    if isinstance(config.optimizer, ScionConfig):
        return any(rule.init == "keep" for rule in config.optimizer.roles.values())
    return getattr(config.optimizer, "init", "fan-in") == "keep"


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


def _slices(start: int, end: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, end)) for first in range(start, end, size)]


def _require_splittable(model: nn.Module, team: Team) -> None:
    """Raise ValueError for a model whose batches cannot be computed in parts."""
    what = "micro_batch_size must be 0"
    if team.size > 1:
        what = f"the number of processes of a job must be 1, got {team.size}"
    for name, module in model.named_modules():
        if getattr(module, "needs_whole_batch", isinstance(module, _BatchNorm)):
            raise ValueError(f"{what}: {name or 'the model'} normalises over the whole batch")
