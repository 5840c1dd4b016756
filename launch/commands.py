"""The commands with their help: what each does, an example, and its own options."""

import argparse
import sys
import textwrap
from dataclasses import dataclass
from typing import NoReturn, get_args

from transfer.config.compute import DeviceName

WHERE = ("local", "slurm", "debug")
"""Processes here, jobs of a cluster, this process."""

PROG = "lmo-transfer"
DEFAULT_PRESET = "digits-mlp"
DONE, INTERNAL, BAD_INPUT, FAILED_RUNS, INTERRUPTED = 0, 1, 2, 5, 130
"""Exit codes; see docs/cli.md."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One subcommand."""

    help: str
    """One line for the overview."""
    text: str
    """What it does, for its own help."""
    example: str
    source: bool = True
    """Whether its first argument names an experiment: a preset, a TOML file or a study."""
    fields: bool = True
    """Whether --section.field VALUE may replace fields of the experiment."""


COMMANDS: dict[str, Command] = {
    "run": Command(
        help="the whole loop: tune, sweep, verdict, figures, recipe, check, report",
        text="Walk the whole loop. What the study's run table already has is not trained again.",
        example="lmo-transfer run digits-mlp --sweep.widths 64 128 256 --study studies/mine",
    ),
    "tune": Command(
        help="tune every arm at the smallest size",
        text="Tune every arm at the smallest size and print the best setting.",
        example="lmo-transfer tune digits-mlp --tune.trials 64",
    ),
    "sweep": Command(
        help="tune if needed, then sweep stepsizes and radii over sizes",
        text="Tune if that is not done, then train the grid of stepsizes over sizes and the star "
        "of radii; write the results table.",
        example="lmo-transfer sweep studies/digits-mlp",
    ),
    "verdict": Command(
        help="judge a finished sweep, or anybody's table of runs",
        text="Judge a finished sweep, or a table (.csv, .parquet, .jsonl) with a row a run.",
        example="lmo-transfer verdict sweep.csv --x lr --y loss --size width --epsilon 0.01",
        fields=False,
    ),
    "plot": Command(
        help="draw the figures of a finished sweep",
        text="Draw losses against stepsize, over sizes and over training, regrets, radii and the "
        "tuning, as PNG, SVG and PDF. Trains nothing.",
        example="lmo-transfer plot studies/digits-mlp",
        fields=False,
    ),
    "report": Command(
        help="write one HTML page about studies or a table",
        text="Write one page that needs no network: verdict, figures, tables, recipe.",
        example="lmo-transfer report studies/digits-mlp --with studies/digits-baselines",
        fields=False,
    ),
    "export": Command(
        help="write the recipe of a finished sweep",
        text="Write the tuned norms, radii and stepsize with their verdict as a recipe.",
        example="lmo-transfer export studies/digits-mlp --arm scion",
        fields=False,
    ),
    "train": Command(
        help="train one model with a recipe",
        text="Train with a recipe at any size. Other fields of the run can be replaced too, for "
        "example --steps 120 (--fields explains them); the verdict does not cover them.",
        example="lmo-transfer train --recipe studies/digits-mlp/results/recipe.json --width 1024",
        source=False,
    ),
    "resume": Command(
        help="go on with an interrupted study",
        text="Go on with the study in a folder, as `run` on that folder does.",
        example="lmo-transfer resume studies/digits-mlp --retry-failed",
    ),
    "status": Command(
        help="print what of a study is done, running, queued, failed",
        text="Print by stage and size what the run table has and what SLURM does, from the folder "
        "and the queue alone. Trains nothing; works beside the command that does.",
        example="lmo-transfer status studies/digits-mlp --watch",
        fields=False,
    ),
    "logs": Command(
        help="print what the job of a run wrote",
        text="Print the output of the SLURM job that had a run; without RUN, the last line of "
        "every job whose runs are missing or failed.",
        example="lmo-transfer logs studies/digits-mlp 3fa94c",
        fields=False,
    ),
    "cancel": Command(
        help="cancel the SLURM jobs of a study",
        text="Cancel what of a study is in SLURM's queue. Finished runs stay; `resume` submits "
        "what is missing.",
        example="lmo-transfer cancel studies/digits-mlp",
        fields=False,
    ),
    "coordcheck": Command(
        help="check that sizes inside the network do not depend on its width",
        text="Train every arm for a few steps at all widths and seeds of the sweep, at the "
        "settings given (nothing is tuned), and judge how activations and their changes grow with "
        "the width. Exit code 0; with --exit-code 0 if the first arm passes, 3 if it fails, 4 if "
        "undecided.",
        example="lmo-transfer coordcheck digits-mlp --arm scion --sweep.widths 64 128 256 512",
    ),
    "norms": Command(
        help="train the tuned setting again, measuring its weights",
        text="Train the tuned setting of every arm once at every size and draw the norms of its "
        "weights over the steps, each layer in its own norm. The report shows them then.",
        example="lmo-transfer norms studies/digits-mlp --arm scion",
        fields=False,
    ),
    "describe": Command(
        help="print size and cost of the models of a sweep",
        text="Print for every size of the sweep how many parameters the model has, how many "
        "operations a token or image and a whole run take, and how much memory the activations "
        "need. Trains nothing and allocates nothing.",
        example="lmo-transfer describe nanogpt --sweep.widths 256 512 1024 2048",
    ),
    "roles": Command(
        help="print what every parameter of the model is",
        text="Build the model at the smallest size and print every parameter with its role, norm "
        "and radius, as the first arm with roles has them. Trains nothing.",
        example="lmo-transfer roles digits-mlp --family mynet:build",
    ),
    "list": Command(
        help="list the studies in studies/",
        text="List the studies below a folder with their number of runs and their results.",
        example="lmo-transfer list --root studies",
        source=False,
        fields=False,
    ),
    "presets": Command(
        help="list the presets",
        text="List the experiments that come with the package.",
        example="lmo-transfer presets",
        source=False,
        fields=False,
    ),
    "show": Command(
        help="print an experiment in full",
        text="Print an experiment as TOML, to be changed and given to `run`. With --fields, "
        "explain every field instead.",
        example="lmo-transfer show digits-mlp > mine.toml",
    ),
    "tokenize": Command(
        help="write token shards from text",
        text="Encode text files, or the training split of a Hugging Face data set, into the "
        "shards that data `tokens` reads: the first tokens to validate on, the others to train "
        "on. Needs tiktoken, and datasets for --dataset.",
        example="lmo-transfer tokenize --output shards --text book.txt --val-tokens 10000",
        source=False,
        fields=False,
    ),
}

