"""Commands that train nothing but a few steps: verdict, figures, recipe, costs, lists."""

import argparse
from pathlib import Path

from launch.commands import DEFAULT_PRESET, DONE, PROG
from launch.fields import override
from launch.sources import existing_study, experiment_of, quoted, train_with


def verdict(options: argparse.Namespace) -> int:
    """Judge a finished sweep or a table."""
    import json

    from launch import pipeline, printing, tables
    from launch.console import make_console

    if tables.is_table(options.source):
        return tables.judge_table(options)
    tables.require_no_flags(options)
    done = pipeline.finished(existing_study(options))
    verdicts = pipeline.judge(done)
    if options.json:
        print(json.dumps(pipeline.verdicts_to_dict(done, verdicts), indent=2))
        pipeline.write_verdicts(done, verdicts)
    else:
        console = make_console()
        printing.print_verdicts(console, verdicts)  # before writing: a folder may be read-only
        printing.print_files(console, [pipeline.write_verdicts(done, verdicts)])
        printing.print_next(console, f"{PROG} plot {quoted(done.study.folder)}")
    first = next(iter(verdicts.values()))["stepsize"].status
    return tables.exit_code(first) if options.exit_code else DONE


def plot(options: argparse.Namespace) -> int:
    """Draw the figures of a finished sweep."""
    from launch import figures, pipeline, printing
    from launch.console import make_console

    done = pipeline.finished(existing_study(options))
    console, verdicts = make_console(), pipeline.judge(done)
    if options.paper:
        files = figures.draw_for_paper(done, verdicts)
    else:
        files = figures.draw(done, verdicts, ("png", "svg", "pdf"))
    printing.print_files(console, files)
    printing.print_next(console, f"{PROG} report {quoted(done.study.folder)}")
    return DONE


def report(options: argparse.Namespace) -> int:
    """Write the page about a finished sweep or a table."""
    from launch.report import report as write

    return write(options)


def export(options: argparse.Namespace) -> int:
    """Write the recipe of a finished sweep."""
    from launch import pipeline, printing
    from launch.console import make_console

    done = pipeline.finished(existing_study(options))
    path = Path(options.output) if options.output else done.results / "recipe.json"
    recipe = pipeline.export_recipe(done, pipeline.judge(done), options.arm, path)
    if recipe is None:
        raise ValueError("no arm of this study has radii: there is nothing to hand over")
    console = make_console()
    printing.print_files(console, [recipe])
    printing.print_next(console, train_with(recipe, done.study.experiment, 2))
    return DONE


def coordcheck(options: argparse.Namespace) -> int:
    """Check sizes inside the network."""
    from launch.coordcheck import check_experiment

    return check_experiment(options, experiment_of(options))


def norms(options: argparse.Namespace) -> int:
    """Measure weights over training."""
    from launch.norms import norms as measure

    return measure(options)


def describe(options: argparse.Namespace) -> int:
    """Print what models cost."""
    from launch.describe import print_costs

    print_costs(experiment_of(options), as_json=options.json)
    return DONE


def roles(options: argparse.Namespace) -> int:
    """Print what every parameter is."""
    from launch.roles import print_roles

    print_roles(experiment_of(options))
    return DONE


def studies(options: argparse.Namespace) -> int:
    """List studies."""
    from launch.listing import print_studies

    print_studies(Path(options.root))
    return DONE


def presets(options: argparse.Namespace) -> int:
    """List presets."""
    from sweeps.reading import list_presets, load_experiment

    for name in list_presets():
        print(f"{name:<29}{load_experiment(name).summary}")
    print(f"\nprint one in full: {PROG} show {list_presets()[0]}")
    return DONE


def show(options: argparse.Namespace) -> int:
    """Print an experiment, or explain its fields."""
    from sweeps.reading import experiment_to_dict, load_experiment

    source = options.source or DEFAULT_PRESET
    if options.fields:
        experiment = load_experiment(source)
        override(type(experiment), experiment, ["--help"])
    import tomli_w

    print(tomli_w.dumps(experiment_to_dict(experiment_of(options))), end="")
    return DONE


def tokenize(options: argparse.Namespace) -> int:
    """Write token shards."""
    from launch.tokenize import tokenize

    return tokenize(options)
