"""CIFAR-10 beyond its batches: what layers are set from."""

from dataclasses import replace

import pytest
import torch

from transfer import data
from transfer.config import (
    AdamWConfig,
    Cifar10Config,
    CnnConfig,
    DataConfig,
    RunConfig,
    ScheduleConfig,
)
from transfer.data.cifar10 import AugmentedData
from transfer.models.cnn import Cnn
from transfer.train import TrainingRun

RUN = RunConfig(
    model=CnnConfig(),
    width=4,
    depth=1,
    data=Cifar10Config(flip=True, translate=2),
    batch_size=8,
    steps=3,
    label_smoothing=0.2,
    schedule=ScheduleConfig(),
    optimizer=AdamWConfig(stepsize=0.01, init="keep"),
    precision="float64",
    seed=1,
)


def images(config: DataConfig) -> AugmentedData:
    """Return random images that are bright at the upper left."""
    assert isinstance(config, Cifar10Config)
    random = torch.Generator().manual_seed(0)
    ramp = torch.linspace(2, 0, 32)
    x = torch.randn(40, 3, 32, 32, generator=random, dtype=torch.float64) + ramp + ramp[:, None]
    y = torch.randint(0, 10, (40,), generator=random)
    settings = {"flip": config.flip, "translate": config.translate}
    return AugmentedData(x, y, x[:9], y[:9], config.shape, "", **settings)


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have training runs find those images."""
    monkeypatch.setattr(data, "load", images)


def test_whitening_is_set_from_images_as_they_lie() -> None:
    """The authors set it from the first 5,000 images, neither mirrored nor shifted."""
    lying = images(RUN.data)
    expected = Cnn(lying.shape, 4, 1).double()
    expected.fit_to_data(lying.train_x)
    for seed in (1, 2):
        model = TrainingRun(replace(RUN, seed=seed)).model
        assert torch.equal(model.get_buffer("whitening"), expected.whitening)
    assert not torch.equal(lying.train_rows(1, 0, 40, slice(0, 40)).x, lying.train_x)
    assert torch.equal(lying.rows_to_fit(1, 7), lying.train_x[:7])
