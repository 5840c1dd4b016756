"""A user's own family: a function build(width, depth, **options) -> nn.Module with a loss.

The module's `loss(x, y)` takes a batch and returns a scalar, the mean loss in nats. Roles are
stated by a method `parameter_roles()`, a mapping from parameter name to role, or else inferred.
"""

import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from transfer.config import CustomConfig
from transfer.roles import ParameterTable, infer_roles, stated_table

Build = Callable[..., nn.Module]

# Building takes time, and every planned run asks which roles there are.
_known_roles: dict[str, tuple[str, ...]] = {}


def find_build(config: CustomConfig) -> Build:
    """Import the family's function; modules in the working directory are found too.

    Raises:
        ValueError: no such module or function, or its import fails.
    """
    module, _, function = config.build.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"family {config.build!r}: cannot import {module}: {reason}") from error
    build = getattr(found, function, None)
    if not callable(build):
        raise ValueError(f"family {config.build!r}: {module} has no function {function}")
    made: Build = build
    return made


def source_fingerprint(config: CustomConfig) -> str:
    """Return the SHA-256 of the source file of the family's module."""
    source = inspect.getsourcefile(find_build(config))
    if source is None:
        raise ValueError(f"family {config.build!r} has no source file")
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


def build_custom(config: CustomConfig, width: int, depth: int) -> nn.Module:
    """Call the family's function.

    Raises:
        ValueError: it changed since the run was planned, fails, or returns no module with a loss.
    """
    build = find_build(config)
    if config.fingerprint and config.fingerprint != source_fingerprint(config):
        raise ValueError(
            f"family {config.build!r} has changed since this was planned: go on with the file as "
            "it was, or give --study another folder"
        )
    where = f"family {config.build!r} at width {width}, depth {depth}"
    try:
        model = build(width, depth, **config.options)
    except Exception as error:  # whatever the user's function raises
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module) or not callable(getattr(model, "loss", None)):
        raise ValueError(
            f"{where} must return an nn.Module with a method loss(x, y), got {type(model).__name__}"
        )
    return model


def custom_table(config: CustomConfig, model: nn.Module, width: int, depth: int) -> ParameterTable:
    """Return the roles of a model: as it states them, else inferred from twice the width."""
    stated = getattr(model, "parameter_roles", None)
    if stated is not None:
        own = getattr(model, "parameter_overrides", dict)
        return stated_table(model, stated()).override(own()).override(config.overrides)
    return infer_roles(model, _shapes_only(config, 2 * width, depth), config.overrides)


def custom_roles(config: CustomConfig, width: int, depth: int) -> tuple[str, ...]:
    """Return the roles that trainable parameters of the family's models have."""
    key = json.dumps([asdict(config), width, depth], sort_keys=True)
    if key not in _known_roles:
        model = _shapes_only(config, width, depth)
        table = custom_table(config, model, width, depth)
        _known_roles[key] = tuple(dict.fromkeys(row.role for row in table if row.trainable))
    return _known_roles[key]


def _shapes_only(config: CustomConfig, width: int, depth: int) -> nn.Module:
    """Build without memory for the weights, where the family's code allows that."""
    try:
        with torch.device("meta"):
            return build_custom(config, width, depth)
    except ValueError:  # code that looks at values in its constructor
        with torch.random.fork_rng(devices=[]):
            return build_custom(config, width, depth)
