"""Which runs can be trained as one program: those whose tensors have the same shapes throughout."""

from dataclasses import asdict, replace

from transfer.config.optimizers import ScionConfig
from transfer.config.run import RunConfig, canonical_json


def stack_key(config: RunConfig) -> str:
    """Return a text that two runs share exactly if they may be in one stack.

    They may differ in the seed and in the numbers of the optimizer: for Scion stepsize, alpha and
    radii, for the others, of which every run has its own, in everything.
    """
    settings = asdict(replace(config, seed=0))
    settings["optimizer"] = _fixed(config)
    return canonical_json(settings)


def _fixed(config: RunConfig) -> dict[str, object]:
    """Return the settings of the optimizer that all runs of a stack share."""
    optimizer = config.optimizer
    if not isinstance(optimizer, ScionConfig):
        return {"name": optimizer.name}
    norms = {role: rule.norm for role, rule in optimizer.roles.items()}
    rest = asdict(optimizer)
    for name in ("stepsize", "alpha", "roles"):
        del rest[name]
    return {**rest, "norms": norms}
