"""Data sets: arrays in, batches by seed and step out."""

from transfer.data.arrays import ArrayData, load, require_fits

__all__ = ["ArrayData", "load", "require_fits"]
