"""Reading experiments: what is right loads, what is wrong is said in one line."""

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeps.experiment import Experiment
from sweeps.reading import (
    experiment_from_dict,
    experiment_to_dict,
    list_presets,
    load_experiment,
)
from tests.helpers import DELETE, tiny_dict, tiny_experiment, toml_of

ROLES = "arms.scion.optimizer.roles"


# --- presets ---------------------------------------------------------------------------------


def test_there_are_presets() -> None:
    assert "digits-mlp" in list_presets()


@pytest.mark.parametrize("name", list_presets())
def test_preset_loads(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name and experiment.summary
    assert not experiment.data.fingerprint, "filled in by the study, not by the preset"


def missing_fields(value: Any, data: Any, path: str = "") -> list[str]:
    """Return the paths of dataclass fields that the plain data do not name."""
    if isinstance(value, dict):
        return [m for k, v in value.items() for m in missing_fields(v, data[k], f"{path}.{k}")]
    if not is_dataclass(value):
        return []
    found = []
    for field in fields(value):
        here = f"{path}.{field.name}".lstrip(".")
        if getattr(value, field.name) is None:
            continue  # TOML cannot say so
        if field.name not in data:
            found.append(here)
        else:
            found += missing_fields(getattr(value, field.name), data[field.name], here)
    return found


@pytest.mark.parametrize("name", list_presets())
def test_what_is_shown_names_every_field(name: str) -> None:
    """`show` prints this: a reader must see every knob, defaults included."""
    experiment = load_experiment(name)
    assert missing_fields(experiment, experiment_to_dict(experiment)) == []


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'digits-mlp'") as caught:
        load_experiment("digit-mlp")
    assert "\n" not in str(caught.value)


# --- round trips -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*list_presets(), "tiny"])
def test_dict_round_trip(name: str) -> None:
    experiment = tiny_experiment() if name == "tiny" else load_experiment(name)
    again = experiment_from_dict(experiment_to_dict(experiment), "again")
    assert again == experiment
    assert experiment_to_dict(again) == experiment_to_dict(experiment)


def test_round_trip_keeps_the_order_of_arms() -> None:
    """`verdict --exit-code` and `export` speak of the first arm: it must stay the first."""
    experiment = tiny_experiment()
    assert list(experiment.arms) == ["scion", "adamw"]
    again = experiment_from_dict(experiment_to_dict(experiment), "again")
    assert list(again.arms) == ["scion", "adamw"]


def test_toml_file_and_study_folder(tmp_path: Path) -> None:
    import json

    path = tmp_path / "mine.toml"
    path.write_text(toml_of(tiny_dict()), "utf-8")
    assert load_experiment(str(path)) == tiny_experiment()
    (tmp_path / "experiment.json").write_text(json.dumps(experiment_to_dict(tiny_experiment())))
    assert load_experiment(str(tmp_path)) == tiny_experiment()


def test_defaults_come_from_the_dataclasses() -> None:
    small = {
        "name": "x",
        "arms": {"a": {"optimizer": {"name": "adamw"}}},
        "verdict": {"epsilon": 1},
    }
    experiment = experiment_from_dict(small, "x")
    for field in fields(Experiment):
        if field.default_factory is not MISSING:
            assert getattr(experiment, field.name) == field.default_factory()


# --- bad input -------------------------------------------------------------------------------

# (path, value, what the message must contain)
BAD: list[tuple[str, Any, list[str]]] = [
    # unknown fields, with the nearest name, at several depths
    ("swep", {}, ["swep", "did you mean 'sweep'"]),
    ("train.step", 3, ["train.step", "did you mean 'steps'"]),
    ("train.schedule.nam", "linear", ["train.schedule.nam", "did you mean 'name'"]),
    ("arms.scion.serch", {}, ["arms.scion.serch", "did you mean 'search'"]),
    ("arms.scion.optimizer.alhpa", 1, ["arms.scion.optimizer.alhpa", "did you mean 'alpha'"]),
    (f"{ROLES}.hidden.nrom", "sign", [f"{ROLES}.hidden.nrom", "did you mean 'norm'"]),
    ("arms.adamw.optimizer.alpha", 0.1, ["arms.adamw.optimizer.alpha", "beta1"]),
    # wrong types
    ("train.steps", "3", ["train.steps", "integer", "'3'"]),
    ("train.steps", 3.0, ["train.steps", "integer", "3.0"]),
    ("train.steps", True, ["train.steps", "integer", "True"]),
    ("train", 3, ["train", "3"]),
    ("name", 3, ["name", "string", "3"]),
    ("sweep.widths", 32, ["sweep.widths", "32"]),
    ("sweep.widths", [4, "8"], ["sweep.widths.1", "integer", "'8'"]),
    ("arms.scion.optimizer.constrained", "yes", ["arms.scion.optimizer.constrained", "'yes'"]),
    ("arms.scion.search.hidden", [1], ["arms.scion.search.hidden"]),
    ("train.precision", "bfloat16", ["train.precision", "float32", "'bfloat16'"]),
    ("train.schedule.name", "step", ["train.schedule.name", "constant", "'step'"]),
    ("data.name", "mnist", ["data.name", "digits", "'mnist'"]),
    ("tune.sampler", "gp", ["tune.sampler", "tpe", "'gp'"]),
    # values
    ("sweep.widths", [], ["sweep", "widths", "at least one", "()"]),
    ("sweep.widths", [8, 4], ["sweep", "widths", "increasing", "(8, 4)"]),
    ("sweep.widths", [4, 4], ["sweep", "widths", "increasing", "(4, 4)"]),
    ("sweep.widths", [0, 4], ["sweep", "widths", "positive", "(0, 4)"]),
    ("sweep.widths", [-4, 4], ["sweep", "widths", "positive", "(-4, 4)"]),
    ("sweep.seeds", [], ["sweep", "seeds", "()"]),
    ("sweep.seeds", [1, 1], ["sweep", "seeds", "different", "(1, 1)"]),
    ("sweep.seeds", [-1], ["sweep", "seeds", "at least 0", "(-1,)"]),
    ("sweep.seeds", [1, 101], ["tune.seeds", "101"]),
    ("sweep.star_neighbours", -1, ["star_neighbours", "at least 0", "-1"]),
    ("arms.scion.optimizer.stepsize", 0.0, ["arms.scion.optimizer", "stepsize", "above 0", "0.0"]),
    ("arms.adamw.optimizer.stepsize", -1.0, ["arms.adamw.optimizer", "stepsize", "-1.0"]),
    ("arms.adamw.optimizer.stepsize", float("inf"), ["stepsize", "finite", "inf"]),
    ("arms.adamw.optimizer.stepsize", float("nan"), ["stepsize", "finite", "nan"]),
    ("arms.adamw.optimizer.weight_decay", float("inf"), ["weight_decay", "inf"]),
    ("arms.scion.optimizer.alpha", 0.0, ["arms.scion.optimizer", "alpha", "(0, 1]", "0.0"]),
    ("arms.scion.optimizer.alpha", 1.5, ["arms.scion.optimizer", "alpha", "(0, 1]", "1.5"]),
    (f"{ROLES}.hidden.radius", 0.0, [f"{ROLES}.hidden", "radius", "above 0", "0.0"]),
    (f"{ROLES}.hidden.radius", -2.0, [f"{ROLES}.hidden", "radius", "-2.0"]),
    (f"{ROLES}.hidden.norm", "spctral", [f"{ROLES}.hidden.norm", "spectral", "'spctral'"]),
    (f"{ROLES}.hidden.init", "xavier", [f"{ROLES}.hidden.init", "boundary", "'xavier'"]),
    ("arms.scion.optimizer.polar", "newton", ["arms.scion.optimizer", "polar", "newton", "svd"]),
    ("arms.scion.optimizer.polar", "muon:0", ["arms.scion.optimizer", "muon:0"]),
    ("arms.scion.optimizer.name", "scoin", ["arms.scion.optimizer", "scoin", "'scion'"]),
    ("arms.scion.optimizer.name", DELETE, ["arms.scion.optimizer", "name"]),
    ("tune.trials", 5, ["tune", "trials", "multiple of batch = 2", "5"]),
    ("tune.trials", 0, ["tune", "trials", "at least 1", "0"]),
    ("tune.batch", 0, ["tune", "batch", "at least 1", "0"]),
    ("verdict.epsilon", 0.0, ["verdict", "epsilon", "above 0", "0.0"]),
    ("verdict.level", 0.5, ["verdict", "level", "0.5"]),
    ("verdict.epsilon", DELETE, ["verdict.epsilon is missing"]),
    ("arms", DELETE, ["arms is missing"]),
    ("arms", {"a.b": tiny_dict()["arms"]["adamw"]}, ["arms", "letters, digits", "'a.b'"]),
    ("arms", {}, ["arms", "at least one"]),
    ("arms.scion.octaves_below", -1, ["arms.scion", "octaves_below", "at least 0", "-1"]),
    ("arms.scion.star.hiden", [2.0], ["arms.scion", "star", "'hiden'", "did you mean 'hidden'"]),
    ("arms.scion.star.hidden", [1.0], ["arms.scion", "star.hidden", "1.0"]),
    ("arms.scion.star.hidden", [0.0], ["arms.scion", "star.hidden", "above 0", "0.0"]),
    ("arms.scion.star.hidden", [2.0, 2.0], ["arms.scion", "star.hidden", "2.0"]),
    ("arms.adamw.star", {"hidden": [2.0]}, ["arms.adamw", "star", "'hidden'"]),
    ("arms.scion.search.ouput", [-1, 1], ["arms.scion", "search", "did you mean 'output'"]),
    ("arms.adamw.search.hidden", [-1, 1], ["arms.adamw", "search", "'hidden'", "stepsize"]),
    ("arms.scion.search.hidden", [1, -1], ["arms.scion", "search.hidden", "LOW < HIGH"]),
    ("arms.scion.search.hidden", [0.5, 2], ["arms.scion", "search.hidden", "whole"]),
    ("arms.scion.search.stepsize", DELETE, ["arms.scion", "search", "stepsize"]),
    ("arms.scion.optimizer.constrained", True, []),  # the range below ends at 2^-1: allowed
    # the same rules as a run's: better now than after the study was made
    ("train.steps", 0, ["train", "steps", "at least 1", "0"]),
    ("train.depth", 1, ["train", "depth", "at least 2", "1"]),
    ("train.batch_size", 0, ["train", "batch_size", "at least 1", "0"]),
    ("train.label_smoothing", 1.0, ["train", "label_smoothing", "[0, 1)", "1.0"]),
    ("train.schedule.warmup_fraction", 1.0, ["train.schedule", "warmup_fraction", "[0, 1)"]),
    ("arms.scion.search.stepsize", [-2000, 0], ["arms.scion", "search.stepsize", "-2000"]),
]


def ids(case: tuple[str, Any, list[str]]) -> str:
    return f"{case[0]}={'deleted' if case[1] is DELETE else case[1]}"


@pytest.mark.parametrize("case", [c for c in BAD if c[2]], ids=ids)
def test_bad_input_is_one_line(case: tuple[str, Any, list[str]], tmp_path: Path) -> None:
    path, value, wanted = case
    source = tmp_path / "bad.toml"
    source.write_text(toml_of(tiny_dict({path: value})), "utf-8")
    with pytest.raises(ValueError) as caught:
        load_experiment(str(source))
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(source))
    for part in wanted:
        assert part in message.removeprefix(str(source)), message
    assert "pydantic" not in message and "Unexpected keyword" not in message


