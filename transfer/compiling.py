"""Whether and when a stack's loss goes through torch.compile: where the time it saves pays for it.

A stack begins uncompiled. After a few steps its pace is known, and with it what compiling would
save of the rest: nothing of a model whose passes over activations are kernels of our own. Where
none of several stacks of one kind is worth it alone, the one compiles by which as much was lost as
compiling costs. Compiled programs are kept for later stacks of the process, and torch's own cache
on disk makes the next process compile in a few seconds.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch

from transfer import kernels
from transfer.config import RunConfig, canonical_json
from transfer.config.compute import CompileName
from transfer.data.cache import cache_folder
from transfer.program import Program
from transfer.stack import Stack

_STEPS_BEFORE = 3
"""Steps that are taken before the pace is measured, on the next one."""
_SHARE_SAVED = 0.5
"""Of a step's time, where it is compiled: 0.43 to 0.67 of the shallow GPT's on an H100, when all
passes over its activations were torch's."""
_COLD_S, _WARM_S = 13.0, 3.0
"""Seconds that compiling takes, without and with torch's cache on disk: 11 to 14 and 2 to 6 for the
shallow GPT on an H100, and some more for the first program of a process."""
_MOST_KEPT = 8

_kept: dict[str, Program] = {}
_lost_s: dict[str, float] = {}
"""Seconds that stacks of a kind would have saved so far, had the first of them been compiled."""


class Pace:
    """Advances a stack, and compiles its loss once that pays.

    Args:
        how: auto, never, or always from the first step.
        on_note: Called with one line if the model cannot be compiled.

    Attributes:
        compile_s: Seconds that compiling has taken.
    """

    def __init__(self, how: CompileName, on_note: Callable[[str], None] | None = None) -> None:
        self.how = how
        self.on_note = on_note
        self.compile_s = 0.0
        self._steps = 0

    def advance(self, stack: Stack) -> None:
        """Do one step.

        Raises:
            ValueError: `always`, and the model goes one run at a time, which is not compiled, or
                torch.compile cannot take it.
        """
        program = stack.program
        if self.how == "always" and not program.together:
            raise _not_always(str(stack.alone))
        if self.how == "never" or not program.together or program.compiled:
            stack.advance()
            return
        if self.how == "always":
            self._compile(stack)
            return
        if stack.arithmetic.device.type != "cuda":
            stack.advance()  # operations are quick to start there, and compiling takes long
            return
        self._steps += 1
        known = _key(stack) in _kept
        if known or (self._steps == 1 and stack.team.told(self._paid_before(stack))):
            self._compile(stack)
        elif self._steps == _STEPS_BEFORE + 1:
            self._measure(stack)
        else:
            stack.advance()

    def _paid_before(self, stack: Stack) -> bool:
        """Whether compiling such a stack pays by what an earlier process found out."""
        return _known_saving(stack) * (stack.configs[0].steps - stack.step) > _WARM_S

    def restart(self) -> None:
        """Measure again: the stack has become smaller."""
        self._steps = 0

    def _measure(self, stack: Stack) -> None:
        torch.cuda.synchronize()
        started = time.monotonic()
        stack.advance()
        torch.cuda.synchronize()
        saving = time_saved(stack, time.monotonic() - started)
        cost = _WARM_S if _mark(stack).exists() else _COLD_S
        left = stack.configs[0].steps - stack.step
        # One clock for all processes of a team: who compiles keeps the others waiting.
        if left and stack.team.told(pays(_key(stack), saving * left, cost)):
            self._compile(stack, saving)

    def _compile(self, stack: Stack, saving: float = 0.0) -> None:
        """Do one step compiled; if that is the first of its kind, it takes long."""
        # Not above: the compiler takes as long to import as torch itself, and few runs need it.
        from torch._dynamo.exc import TorchDynamoException

        key = _key(stack)
        known = _kept.pop(key, None)
        if known is None:
            while len(_kept) >= _MOST_KEPT:
                del _kept[next(iter(_kept))]
            known = stack.program
            known.compile()
        stack.program = known
        _programs()  # before torch looks
        started = time.monotonic()
        try:
            with _cached():
                stack.advance()
        except TorchDynamoException as error:
            why = f"torch.compile cannot take it ({str(error).strip().splitlines()[0]})"
            if self.how == "always":
                raise _not_always(why) from error
            self.how = "never"
            known.uncompile()
            if self.on_note is not None:
                self.on_note(f"this model is trained uncompiled: {why}")
            stack.advance()
            return
        if stack.arithmetic.device.type == "cuda":
            torch.cuda.synchronize()
        self.compile_s += time.monotonic() - started
        _kept[key] = known
        _lost_s.pop(key, None)
        mark = _mark(stack)
        mark.parent.mkdir(parents=True, exist_ok=True)
        if saving or not mark.exists():
            mark.write_text(repr(saving), "utf-8")


