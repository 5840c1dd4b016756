"""Configurations: run ids, validation, round trips, and no heavy imports."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest

from transfer.config import (
    NORM_NAMES,
    AdamWConfig,
    DigitsConfig,
    MlpConfig,
    RoleConfig,
    RunConfig,
    ScheduleConfig,
    ScionConfig,
    canonical_json,
    optimizer_from_dict,
    run_config_from_dict,
    unknown,
)

ROLES = {
    "input": RoleConfig(norm="spectral-max"),
    "hidden": RoleConfig(norm="spectral", radius=4.0),
    "output": RoleConfig(norm="scaled-sign", radius=16.0, init="fan-in"),
}
RUN = RunConfig(
    model=MlpConfig(),
    width=32,
    depth=3,
    data=DigitsConfig(),
    batch_size=64,
    steps=10,
    label_smoothing=0.1,
    schedule=ScheduleConfig(),
    optimizer=ScionConfig(roles=ROLES),
    precision="float32",
    seed=1,
    numerics=1,
)
# Changes only if records written so far are to be found no more.
RUN_ID = "283851983adb737f"
ADAMW_RUN_ID = "80b08f49a45db3a8"


def python(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def changed(path: str, value: Any, run: RunConfig = RUN) -> dict[str, Any]:
    """Return RUN as plain data with the value at a dotted path replaced."""
    data = asdict(run)
    *parents, last = path.split(".")
    part = data
    for key in parents:
        part = part[key]
    part[last] = value
    return data


# --- run ids ---


def test_run_id_is_what_it_was() -> None:
    assert RUN.run_id == RUN_ID
    assert replace(RUN, optimizer=AdamWConfig()).run_id == ADAMW_RUN_ID


def test_run_id_does_not_depend_on_the_order_of_keys() -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(part) for key, part in reversed(value.items())}
        return value

    other = run_config_from_dict(turned(asdict(RUN)))
    assert list(other.optimizer.roles) == list(reversed(ROLES))  # type: ignore[union-attr]
    assert other.run_id == RUN_ID


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_run_id_does_not_depend_on_the_process(hash_seed: str) -> None:
    code = (
        "import json, sys\n"
        "from transfer.config import run_config_from_dict\n"
        f"print(run_config_from_dict(json.loads({json.dumps(asdict(RUN))!r})).run_id)"
    )
    assert python(code, PYTHONHASHSEED=hash_seed) == RUN_ID


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("width", 64),
        ("depth", 4),
        ("batch_size", 65),
        ("steps", 11),
        ("label_smoothing", 0.2),
        ("precision", "float64"),
        ("seed", 2),
        ("numerics", 2),
        ("data.fingerprint", "ab"),
        ("schedule.name", "constant"),
        ("schedule.warmup_fraction", 0.1),
        ("schedule.decay_fraction", 0.3),
        ("optimizer.stepsize", math.nextafter(0.125, 1)),
        ("optimizer.alpha", 0.2),
        ("optimizer.constrained", True),
        ("optimizer.polar", "svd"),
        ("optimizer.roles.input.norm", "spectral"),
        ("optimizer.roles.hidden.radius", 4.5),
        ("optimizer.roles.output.init", "boundary"),
    ],
)
def test_every_field_changes_the_run_id(path: str, value: Any) -> None:
    assert run_config_from_dict(changed(path, value)).run_id != RUN_ID


def test_biases_change_the_run_id() -> None:
    run = replace(RUN, optimizer=AdamWConfig())
    assert replace(run, model=MlpConfig(bias=True)).run_id not in (RUN_ID, ADAMW_RUN_ID)


@pytest.mark.parametrize(
    ("path", "value"),
    [("label_smoothing", 0), ("schedule.decay_fraction", 1), ("optimizer.roles.hidden.radius", 4)],
)
def test_equal_configurations_have_equal_run_ids(path: str, value: int) -> None:
    """Somebody writes 4 instead of 4.0: the same run, which must not be run twice."""
    whole, real = (run_config_from_dict(changed(path, kind(value))) for kind in (int, float))
    assert whole == real
    assert whole.run_id == real.run_id


def test_canonical_json() -> None:
    assert canonical_json({"b": 0.1, "a": [1, None]}) == '{"a":[1,null],"b":0.1}'
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError):
            canonical_json({"a": bad})


# --- round trip ---


@pytest.mark.parametrize("optimizer", [RUN.optimizer, AdamWConfig(weight_decay=0.1)])
def test_round_trip(optimizer: ScionConfig | AdamWConfig) -> None:
    run = replace(RUN, optimizer=optimizer)
    again = run_config_from_dict(json.loads(canonical_json(asdict(run))))
    assert again == run and again.run_id == run.run_id
    assert type(again.optimizer) is type(optimizer)
    assert optimizer_from_dict(asdict(optimizer)) == optimizer


def test_building_does_not_change_its_input() -> None:
    data = asdict(RUN)
    text = canonical_json(data)
    run_config_from_dict(data)
    assert canonical_json(data) == text


# --- errors ---

INVALID = [
    ("width", 0, "width must be at least 1, got 0"),
    ("width", 8.0, "run.width must be of type int, got 8.0"),
    ("width", True, "run.width must be of type int, got True"),
    ("width", "8", "run.width must be of type int, got '8'"),
    ("depth", 0, "depth must be at least 1, got 0"),
    ("depth", 1, "depth must be at least 2 .*, got 1"),
    ("batch_size", 0, "batch_size must be at least 1, got 0"),
    ("steps", -3, "steps must be at least 1, got -3"),
    ("label_smoothing", -0.1, r"label_smoothing must be in \[0, 1\), got -0.1"),
    ("label_smoothing", 1.0, r"label_smoothing must be in \[0, 1\), got 1.0"),
    ("label_smoothing", math.nan, "label_smoothing must be in .* got nan"),
    ("label_smoothing", "0", "run.label_smoothing must be a number, got '0'"),
    ("label_smoothing", False, "run.label_smoothing must be a number, got False"),
    (
        "precision",
        "float16",
        "run.precision must be one of float32, float64, tf32, bf16, got 'float16'",
    ),
    ("seed", -1, "seed must be at least 0, got -1"),
    ("seed", None, "run.seed must be of type int, got None"),
    ("model", None, "model must be a table of fields, got None"),
    ("model.family", "rnn", "model family must be one of .*gpt, mlp, vit, got 'rnn'"),
    ("model.bias", 1, "model.bias must be of type bool, got 1"),
    ("data.name", "mnist", "data name must be one of .*digits, .*got 'mnist'"),
    ("data.fingerprint", 3, "data.fingerprint must be of type str, got 3"),
    ("schedule", "linear", "schedule must be a table of fields, got 'linear'"),
    ("schedule.name", "step", "schedule.name must be one of .*got 'step'"),
    ("schedule.warmup_fraction", 1.0, r"warmup_fraction must be in \[0, 1\), got 1.0"),
    ("schedule.decay_fraction", 0.0, r"decay_fraction must be in \(0, 1\], got 0.0"),
    (
        "schedule",
        {"name": "constant-linear", "warmup_fraction": 0.6, "decay_fraction": 0.5},
        r"warmup_fraction \+ decay_fraction must be at most 1, got 1.1",
    ),
    ("optimizer", None, "optimizer must be a table of fields, got None"),
    ("optimizer.name", "scoin", "optimizer name must be .*'scoin'; did you mean 'scion'"),
    ("optimizer.name", ["scion"], r"optimizer name must be one of .*\['scion'\]"),
    ("optimizer.stepsize", 0.0, "stepsize must be a finite number above 0, got 0.0"),
    ("optimizer.stepsize", math.inf, "stepsize must be a finite number above 0, got inf"),
    ("optimizer.stepsize", "0.1", "optimizer.stepsize must be a number, got '0.1'"),
    ("optimizer.alpha", 0.0, r"alpha must be in \(0, 1\], got 0.0"),
    ("optimizer.alpha", 1.01, r"alpha must be in \(0, 1\], got 1.01"),
    ("optimizer.polar", "mun", "polar must be one of svd, muon, .*got 'mun'"),
    ("optimizer.polar", "quintic:0", "polar 'quintic' takes 1 to 100 steps, got 'quintic:0'"),
    ("optimizer.roles", [], r"optimizer.roles must be a table of fields, got \[\]"),
    ("optimizer.roles.input", 3, "optimizer.roles.input must be a table of fields, got 3"),
    ("optimizer.roles.input", {}, "optimizer.roles.input: .*norm"),
    ("optimizer.roles.input.norm", "spectrl", "optimizer.roles.input.norm must be .*'spectrl'"),
    ("optimizer.roles.input.radius", 0.0, "optimizer.roles.input: radius must be a finite number"),
    ("optimizer.roles.input.radius", -1.0, "radius must be a finite number above 0, got -1.0"),
    ("optimizer.roles.input.init", "zeros", "optimizer.roles.input.init must be one of boundary"),
]


@pytest.mark.parametrize(("path", "value", "message"), INVALID)
def test_invalid_values(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run_config_from_dict(changed(path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stepsize", -1.0, "stepsize must be a finite number above 0"),
        ("beta1", 1.0, r"beta1 must be in \[0, 1\), got 1.0"),
        ("beta2", -0.1, r"beta2 must be in \[0, 1\), got -0.1"),
        ("eps", 0.0, "eps must be a finite number above 0, got 0.0"),
        ("weight_decay", -0.1, "weight_decay must be a finite number, at least 0, got -0.1"),
        ("weight_decay", math.nan, "weight_decay must be a finite number, at least 0, got nan"),
        ("weight_decay", math.inf, "weight_decay must be a finite number, at least 0, got inf"),
    ],
)
def test_invalid_adamw(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamWConfig(**{field: value})  # type: ignore[arg-type]


def test_constrained_needs_a_stepsize_of_at_most_one() -> None:
    ScionConfig(stepsize=1.0, constrained=True)
    ScionConfig(stepsize=1.5)
    with pytest.raises(ValueError, match="stepsize must be at most 1 when constrained, got 1.5"):
        ScionConfig(stepsize=1.5, constrained=True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("widht", "run field must be one of .*'widht'; did you mean 'width'"),
        ("model.biass", "model field must be .*'biass'; did you mean 'bias'"),
        ("data.fingerprnt", "data field must be .*; did you mean 'fingerprint'"),
        ("schedule.warmup_frac", "schedule field must be .*did you mean 'warmup_fraction'"),
        ("optimizer.step_size", "optimizer field must be .*; did you mean 'stepsize'"),
        ("optimizer.roles.input.radus", "optimizer.roles.input field .*did you mean 'radius'"),
    ],
)
def test_unknown_fields_name_the_nearest(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_config_from_dict(changed(path, 1))


@pytest.mark.parametrize(
    ("depth", "bias", "rules", "message"),
    [
        (3, False, {}, "role 'hidden' has no rule; role 'input' has no rule; role 'output' has"),
        (2, False, ROLES, "rule for role 'hidden', which no parameter has"),
        (3, True, ROLES, "role 'bias' has no rule"),
        (3, False, ROLES | {"hiden": ROLES["hidden"]}, "rule for role 'hiden', which no parameter"),
    ],
)
def test_rules_fit_the_roles(depth: int, bias: bool, rules: Any, message: str) -> None:
    optimizer = ScionConfig(roles=rules)
    with pytest.raises(ValueError, match=message):
        replace(RUN, depth=depth, model=MlpConfig(bias=bias), optimizer=optimizer)
    # AdamW has no rules.
    replace(RUN, depth=depth, model=MlpConfig(bias=bias), optimizer=AdamWConfig())


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_roles_of_the_configuration_are_those_of_the_model(depth: int, bias: bool) -> None:
    from transfer.models.mlp import Mlp

    stated = Mlp(4, 3, 2, depth, bias=bias).parameter_roles().values()
    assert set(MlpConfig(bias=bias).roles(depth)) == set(stated)


@pytest.mark.parametrize("field", ["width", "model", "optimizer", "seed"])
def test_missing_fields(field: str) -> None:
    data = asdict(RUN)
    del data[field]
    with pytest.raises(ValueError, match=f"run: .*'{field}'"):
        run_config_from_dict(data)


def test_unknown_without_a_near_name() -> None:
    assert unknown("norm", "xyzzy", ["b", "a"]) == "norm must be one of a, b, got 'xyzzy'"


def test_frozen() -> None:
    with pytest.raises(AttributeError):
        RUN.width = 3  # type: ignore[misc]


# --- imports ---


def test_norm_names_without_torch() -> None:
    assert len(NORM_NAMES) == 15
    code = (
        "import sys, transfer, transfer.config, transfer.coefficients\n"
        "transfer.RunConfig, transfer.ScionConfig\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'jaxtyping'} & sys.modules.keys()))"
    )
    assert python(code) == "[]"


def test_training_does_not_import_what_it_does_not_need() -> None:
    heavy = "{'pandas', 'optuna', 'submitit', 'pydantic', 'tyro', 'matplotlib'}"
    code = (
        f"import sys, transfer.train, transfer.recipe\nprint(sorted({heavy} & sys.modules.keys()))"
    )
    assert python(code) == "[]"


def test_training_on_a_cpu_does_not_import_the_compiler() -> None:
    """It takes as long to import as torch itself, and every worker would."""
    code = """
import sys
from transfer.config import ComputeConfig, DigitsConfig, MlpConfig, RunConfig, ScheduleConfig
from transfer.config import RoleConfig, ScionConfig
from transfer.stacksize import most_runs
from transfer.train import train_stack
rule = RoleConfig(norm="spectral", radius=1.0)
config = RunConfig(
    model=MlpConfig(), width=8, depth=3, data=DigitsConfig(), batch_size=8, steps=2,
    label_smoothing=0.0, schedule=ScheduleConfig(), seed=1, precision="float32",
    optimizer=ScionConfig(stepsize=0.1, roles={r: rule for r in ("input", "hidden", "output")}),
)
most_runs(config, ComputeConfig())
print(train_stack([config])[0].status, 'torch._dynamo' in sys.modules)
"""
    assert python(code) == "done False"


def test_public_names() -> None:
    import transfer

    for name in transfer.__all__:
        assert getattr(transfer, name) is not None
    with pytest.raises(AttributeError, match="module 'transfer' has no attribute 'Scoin'"):
        _ = transfer.Scoin
