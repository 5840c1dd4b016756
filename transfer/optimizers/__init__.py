"""Optimizers whose steps are linear minimisation oracles over norm balls."""

from transfer.optimizers.almond import Almond
from transfer.optimizers.base import LmoOptimizer
from transfer.optimizers.combined import Combined
from transfer.optimizers.light import ScionLight
from transfer.optimizers.scion import Scion

__all__ = ["Almond", "Combined", "LmoOptimizer", "Scion", "ScionLight"]
