"""Crops, flips and resizing of images; every kind of file has three channels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer import images

SIDE = 8


def test_crop_boxes() -> None:
    random = np.random.RandomState(0)
    boxes = np.array([images.crop_box(random, 200, 160, 0.08) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 200 and boxes[:, 3].max() <= 160
    share, aspect = width * height / (200 * 160), width / height
    assert 0.075 < share.min() < 0.1 and 0.9 < share.max() <= 1
    assert 0.73 < aspect.min() < 0.78 and 1.28 < aspect.max() < 1.37
    # As many are wide as tall, were none refused: aspects are drawn on the logarithmic scale.
    assert abs(np.log(aspect[share < 0.4]).mean()) < 0.02


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((100, 10), (43, 0, 56, 10)),
        ((10, 100), (0, 43, 10, 56)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_without_a_fitting_draw_the_crop_is_central(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert images.crop_box(np.random.RandomState(0), *size, smallest_crop=1.0) == box


def test_flip_mirrors_half_of_the_images_and_changes_no_crop() -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, (9, 9, 3)).astype(np.uint8))
    mirrored = 0
    for seed in range(200):
        plain = images.varied(image, seed, SIDE, 0.3, flip=False)
        flipped = images.varied(image, seed, SIDE, 0.3, flip=True)
        mirrored += np.array_equal(flipped, plain[:, ::-1])
        assert np.array_equal(flipped, plain) or np.array_equal(flipped, plain[:, ::-1])
    assert 70 < mirrored < 130


@pytest.mark.parametrize("size", [(256, 512), (512, 256), (256, 256)])
def test_central_crop(size: tuple[int, int]) -> None:
    """An image whose shorter side needs no resizing is only cut."""
    width, height = size
    ramp = np.add.outer(np.arange(height) // 4, np.arange(width) // 4).astype(np.uint8)
    image = Image.fromarray(ramp)
    left, upper = (width - 224) // 2, (height - 224) // 2
    cut = ramp[upper : upper + 224, left : left + 224]
    assert np.array_equal(images.central(image, 224), np.stack([cut] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_image_has_three_channels(mode: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{'jpg' if mode == 'CMYK' else 'png'}"
    noise = np.random.RandomState(0).randint(0, 255, (11, 14, 3)).astype(np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    if mode == "P":
        Image.open(path).save(path, transparency=bytes([0, 128]))
    for seeds in (None, [1]):
        assert images.decode([str(path)], seeds, SIDE, 0.5, True).shape == (1, SIDE, SIDE, 3)
