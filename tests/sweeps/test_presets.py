"""Every preset builds at full size without memory, and trains at a small size on small data."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sweeps.experiment import Experiment
from sweeps.plan import run_config
from sweeps.reading import list_presets, load_experiment
from tests.invented import invented
from transfer import data
from transfer.config import (
    DataConfig,
    GptConfig,
    ImagenetConfig,
    MupAdamWConfig,
    RunConfig,
    ScionConfig,
    TokensConfig,
    VitConfig,
)
from transfer.families import Family
from transfer.roles import build_optimizer
from transfer.train import RunRecord, train

PUBLISHED = {
    "nanogpt-64m": 64e6,
    "nanogpt-124m": 124e6,
    "nanogpt-300m": 300e6,
    "nanogpt-1b": 1.07e9,
    "nanogpt-3b": 3e9,
}


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_builds_at_full_size(name: str) -> None:
    experiment = load_experiment(name)
    family = Family(experiment.model, experiment.data.shape)
    for size in (experiment.sweep.sizes[0], experiment.sweep.sizes[-1]):
        point = experiment.at(size)
        with torch.device("meta"):
            model = family.build(point.width, point.depth)
        table = family.table(model, point.width, point.depth)
        assert table.roles.keys() == dict(model.named_parameters()).keys()
        for arm, config in experiment.arms.items():
            run = run_config(experiment, arm, config.optimizer, size=size, seed=1)
            optimizer = build_optimizer(model, table, run.optimizer, point.width)
            held = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
            assert held == sum(p.numel() for p in model.parameters()), arm


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    experiment = load_experiment(name)
    point = experiment.at(experiment.sweep.sizes[0])
    family = Family(experiment.model, experiment.data.shape)
    with torch.device("meta"):
        model = family.build(point.width, point.depth)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(PUBLISHED[name], rel=0.02)
    assert experiment.at(point.width).steps * experiment.train.batch_size * 1024 == 5100 * 2**19


def small(config: DataConfig) -> DataConfig:
    """Return data of the same kind with small examples."""
    if isinstance(config, TokensConfig):
        return replace(config, sequence_length=16, vocab_size=64, val_examples=4)
    if isinstance(config, ImagenetConfig):
        return replace(config, resolution=32, num_classes=10)
    return replace(config, sequence_length=16) if hasattr(config, "sequence_length") else config


def smallest(experiment: Experiment, arm: str) -> RunConfig:
    """Return a run of an arm, shrunk in everything that costs time and in nothing else."""
    model: Any = experiment.model
    if isinstance(model, (GptConfig, VitConfig)):
        model = replace(model, head_dim=8)
    if isinstance(model, VitConfig):
        model = replace(model, patch=8)
    size = experiment.sweep.sizes[0]
    run = run_config(experiment, arm, experiment.arms[arm].optimizer, size=size, seed=1)
    depth = min(run.depth, 3 if model.family == "mlp" else 2)
    optimizer = run.optimizer
    if isinstance(optimizer, MupAdamWConfig):
        optimizer = replace(optimizer, base_width=8)
    return replace(
        run,
        model=model,
        data=small(experiment.data),
        width=16,
        depth=depth,
        batch_size=8,
        steps=3,
        optimizer=optimizer,
    )


TRAINED: dict[str, RunRecord] = {}


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", invented)
    experiment = load_experiment(name)
    for arm in experiment.arms:
        run = smallest(experiment, arm)
        # Presets that differ in size only are one run when shrunk.
        record = TRAINED[run.run_id] = TRAINED.get(run.run_id) or train(run)
        assert record.stopped_step == 3 and record.val_loss is not None, (arm, record)
        assert record.val_loss != record.initial_loss, f"{arm}: nothing was trained"


@pytest.mark.parametrize("name", [n for n in list_presets() if n.endswith("-cpu")])
def test_small_relatives_compute_on_the_cpu(name: str) -> None:
    """A relative has the arms, norms and radii of its preset, on a device that everybody has."""
    little = load_experiment(name)
    assert little.compute.device == "cpu"
    whole = {"nanogpt-cpu": "nanogpt"}.get(name, name.removesuffix("-cpu"))
    full = load_experiment(whole)
    assert full.compute.device == "cuda" and full.arms.keys() == little.arms.keys()
    assert little.sweep.axis == full.sweep.axis
    for arm, config in full.arms.items():
        mine, its = config.optimizer, little.arms[arm].optimizer
        assert type(mine) is type(its)
        if isinstance(mine, ScionConfig) and isinstance(its, ScionConfig):
            assert mine.roles == its.roles and mine.constrained == its.constrained


def test_the_packages_own_names() -> None:
    import sweeps

    assert all(callable(getattr(sweeps, name)) for name in sweeps.__all__)
