"""Checks of single values, with one clear error each: field, value, what is allowed."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

# Unknown fields and silent conversions are errors wherever pydantic validates the configurations.
STRICT = {"extra": "forbid", "strict": True}


def unknown(what: str, got: object, allowed: Iterable[str]) -> str:
    """Compose the one-line message for a name that does not exist."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{what} must be one of {', '.join(names)}, got {got!r}{hint}"


def require(condition: bool, name: str, wanted: str, got: object) -> None:
    """Raise ValueError saying which field must be what, and what it is."""
    if not condition:
        raise ValueError(f"{name} must be {wanted}, got {got!r}")


def require_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    require(math.isfinite(value) and value > 0, name, "a finite number above 0", value)


def as_floats(config: Any) -> None:
    """Turn whole numbers given for float fields into floats: equal settings, equal run ids."""
    for item in fields(config):
        value = getattr(config, item.name)
        if item.type in (float, float | None) and type(value) is int:
            object.__setattr__(config, item.name, float(value))
