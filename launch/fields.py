"""Fields of an experiment or a run, replaced from the command line."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from launch.commands import PROG


def override(kind: Any, default: Any, fields: list[str], command: str = "show") -> Any:
    """Parse --section.field VALUE; what tyro refuses, it explains in a box and exits with 2.

    Args:
        kind: Type of what is returned.
        default: Where the fields that are not given come from.
        fields: Words of the command line. A switch needs no value to be turned on.
        command: The box points to its help, which says how to list the fields.
    """
    import tyro

    return tyro.cli(
        kind,
        args=list(_switched_on(default, fields)),
        default=default,
        prog=f"{PROG} {command}",
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )


def _switched_on(default: Any, fields: list[str]) -> Iterator[str]:
    for word, following in pairwise([*fields, "--"]):
        yield word
        if word.startswith("--") and following.startswith("--") and _is_switch(default, word[2:]):
            yield "True"


def _is_switch(default: Any, path: str) -> bool:
    value = default
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        else:
            value = getattr(value, name.replace("-", "_"), None)
    return isinstance(value, bool)
