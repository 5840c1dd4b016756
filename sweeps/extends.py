"""Experiments that say only in what they differ from another: `extends = "preset"`."""

import copy
from collections.abc import Callable
from typing import Any

Read = Callable[[str], dict[str, Any]]
_WHOLE = ("search", "star")
"""Tables that are replaced, not merged: ranges and factors belong together."""
_TAGS = ("name", "family")


def extended(data: dict[str, Any], read: Read, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return plain data with everything they extend filled in.

    `extends` names a preset or a file; `remove` lists dotted paths that the base has and this has
    not. Tables are merged key by key, `search` and `star` replaced, and so is a table whose `name`
    or `family` differs from that of the base.

    Args:
        data: What a file says.
        read: Returns what the file or preset of a name says.
        seen: Names on the way here.

    Raises:
        ValueError: a base that extends itself, or something to remove that it does not have.
    """
    own = dict(data)
    base_name, removed = own.pop("extends", None), own.pop("remove", [])
    if base_name is None:
        if removed:
            raise ValueError(f"remove needs extends, got {removed!r}")
        return own
    if not isinstance(base_name, str):
        raise ValueError(f"extends must be the name of a preset or file, got {base_name!r}")
    if base_name in seen:
        raise ValueError(f"extends must not lead back to itself, got {' -> '.join(seen)}")
    base = copy.deepcopy(extended(read(base_name), read, (*seen, base_name)))
    for path in removed:
        _remove(base, path)
    return _merged(base, own)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        before = base.get(key)
        tables = isinstance(value, dict) and isinstance(before, dict)
        if tables and key not in _WHOLE and not _another_kind(before, value):
            value = _merged(dict(before or {}), value)
        result[key] = value
    return result


def _another_kind(before: Any, value: dict[str, Any]) -> bool:
    return any(tag in value and value[tag] != before.get(tag) for tag in _TAGS)


def _remove(base: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    table: Any = base
    for part in parents:
        table = table.get(part, {}) if isinstance(table, dict) else {}
    if not isinstance(table, dict) or last not in table:
        raise ValueError(f"remove must list what the base has, got {path!r}")
    del table[last]