_NO_STUDY = ("show", "resume", "roles", "describe", "coordcheck")
"""Commands about an experiment that have no --study."""
_SOURCE_HELP = "EXPERIMENT is a preset, a TOML file or a study folder (default: digits-mlp)."
_FIELDS_HELP = "Any field can be replaced: --sweep.seeds 1 2 (`show --fields` explains them)."


class UsageError(ValueError):
    """The command line cannot be understood; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def overview() -> str:
    """Return the text of `lmo-transfer --help`; it fits a terminal of 24 lines."""
    rows = "\n".join(f"  {name:<12}{command.help}" for name, command in COMMANDS.items())
    return (
        f"usage: {PROG} COMMAND [EXPERIMENT] [options]\n"
        "Find out whether hyperparameters tuned on a small model may be used on a large one.\n"
        f"{rows}\n"
        "EXPERIMENT: a preset, a TOML file or a study folder. Each command explains itself:\n"
        f"{PROG} run --help. Example: {PROG} run {DEFAULT_PRESET}"
    )


def parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command's own options; fields are left over for tyro."""
    command = COMMANDS[name]
    notes = [command.text]
    notes += [_SOURCE_HELP] if command.source else []
    notes += [_FIELDS_HELP] if command.fields and command.source else []
    made = _Parser(
        prog=f"{PROG} {name}",
        usage=f"{PROG} {name}{' [EXPERIMENT]' if command.source else ''}"
        + (" [RUN]" if name == "logs" else "")
        + " [options]"
        + (" [--section.field VALUE ...]" if command.fields and command.source else ""),
        description="\n".join(textwrap.fill(note, 79) for note in notes),
        epilog=f"Example: {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_options(made, name)
    return made


def _add_options(made: argparse.ArgumentParser, name: str) -> None:
    if COMMANDS[name].source and name not in _NO_STUDY:
        made.add_argument("--study", metavar="DIR", help="study folder (studies/<name>)")
    if name in ("run", "tune", "sweep", "coordcheck", "show", "roles", "describe"):
        made.add_argument(
            "--family", metavar="MODULE:FUNCTION", help="your own model family (docs/own-family.md)"
        )
    if name in ("run", "tune", "sweep", "resume"):
        made.add_argument(
            "--on", choices=WHERE, help="where to train (local; a study: as it was last)"
        )
        made.add_argument(
            "--cluster", metavar="PROFILE", help="what SLURM is asked for (docs/slurm.md)"
        )
        made.add_argument(
            "--dry-run", action="store_true", help="print the jobs that SLURM would get"
        )
    if name in ("run", "tune", "sweep", "resume", "train"):
        made.add_argument("--workers", type=int, metavar="N", help="processes (one a core)")
    if name in ("run", "tune", "sweep", "resume", "train", "coordcheck"):
        made.add_argument(
            "--device", choices=get_args(DeviceName), help="where to compute (compute.device)"
        )
    if name in ("run", "tune", "sweep", "resume"):
        made.add_argument("--retry-failed", action="store_true", help="train failed runs again")
    if name == "status":
        made.add_argument("--watch", action="store_true", help="again and again, until all is done")
        made.add_argument("--json", action="store_true", help="print it as JSON")
    if name == "logs":
        made.add_argument("run", nargs="?", metavar="RUN", help="run id, or its beginning")
    if name == "verdict":
        made.add_argument(
            "--exit-code",
            action="store_true",
            help="0 the first group transfers, 3 not, 4 undecided",
        )
        made.add_argument("--json", action="store_true", help="print the verdict as JSON")
        _add_table_options(made)
        made.add_argument(
            "--figures", metavar="DIR", help="draw the table, as PNG and SVG in a folder"
        )
    if name == "plot":
        made.add_argument(
            "--paper", action="store_true", help="PDF in the widths and letters of a paper"
        )
    if name == "report":
        made.add_argument(
            "--with", dest="with_studies", metavar="STUDY", action="append", help="study beside it"
        )
        made.add_argument("--output", metavar="FILE", help="the page (results/report.html)")
        _add_table_options(made)
    if name == "describe":
        made.add_argument("--json", action="store_true", help="print it as JSON")
    if name == "export":
        made.add_argument("--arm", metavar="NAME", help="arm to export (the first with radii)")
        made.add_argument("--output", metavar="FILE", help="recipe file (results/recipe.json)")
    if name == "train":
        made.add_argument("--recipe", metavar="FILE", required=True, help="recipe to train with")
        made.add_argument("--seeds", type=int, nargs="+", metavar="N", help="one run a seed")
        made.add_argument("--study", metavar="DIR", help="folder for the run table (the recipe's)")
        made.add_argument(
            "--micro-batch-size", type=int, metavar="N", help="examples computed at once (all)"
        )
    if name == "coordcheck":
        made.add_argument("--arm", metavar="NAME", help="arm to check (all)")
        made.add_argument("--steps", type=int, metavar="N", help="first steps to do (10)")
        made.add_argument("--seeds", type=int, nargs="+", metavar="N", help="(the sweep's)")
        made.add_argument("--output", metavar="DIR", help="(coordcheck/<name>; a study's results)")
        made.add_argument("--exit-code", action="store_true", help="tell the outcome by exit code")
    if name == "norms":
        made.add_argument("--arm", metavar="NAME", help="arm to measure (all)")
        made.add_argument(
            "--readings", type=int, metavar="N", default=40, help="times over the steps (40)"
        )
    if name == "list":
        made.add_argument("--root", metavar="DIR", default="studies", help="folder (studies)")
    if name == "tokenize":
        _add_tokenize_options(made)
    if name in ("show", "train"):
        made.add_argument("--fields", action="store_true", help="explain every field")


def _add_table_options(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--x",
        metavar="COLUMN",
        action="append",
        help="of a table: hyperparameter (stepsize); or two",
    )
    made.add_argument(
        "--linear", metavar="COLUMN", action="append", help="one of them, not on a log scale"
    )
    made.add_argument(
        "--bounds",
        metavar=("X", "LOW", "HIGH"),
        nargs=3,
        action="append",
        help="where X may lie at all",
    )
    made.add_argument("--y", metavar="COLUMN", help="metric (val_loss); missing: diverged")
    made.add_argument("--size", metavar="COLUMN", help="what grows (width)")
    made.add_argument("--seed", metavar="COLUMN", help="seed (seed, if there is one)")
    made.add_argument("--group", metavar="COLUMN", help="what is judged apart, as optimizers")
    made.add_argument(
        "--epsilon", type=float, metavar="E", help="difference that matters (0.5 %% of the best)"
    )
    made.add_argument(
        "--transferred",
        type=float,
        metavar="X",
        action="append",
        help="to judge, one for each --x (best at smallest size)",
    )
    made.add_argument("--level", type=float, metavar="P", help="chance of a wrong claim (0.05)")
    made.add_argument("--maximise", action="store_true", default=None, help="more is better")


def _add_tokenize_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--output", metavar="DIR", required=True, help="folder for the shards")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", metavar="FILE", nargs="+", help="UTF-8 files, a document each")
    source.add_argument("--dataset", metavar="NAME", help="Hugging Face data set, streamed")
    made.add_argument("--dataset-config", metavar="NAME", help="its configuration (the default)")
    made.add_argument("--column", metavar="NAME", help="its column of text (text)")
    made.add_argument("--encoding", metavar="NAME", default="gpt2", help="of tiktoken (gpt2)")
    made.add_argument(
        "--shard-tokens", type=int, metavar="N", default=10**8, help="in a shard (100000000)"
    )
    made.add_argument(
        "--val-tokens", type=int, metavar="N", default=10**7, help="to validate on (10000000)"
    )


def split_source(name: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """Take the experiment off the front of a command's arguments, if the command has one."""
    if COMMANDS[name].source and arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    return None, arguments


def print_error(text: str) -> None:
    """Print one line to stderr."""
    print(f"{PROG}: {' '.join(text.split())}", file=sys.stderr)
