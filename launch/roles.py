"""`lmo-transfer roles`: what every parameter of an experiment's model is."""

import torch

from sweeps.experiment import Experiment
from transfer.config import ScionConfig
from transfer.families import Family


def print_roles(experiment: Experiment) -> None:
    """Print the table of the model at the smallest size, with the first arm's rules.

    Raises:
        ValueError: a role cannot be inferred, or the arm lacks a rule for it.
    """
    point = experiment.at(experiment.sweep.sizes[0])
    width, depth = point.width, point.depth
    family = Family(experiment.model, experiment.data.shape)
    with torch.device("meta"):  # its shapes are all that is needed
        model = family.build(width, depth)
    table = family.table(model, width, depth)
    for name, arm in experiment.arms.items():
        if isinstance(arm.optimizer, ScionConfig):
            print(f"width {width}, depth {depth}, radii of arm {name}\n")
            print(table.with_rules(arm.optimizer.roles))
            return
    print(f"width {width}, depth {depth}; no arm has roles, so these are the default rules\n")
    print(table)
