"""Data sets: arrays in, batches by seed and step out."""

from transfer.data.arrays import ArrayData, load

__all__ = ["ArrayData", "load"]
