"""Which trials were told before each trial that was asked without waiting for a batch.

What a sampler proposes follows from the study's seed, the trial's number, and what it was told
before. In batches that is everything of the earlier ones. Where results are told as they arrive it
depends on their order, so it is written down before the trial is asked: `ARM.asked.jsonl`, a
line `{"told":[0,2],"trial":9}` each. With this file and the run table anybody can go through the
tuning again, and meets the same trials.
"""

import json
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from transfer.config import canonical_json
from transfer.files import replace_file


class AskedFile:
    """Reads one arm's file, and appends to it.

    Args:
        path: The file; there is none while trials are asked in batches.
        batch: Trials of a batch.

    Attributes:
        damage: What is wrong with the file, in words; what follows it is not used.
    """

    def __init__(self, path: Path, batch: int) -> None:
        self.path = path
        self._batch = batch
        self._told: dict[int, frozenset[int]] = {}
        self.damage = ""
        self._torn = False
        """Whether its last line was cut off: that trial was not asked yet."""
        self._read()

    def told(self, number: int) -> frozenset[int] | None:
        """Return what the file says was told before a trial; None if it says nothing."""
        return self._told.get(number)

    def before(self, number: int) -> set[int]:
        """Return the trials that are told before this one is asked.

        They are those of its line, without a line all trials of earlier batches; and whatever was
        told before an earlier trial.
        """
        lines = [n for n in self._told if n <= number]
        told = set(self._told[max(lines)]) if lines else set[int]()
        plain = next((n for n in range(number, -1, -1) if n not in self._told), 0)
        return told | set(range(plain // self._batch * self._batch))

    def _read(self) -> None:
        try:
            *lines, rest = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        self._torn = bool(rest)
        for count, line in enumerate(lines, start=1):
            try:
                number, told = _parse(line)
                self._require_next(number, told)
            except ValueError as error:
                self.damage = f"line {count}: {error}"
                return
            self._told[number] = told

    def _require_next(self, number: int, told: frozenset[int]) -> None:
        last = max(self._told, default=-1)
        if number <= last:
            raise ValueError(f"trial {number} after trial {last}")
        if not self._told.get(last, frozenset()) <= told:
            raise ValueError(f"trial {number} knows less than trial {last}")

    # --- by the driver alone ---

    def repair(self) -> str:
        """Make the file one that can be appended to; return a line about it if that lost trials.

        Raises:
            OSError: the folder cannot be written.
        """
        if not self.damage and not self._torn:
            return ""
        note = ""
        if self.damage:
            aside = name_aside(self.path)
            shutil.copyfile(self.path, aside)  # renamed, a kill here would leave no file at all
            note = (
                f"tuning file {self.path.name} is damaged ({self.damage}): set aside as "
                f"{aside.name}; what was asked after that is asked again"
            )
        self._rewrite()
        return note

    def _rewrite(self) -> None:
        text = "".join(_line(number, told) for number, told in self._told.items())
        replace_file(self.path, lambda temporary: temporary.write_text(text, "utf-8"))

    def append(self, numbers: Sequence[int], told: Collection[int]) -> None:
        """Write, to the disk, what is told before these trials, which are asked together.

        Raises:
            OSError: it could not be written; nothing may be asked then.
        """
        known = frozenset(told)
        if any(number >= min(numbers) for number in self._told):  # left by damage: never asked
            self._told = {n: t for n, t in self._told.items() if n < min(numbers)}
            self._rewrite()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(_line(number, known) for number in numbers))
            file.flush()
            os.fsync(file.fileno())
        self._told |= dict.fromkeys(numbers, known)


def name_aside(path: Path) -> Path:
    """Return a new name for a file that cannot be used."""
    return path.with_name(f"{path.name}.set-aside-{len(list(path.parent.iterdir()))}")


def _line(number: int, told: frozenset[int]) -> str:
    return canonical_json({"trial": number, "told": sorted(told)}) + "\n"


def _parse(line: bytes) -> tuple[int, frozenset[int]]:
    """Parse a line; ValueError if it is damaged."""
    try:
        data = json.loads(line)
        number, told = data["trial"], data["told"]
        if canonical_json({"trial": number, "told": told}).encode() != line:
            raise ValueError("not a line that was written here")
        known = frozenset(told)
        if type(number) is not int or not all(type(n) is int and 0 <= n < number for n in known):
            raise ValueError("numbers of trials that cannot be")
    except (TypeError, KeyError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return number, known