def _not_always(why: str) -> ValueError:
    return ValueError(f"compute.compile must be auto or never for this model, got 'always': {why}")


def forget() -> None:
    """Keep no program, as processes must that failed at different places."""
    _kept.clear()


def pays(key: str, saved_s: float, cost_s: float) -> bool:
    """Whether to compile for what is saved now, on top of what was lost by not doing so before."""
    _lost_s[key] = _lost_s.get(key, 0.0) + saved_s
    return _lost_s[key] > cost_s


def time_saved(stack: Stack, took_s: float) -> float:
    """Return the seconds that a compiled step is expected to save, of an uncompiled one's.

    Taken as nothing where the passes are kernels of our own. Where the device waits for the host,
    as it does for a single small run, it is a tenth, which seldom pays (docs/performance.md).
    """
    own = getattr(stack.model, "own_passes", False) and stack.arithmetic.precision == "bf16"
    return 0.0 if own and kernels.THERE else _SHARE_SAVED * took_s


def _known_saving(stack: Stack) -> float:
    """Return the seconds a step that compiling was to save, 0 if nobody has measured them."""
    try:
        return float(_mark(stack).read_text("utf-8"))
    except (OSError, ValueError):
        return 0.0


@contextmanager
def _cached() -> Iterator[None]:
    """Have torch keep what it makes of the backward pass too, while it lasts.

    It refuses where a graph has autocast or an autograd function of somebody's own in it, because
    there may be more to them than it sees. Not here: the autograd function is traced, and autocast
    has its settings in the graph. The next process takes 5 s where the first took 14 (the shallow
    GPT on an H200); otherwise it traces and plans everything again.
    """
    from torch._functorch import config as functorch_config
    from torch._inductor import config as inductor_config

    autocast = "torch.amp.autocast_mode."
    # The values become part of the cache's keys: the operators of our own are not traced.
    ours = {f"{autocast}{name}": _sources() for name in ("_enter_autocast", "_exit_autocast")}
    known = {**inductor_config.unsafe_marked_cacheable_functions, **ours}
    with (
        inductor_config.patch(unsafe_marked_cacheable_functions=known),
        functorch_config.patch(autograd_cache_allow_custom_autograd_functions=True),
    ):
        yield


@lru_cache
def _sources() -> str:
    """Return a text that changes with the code of our own operators."""
    top = Path(__file__).parent
    files = sorted([*(top / "models").glob("*.py"), *(top / "kernels").glob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _key(stack: Stack) -> str:
    """Return a text that is the same for stacks whose loss is the same code on the same shapes."""
    config: RunConfig = stack.configs[0]
    parts = [
        asdict(config.model),
        asdict(stack.data.shape),
        [config.width, config.depth, config.batch_size, stack.micro_batch_size],
        [config.label_smoothing, config.precision, str(stack.arithmetic.device)],
        [len(stack.configs), torch.__version__, _sources()],
    ]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def _mark(stack: Stack) -> Path:
    """Return the file that says that torch's cache on disk has this program."""
    # They lie together, so that a mark never speaks of a program that is gone.
    return _programs() / "known" / _key(stack)


def _programs() -> Path:
    """Return the folder of torch's cache on disk; ours unless the user or torch has set one."""
    return Path(os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor")))
