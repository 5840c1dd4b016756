"""Where and in what parts a run is computed changes it by rounding at most."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.invented import invented
from transfer.arithmetic import Arithmetic
from transfer.config import (
    AdamWConfig,
    Cifar10Config,
    CnnConfig,
    ComputeConfig,
    DigitsConfig,
    MlpConfig,
    RoleConfig,
    RunConfig,
    ScheduleConfig,
    ScionConfig,
    run_config_from_dict,
)
from transfer.stack import Stack
from transfer.train import train

RUN = RunConfig(
    model=MlpConfig(),
    width=8,
    depth=3,
    data=DigitsConfig(),
    batch_size=32,
    steps=5,
    label_smoothing=0.0,
    schedule=ScheduleConfig(),
    optimizer=AdamWConfig(stepsize=0.01),
    precision="float64",
    seed=1,
)


@pytest.mark.parametrize("size", [1, 5, 16, 32, 1000])
def test_gradients_accumulate_to_the_whole_batch(size: int) -> None:
    """5 does not divide 32: the last part is smaller and counts less."""
    whole, parts = train(RUN), train(RUN, ComputeConfig(micro_batch_size=size))
    assert parts.val_loss == pytest.approx(whole.val_loss, rel=1e-9)
    assert parts.curve == pytest.approx(whole.curve, rel=1e-6)
    assert parts.config.run_id == whole.config.run_id


def test_precisions() -> None:
    losses = {p: train(replace(RUN, precision=p)).val_loss for p in ("float64", "float32", "bf16")}
    exact = losses["float64"]
    assert exact is not None
    assert losses["float32"] == pytest.approx(exact, rel=1e-5)
    assert losses["bf16"] == pytest.approx(exact, rel=0.02) and losses["bf16"] != losses["float32"]


def test_weights_stay_float32_under_autocast() -> None:
    run = Stack([replace(RUN, precision="bf16")])
    run.advance()
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    gradients = run._gradients(slice(0, 32)).values()
    assert {g.dtype for g in gradients if g is not None} == {torch.float32}


def test_products_are_restored() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with Arithmetic("float32", "cpu").products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"device must be one that torch finds here \(cpu.*'cuda'"):
        train(RUN, ComputeConfig(device="cuda"))


def test_tf32_needs_cuda() -> None:
    with pytest.raises(ValueError, match="precision must be float32 or bf16 on cpu, got 'tf32'"):
        train(replace(RUN, precision="tf32"))
    with pytest.raises(ValueError, match="micro_batch_size must be at least 0"):
        ComputeConfig(micro_batch_size=-1)


def test_batch_normalisation_wants_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {
        "convolution": RoleConfig(norm="conv-spectral"),
        "bias": RoleConfig(norm="bias-rms"),
        "output": RoleConfig(norm="scaled-sign"),
    }
    config = replace(
        RUN,
        model=CnnConfig(),
        data=Cifar10Config(),
        depth=1,
        optimizer=ScionConfig(roles=roles),
        precision="float32",
    )
    monkeypatch.setattr("transfer.data.load", invented)
    with pytest.raises(ValueError, match=r"micro_batch_size must be 0: stages.0.norms.0 norm"):
        train(config, ComputeConfig(micro_batch_size=8))
    assert train(config).status in ("done", "diverged")


def test_gradients_are_clipped_by_their_common_norm() -> None:
    free = Stack([RUN])
    limit = replace(RUN, optimizer=AdamWConfig(stepsize=0.01, clip_norm=1e-3))
    clipped = Stack([limit])
    free.advance()
    clipped.advance()
    norms = [
        torch.cat([p.grad.flatten() for p in r.model.parameters() if p.grad is not None]).norm()
        for r in (free, clipped)
    ]
    assert norms[0] > 1e-2 and norms[1].item() == pytest.approx(1e-3, rel=1e-4)
    assert limit.run_id != RUN.run_id
    with pytest.raises(ValueError, match="clip_norm must be a finite number, at least 0"):
        AdamWConfig(clip_norm=-1.0)


def test_where_data_lie_is_no_part_of_a_run(tmp_path: Path) -> None:
    here = replace(RUN, model=CnnConfig(), data=Cifar10Config(path="a"), optimizer=AdamWConfig())
    there = replace(here, data=Cifar10Config(path=str(tmp_path)))
    other = replace(here, data=Cifar10Config(path="a", flip=True))
    assert here.run_id == there.run_id != other.run_id


def test_baselines_can_keep_what_was_built() -> None:
    kept = Stack([replace(RUN, optimizer=AdamWConfig(init="keep"))])
    drawn = Stack([RUN])
    bound = 8**-0.5
    hidden = dict(kept.model.named_parameters())["layers.1.weight"]
    assert hidden.abs().max() <= bound, "torch's own: uniform within 1/sqrt(d_in)"
    assert dict(drawn.model.named_parameters())["layers.1.weight"].abs().max() > bound


def test_configurations_of_the_new_families_read_back() -> None:
    from dataclasses import asdict

    from sweeps.plan import run_config
    from sweeps.reading import load_experiment

    for name in ("nanogpt", "airbench", "deit-base", "shallow-gpt-sign", "mlp-cifar10"):
        experiment = load_experiment(name)
        for arm, config in experiment.arms.items():
            size = experiment.sweep.sizes[0]
            run = run_config(experiment, arm, config.optimizer, size=size, seed=1)
            assert run_config_from_dict(asdict(run)) == run
