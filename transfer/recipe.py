"""Recipes: tuned settings, with the evidence for them, in a file that builds an optimizer."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.config import (
    RoleConfig,
    RunConfig,
    ScionConfig,
    canonical_json,
    require,
    run_config_from_dict,
    unknown,
)
from transfer.files import replace_file
from transfer.schedules import factor

if TYPE_CHECKING:
    import torch
    from torch import nn

    from transfer.roles import Roles

RECIPE_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings tuned on a small model, to be used on a large one.

    `run` is the run they were tuned for, with every axis that the verdict holds fixed: batch
    size, steps, schedule, data, depth, precision, alpha, radii. Only its seed and what was swept,
    by default the width, are to be replaced without leaving the verdict.
    """

    name: str
    run: RunConfig
    verdict: dict[str, Any]
    """Verdicts by claim (stepsize, radii), as analysis writes them; may be empty."""
    provenance: dict[str, Any]
    """Where the settings come from: run ids, widths, seeds, versions, commit."""
    version: int = RECIPE_VERSION

    def __post_init__(self) -> None:
        if not isinstance(self.run.optimizer, ScionConfig):
            raise ValueError(
                f"a recipe hands over radii, which optimizer {self.run.optimizer.name!r} does not "
                "have: export a scion arm"
            )

    @property
    def optimizer(self) -> ScionConfig:
        """Norms, radii, stepsize and alpha."""
        assert isinstance(self.run.optimizer, ScionConfig)
        return self.run.optimizer

    # --- use ---

    def run_config(self, *, width: int, seed: int) -> RunConfig:
        """Return the run at another width, everything else as tuned."""
        return replace(self.run, width=width, seed=seed)

    def build_optimizer(
        self,
        model: "nn.Module",
        roles: "Roles | None" = None,
        rules: Mapping[str, RoleConfig] | None = None,
    ) -> "torch.optim.Optimizer":
        """Build the tuned optimizer for any torch model.

        The stepsize is the peak of the schedule that `build_scheduler` follows.

        Args:
            model: Any module; every trainable parameter needs a role.
            roles: Table from `infer_roles`, or role of each parameter by name; by default what
                `model.parameter_roles()` says.
            rules: Rules of roles that the small model did not have; the verdict says nothing of
                them.

        Raises:
            ValueError: a parameter without a role, or a role without a rule or a parameter; each
                is named.
        """
        from transfer.families import model_roles
        from transfer.roles import build_optimizer

        stated = model_roles(model) if roles is None else roles
        return build_optimizer(model, stated, self._with_rules(rules))

    def build_scheduler(
        self, optimizer: "torch.optim.Optimizer", steps: int
    ) -> "torch.optim.lr_scheduler.LambdaLR":
        """Build the recipe's schedule over `steps` steps; call its `step` after the optimizer's."""
        from torch.optim.lr_scheduler import LambdaLR

        last = steps - 1  # torch asks for the factor after the last step too
        return LambdaLR(optimizer, lambda k: factor(self.run.schedule, min(k, last), steps))

    def _with_rules(self, rules: Mapping[str, RoleConfig] | None) -> ScionConfig:
        return replace(self.optimizer, roles={**self.optimizer.roles, **(rules or {})})

    def init_parameters(
        self,
        model: "nn.Module",
        roles: "Roles | None" = None,
        generator: "torch.Generator | None" = None,
        rules: Mapping[str, RoleConfig] | None = None,
    ) -> None:
        """Initialise a model in place as the recipe's runs were; raises as above."""
        from transfer.families import model_roles
        from transfer.roles import init_parameters

        stated = model_roles(model) if roles is None else roles
        init_parameters(model, stated, self._with_rules(rules), generator)

    # --- file ---

    def save(self, path: Path) -> Path:
        """Write the recipe as JSON, whole or not at all."""
        text = self.to_json()
        return replace_file(path, lambda temporary: temporary.write_text(text, "utf-8"))

    def to_json(self) -> str:
        """Return the text of its file."""
        data = json.loads(canonical_json(asdict(self)))
        return json.dumps(data, indent=2, sort_keys=True) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read and validate a recipe.

        Raises:
            ValueError: no such file, no recipe, damaged, or of a newer version; one line.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"no recipe at {path}") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a recipe: {error}") from None
        try:
            return cls._from_dict(data)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"recipe {path}: {error}") from None

    @classmethod
    def _from_dict(cls, data: Any) -> "Recipe":
        if not isinstance(data, dict) or "version" not in data:
            raise ValueError("no recipe: the field version is missing")
        version = data["version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"version must be a positive integer, got {version!r}")
        if version > RECIPE_VERSION:
            raise ValueError(
                f"it has version {version}, newer than the {RECIPE_VERSION} this lmo-transfer "
                "reads: upgrade lmo-transfer"
            )
        wanted = set(cls.__dataclass_fields__)
        for key in data:
            if key not in wanted:
                raise ValueError(unknown("field", key, wanted))
        missing = wanted - data.keys()
        if missing:
            raise ValueError(f"missing {', '.join(sorted(missing))}")
        for name, kind in (("name", str), ("verdict", dict), ("provenance", dict)):
            wanted_type = "a text" if kind is str else "a table"
            require(isinstance(data[name], kind), name, wanted_type, data[name])
        for claim, verdict in data["verdict"].items():
            require(isinstance(verdict, dict), f"verdict.{claim}", "a table", verdict)
        return cls(**{**data, "run": run_config_from_dict(data["run"])})
