"""CIFAR-10 beyond its batches: what layers are set from, and views that validation averages."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from transfer import data
from transfer.config import (
    AdamWConfig,
    Cifar10Config,
    CnnConfig,
    CustomConfig,
    DataConfig,
    RunConfig,
    ScheduleConfig,
    Views,
)
from transfer.data.cifar10 import AugmentedData
from transfer.models.cnn import Cnn
from transfer.stack import Stack
from transfer.train import train

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
    numerics=1,
)
# Changes only if records written so far are to be found no more.
RUN_ID = "764d9fa31dd0cbd8"
ALL_VIEWS = get_args(Views)


def images(config: DataConfig) -> AugmentedData:
    """Return random images that are bright at the upper left, so that every view is another."""
    assert isinstance(config, Cifar10Config)
    random = torch.Generator().manual_seed(0)
    ramp = torch.linspace(2, 0, 32)
    x = torch.randn(40, 3, 32, 32, generator=random, dtype=torch.float64) + ramp + ramp[:, None]
    y = torch.randint(0, 10, (40,), generator=random)
    settings = {"flip": config.flip, "translate": config.translate, "val_views": config.val_views}
    return AugmentedData(x, y, x[:9], y[:9], config.shape, "", **settings)


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have training runs find those images."""
    monkeypatch.setattr(data, "load", images)


def with_views(views: Views) -> RunConfig:
    """Return RUN with other views."""
    return replace(RUN, data=Cifar10Config(flip=True, translate=2, val_views=views))


def test_whitening_is_set_from_images_as_they_lie() -> None:
    """The authors set it from the first 5,000 images, neither mirrored nor shifted."""
    lying = images(RUN.data)
    expected = Cnn(lying.shape, 4, 1).double()
    expected.fit_to_data(lying.train_x)
    for seed in (1, 2):
        model = Stack([replace(RUN, seed=seed)]).model
        assert torch.equal(model.get_buffer("whitening"), expected.whitening)
    assert not torch.equal(lying.train_rows(1, 0, 40, slice(0, 40)).x, lying.train_x)
    assert torch.equal(lying.rows_to_fit(1, 7), lying.train_x[:7])


def moved(x: Tensor, by: int) -> Tensor:
    """Look `by` pixels further down and right; beyond the edge is what lies before it."""
    pixels = [31 - abs(31 - abs(k + by)) for k in range(32)]
    return x[..., pixels, :][..., pixels]


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ("plain", {(0, False): 1.0}),
        ("mirror", {(0, False): 0.5, (0, True): 0.5}),
        (
            "mirror-translate",
            {
                (0, False): 0.25,
                (0, True): 0.25,
                (-1, False): 0.125,
                (-1, True): 0.125,
                (1, False): 0.125,
                (1, True): 0.125,
            },
        ),
    ],
)
def test_views(views: Views, expected: dict[tuple[int, bool], float]) -> None:
    held = images(with_views(views).data)
    found = held.views(held.val_x)
    assert len(found) == len(expected)
    for (by, mirrored), weight in expected.items():
        view = moved(held.val_x, by)
        view = view.flip(-1) if mirrored else view
        weights = [share for share, x in found if torch.equal(x, view)]
        assert weights == [weight], (by, mirrored)


@pytest.mark.parametrize("views", ALL_VIEWS)
def test_validation_averages_the_logits_of_the_views(views: Views) -> None:
    run = Stack([with_views(views)])
    for _ in range(3):
        run.advance()
    ((loss, accuracy),) = run.validate()
    held = images(run.configs[0].data)
    with torch.no_grad():
        model = run.model.eval()
        logits = sum((share * model(x) for share, x in held.views(held.val_x)), torch.zeros(9, 10))
    expected = F.cross_entropy(logits, held.val_y, label_smoothing=0.2)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert accuracy == pytest.approx((logits.argmax(1) == held.val_y).double().mean().item())


def test_views_change_validation_and_not_training() -> None:
    records = [train(with_views(views)) for views in ALL_VIEWS]
    assert len({record.curve.tobytes() for record in records}) == 1
    assert len({record.val_loss for record in records}) == 3


def test_views_are_part_of_a_run_unless_plain() -> None:
    assert RUN.run_id == RUN_ID
    assert len({with_views(views).run_id for views in ALL_VIEWS} | {RUN_ID}) == 3


def test_a_family_with_its_own_loss_has_one_view() -> None:
    custom = CustomConfig(build="mynet:build")
    replace(RUN, model=custom)
    with pytest.raises(ValueError, match=r"^data\.val_views must be plain for .* got 'mirror'$"):
        replace(with_views("mirror"), model=custom)
