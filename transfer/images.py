"""Images from files, cut and resized; what the decoding processes import, hence no torch."""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FORMATS = ("JPEG", "PNG")
_TRIES = 10
_LEAST_ASPECT, _LARGEST_ASPECT = 3 / 4, 4 / 3
_VAL_MARGIN = 256 / 224
Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge; the last two are outside."""


def start_worker() -> None:
    """Prepare a decoding process: Ctrl-C is its parent's to handle, and without it, it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def decode(
    paths: Sequence[str],
    seeds: Sequence[int] | None,
    resolution: int,
    smallest_crop: float,
    flip: bool,
) -> NDArray[np.uint8]:
    """Read images as (images, resolution, resolution, 3).

    Args:
        paths: Files.
        seeds: One an image, for its random crop and flip; None: the central crop.
        resolution: Height and width of the results.
        smallest_crop: Least share of the area that a random crop covers.
        flip: Whether to mirror at random.

    Raises:
        ValueError: an image that cannot be read; the message names it.
    """
    done = np.empty((len(paths), resolution, resolution, 3), np.uint8)
    for row, path in enumerate(paths):
        try:
            with Image.open(path, formats=_FORMATS) as image:
                if seeds is None:
                    done[row] = central(image, resolution)
                else:
                    done[row] = varied(image, seeds[row], resolution, smallest_crop, flip)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"image {path} must be a whole JPEG or PNG file: {error}") from None
    return done


def central(image: Image.Image, resolution: int) -> NDArray[np.uint8]:
    """Resize the shorter side to resolution * 256 / 224 and cut out the middle."""
    width, height = image.size
    shorter = round(resolution * _VAL_MARGIN)
    factor = shorter / min(width, height)
    size = (max(shorter, int(width * factor)), max(shorter, int(height * factor)))
    resized = _rgb(image).resize(size, Image.Resampling.BILINEAR)
    left, upper = (round((side - resolution) / 2) for side in size)
    return np.asarray(resized.crop((left, upper, left + resolution, upper + resolution)))


def varied(
    image: Image.Image, seed: int, resolution: int, smallest_crop: float, flip: bool
) -> NDArray[np.uint8]:
    """Cut out a random part, resize it and maybe mirror it; all follows from the seed."""
    # RandomState's stream is frozen by numpy's policy; default_rng's is not.
    random = np.random.RandomState(seed)
    mirrored = random.random_sample() < 0.5  # drawn either way: the crop does not depend on flip
    part = _rgb(image.crop(crop_box(random, *image.size, smallest_crop)))
    pixels = np.asarray(part.resize((resolution, resolution), Image.Resampling.BILINEAR))
    return pixels[:, ::-1] if flip and mirrored else pixels


def crop_box(random: np.random.RandomState, width: int, height: int, smallest_crop: float) -> Box:
    """Draw a part of an image: a share of its area, an aspect from 3/4 to 4/3, a place.

    After ten draws that do not fit, it is the largest central part with such an aspect.

    References:
        Szegedy et al. 2015, arXiv:1409.4842, section 6.
    """
    bounds = math.log(_LEAST_ASPECT), math.log(_LARGEST_ASPECT)
    for _ in range(_TRIES):
        area = width * height * random.uniform(smallest_crop, 1.0)
        aspect = math.exp(random.uniform(*bounds))
        part = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < part[0] <= width and 0 < part[1] <= height:
            left = int(random.randint(0, width - part[0] + 1))
            upper = int(random.randint(0, height - part[1] + 1))
            return left, upper, left + part[0], upper + part[1]
    return _central_box(width, height)


def _central_box(width: int, height: int) -> Box:
    part = (
        max(1, min(width, round(height * _LARGEST_ASPECT))),
        max(1, min(height, round(width / _LEAST_ASPECT))),
    )
    left, upper = (width - part[0]) // 2, (height - part[1]) // 2
    return left, upper, left + part[0], upper + part[1]


def _rgb(image: Image.Image) -> Image.Image:
    """Return three channels; a palette with transparency goes by way of RGBA, else PIL warns."""
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
