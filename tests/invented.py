"""Random data of any shape, for tests that train."""

import torch

from transfer.config import DataConfig
from transfer.data.arrays import ArrayData
from transfer.data.base import Dataset
from transfer.data.windows import HeldTexts, WindowData


def invented(config: DataConfig) -> Dataset:
    """Return random data of a configuration's shape; the classes can be told by the first pixel."""
    shape, random = config.shape, torch.Generator().manual_seed(0)
    if shape.kind == "tokens":
        text = torch.arange(600).remainder(7).numpy().astype("uint16")
        train, val = HeldTexts((text,)), HeldTexts((text[:80],))
        return WindowData(train=train, val=val, shape=shape, fingerprint="")
    x = torch.randn(40, *shape.inputs, generator=random)
    y = (x.flatten(1)[:, 0] > 0).long()
    return ArrayData(x, y, x[:8], y[:8], shape=shape, fingerprint="")