def test_constrained_search_ends_at_one() -> None:
    changes = {"arms.scion.optimizer.constrained": True, "arms.scion.search.stepsize": [-5, 0]}
    assert tiny_experiment(changes).arms["scion"].search["stepsize"] == (-5, 0)
    with pytest.raises(ValueError, match=r"arms\.scion.*search\.stepsize.*2\^0.*2\^1"):
        tiny_experiment({**changes, "arms.scion.search.stepsize": [-5, 1]})
    with pytest.raises(ValueError, match=r"arms\.scion\.optimizer.*stepsize.*at most 1.*2\.0"):
        tiny_experiment({**changes, "arms.scion.optimizer.stepsize": 2.0})


@pytest.mark.parametrize("name", ["../x", "..", ".hidden", "a/b", "", "a b", "-a", "a\n", "a\\b"])
@pytest.mark.parametrize("where", ["name", "arms"])
def test_names_that_would_leave_the_folder(name: str, where: str) -> None:
    data = tiny_dict()
    if where == "name":
        data["name"] = name
    else:
        data["arms"][name] = data["arms"]["adamw"]
    with pytest.raises(ValueError) as caught:
        experiment_from_dict(data, "x")
    assert repr(name) in str(caught.value) and "letters" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_arm_may_be_called_optimizer() -> None:
    data = tiny_dict()
    data["arms"]["optimizer"] = {**data["arms"]["adamw"], "octaves_below": "x"}
    with pytest.raises(ValueError, match=r"arms\.optimizer\.octaves_below"):
        experiment_from_dict(data, "x")


def test_several_problems_in_one_line() -> None:
    with pytest.raises(ValueError) as caught:
        tiny_experiment({"train.steps": "x", "sweep.widths": [2, 1]})
    assert "train.steps" in str(caught.value) and "widths" in str(caught.value)


@pytest.mark.parametrize(
    "text", ['name = "x', "a = 1\na = 2", "[", "\x00", "= 3"], ids=["quote", "twice", "[", "0", "="]
)
def test_toml_syntax_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match="bad.toml") as caught:
        load_experiment(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file: .*nothing\.toml"):
        load_experiment(str(tmp_path / "nothing.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="bytes.toml cannot be read"):
        load_experiment(str(tmp_path / "bytes.toml"))
    with pytest.raises(ValueError, match=r"folder without experiment\.json"):
        load_experiment(str(tmp_path))
    for text in ("{", "", "[]", "3", "null"):
        (tmp_path / "experiment.json").write_text(text)
        with pytest.raises(ValueError, match=r"experiment\.json") as caught:
            load_experiment(str(tmp_path))
        assert "\n" not in str(caught.value) and ": :" not in str(caught.value)
