"""Image folders: train/<class>/<image> and val/<class>/<image>, as ImageNet-1k comes.

Shapes: B rows; images are 3 x resolution x resolution.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from transfer.config import DataShape, ImagenetConfig
from transfer.data.base import (
    Batch,
    Dataset,
    Position,
    on_device,
    part_notes,
    positions,
)
from transfer.data.cache import place
from transfer.data.decoder import Decoder, Images
from transfer.data.folders import Split, scan
from transfer.data.whole import require_whole
from transfer.seeds import derived_seed

# The channels' mean and deviation over ImageNet's training images, as torchvision's models and
# DeiT (Touvron et al. 2021, arXiv:2012.12877) have them.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageFolders(Dataset):
    """Images that other processes decode when they are asked for, and one step ahead.

    Args:
        train: Training images.
        val: Validation images.
        val_order: Which of them, (num_val,), in the order of validation.
        shape: What a model sees.
        fingerprint: SHA-256 of names and sizes.
        decoder: What decodes them; shared by all copies.
        last: The training rows that were last asked for, or nothing yet; shared likewise.
        notes: What the user should know about the data, a line each.
    """

    train: Split
    val: Split
    val_order: NDArray[np.int64]
    shape: DataShape
    fingerprint: str
    decoder: Decoder
    last: list["_Rows"]
    notes: tuple[str, ...] = ()
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    @property
    def num_train(self) -> int:
        return len(self.train.names)

    @property
    def num_val(self) -> int:
        return len(self.val_order)

    def train_rows(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        here = _Rows(seed, batch_size, step, rows.start, rows.stop)
        there = here._replace(step=step + 1)
        in_order = self.decoder.is_prepared(here) or here.follows(self.last)
        self.last[:] = [here]
        # Other micro-batches of this step and the next are wanted too; nothing else is.
        self.decoder.keep(lambda name: isinstance(name, _Rows) and name.near(here))
        self.decoder.prepare(here, lambda: self._varied(here))
        if in_order:
            self.decoder.prepare(there, lambda: self._varied(there))
        return self._batch(self.decoder.get(here), self.train.classes[self._where(here).indices])

    def val_rows(self, rows: slice) -> Batch:
        chosen = self.val_order[rows]
        here = ("val", rows.start, rows.stop)
        self.decoder.prepare(here, lambda: Images(self.val.paths(chosen), None))
        return self._batch(self.decoder.get(here), self.val.classes[chosen])

    def to(self, device: torch.device, dtype: torch.dtype) -> "ImageFolders":
        return replace(self, device=device, dtype=dtype)

    def close(self) -> None:
        self.decoder.close()

    def _where(self, rows: "_Rows") -> Position:
        part = slice(rows.start, rows.stop)
        return positions(rows.seed, rows.step, rows.batch_size, self.num_train, part)

    def _varied(self, rows: "_Rows") -> Images:
        """Return files, and the seed of what is drawn for each: by seed, epoch and image."""
        where = self._where(rows)
        pairs = zip(where.epochs.tolist(), where.indices.tolist(), strict=True)
        seeds = [derived_seed("crop", rows.seed, epoch, index) for epoch, index in pairs]
        return Images(self.train.paths(where.indices), seeds)

    def _batch(self, pixels: NDArray[np.uint8], classes: NDArray[np.int64]) -> Batch:
        """Bring images to the device as bytes, and only there turn them into real numbers."""
        exact = torch.promote_types(self.dtype, torch.float32)
        images = on_device(torch.from_numpy(pixels), self.device).permute(0, 3, 1, 2).contiguous()
        mean, std = (
            torch.tensor(values, dtype=exact, device=self.device).view(3, 1, 1)
            for values in (_MEAN, _STD)
        )
        x = ((images.to(exact) / 255 - mean) / std).to(self.dtype)
        return Batch(x, on_device(torch.from_numpy(classes), self.device))


class _Rows(NamedTuple):
    """Rows of the batch of a step."""

    seed: int
    batch_size: int
    step: int
    start: int
    stop: int

    def near(self, other: "_Rows") -> bool:
        """Whether these belong to the step of others or to the one after."""
        return self[:2] == other[:2] and self.step - other.step in (0, 1)

    def follows(self, last: list["_Rows"]) -> bool:
        """Whether the rows asked for last were of this step or the one before."""
        return any(self.near(rows) for rows in last)


def load(config: ImagenetConfig) -> ImageFolders:
    """Find all images; see `ImagenetConfig`.

    Raises:
        ValueError: Pillow is missing; folders or images are missing, not those configured, or
            empty, truncated or of another kind.
    """
    if find_spec("PIL") is None:
        raise ValueError("data 'imagenet' needs Pillow, which is missing: pip install pillow")
    folder = place(config.path, "imagenet")
    train, val, fingerprint = scan(folder, config.num_classes)
    require_whole(folder, fingerprint, lambda: [*train.all_paths(), *val.all_paths()])
    shuffler = np.random.RandomState(derived_seed("imagenet validation"))
    order = shuffler.permutation(len(val.names)).astype(np.int64)
    return ImageFolders(
        train=train,
        val=val,
        val_order=order[: config.val_examples or None],
        shape=config.shape,
        fingerprint=fingerprint,
        decoder=Decoder(config.workers, config.resolution, config.smallest_crop, config.flip),
        last=[],
        notes=part_notes(val_examples=(config.val_examples, len(val.names))),
    )
