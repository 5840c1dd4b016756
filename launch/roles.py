"""`lmo-transfer roles`: what every parameter of an experiment's model is."""

from sweeps.experiment import Experiment
from transfer import data
from transfer.config import ScionConfig
from transfer.families import build_model, build_table


def print_roles(experiment: Experiment) -> None:
    """Print the table of the model at the smallest width, with the first arm's rules.

    Raises:
        ValueError: a role cannot be inferred, or the arm lacks a rule for it.
    """
    width, depth = experiment.sweep.widths[0], experiment.train.depth
    loaded = data.load(experiment.data)
    sizes = {"d_input": loaded.train_x.shape[1], "d_output": loaded.num_classes}
    model = build_model(experiment.model, width=width, depth=depth, **sizes)
    table = build_table(experiment.model, model, width=width, depth=depth)
    for name, arm in experiment.arms.items():
        if isinstance(arm.optimizer, ScionConfig):
            print(f"width {width}, depth {depth}, radii of arm {name}\n")
            print(table.with_rules(arm.optimizer.roles))
            return
    print(f"width {width}, depth {depth}; no arm has roles, so these are the default rules\n")
    print(table)
