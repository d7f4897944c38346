"""``lora-mm``: the commands, and how errors are reported. Holds no logic; only commands that need torch import it."""

import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence

import typer

from lora_mm import __version__, distributed
from lora_mm.cli import chat, data, env, evaluate, finetune, generate, merge, models, plan, recipes, score, share
from lora_mm.errors import InputError, LoraMMError
from lora_mm.interrupt import Stopped, get_exit_code, raise_stop_signals
from lora_mm.printable import echo, find_control_character, to_printable

app = typer.Typer(
    help="Fine-tune open multimodal models with small adapters, on the GPU you have. "
    "Start with: lora-mm finetune --recipe scienceqa-pocket",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        echo(f"lora-mm {__version__}")
        raise typer.Exit


@app.callback()
def _read_global_options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


app.command(name="finetune")(finetune.finetune)
app.command(name="plan")(plan.plan)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="generate")(generate.generate)
app.command(name="chat")(chat.chat)
app.command(name="merge")(merge.merge)
app.add_typer(share.app, name="share")
app.add_typer(score.app, name="score")
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.command(name="env")(env.env)


def run() -> None:
    """Run the command line.

    Exit code 0: success, 1: the run failed, 2: unusable input, 130: Ctrl-C, 143: SIGTERM, 129: SIGHUP, 141: nobody
    reads what the command was to print (``| head``). Progress and tables that nobody reads are lost, and the run goes
    on.
    """
    _quiet_libraries()
    raise_stop_signals()
    # If the terminal cannot write a character (a lone surrogate, an ASCII locale), write an escape sequence.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.argv[1:2] != ["finetune"]:  # the only command that uses several processes
        if distributed.rank():
            return
        distributed.become_single_process()
    try:
        _run_app()
    except Stopped as stop:  # while a failure is reported: the launcher stops all ranks after the first one ends
        sys.exit(get_exit_code(stop))


def _run_app() -> None:
    """Run the command, and report how it ends."""
    try:
        with distributed.silence_other_ranks():
            _check_arguments(sys.argv[1:])
            app()
    except LoraMMError as error:
        if distributed.is_first_to_fail():
            echo(str(error), stderr=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, Stopped) as stop:
        if distributed.is_first_to_fail():
            echo("Stopped.", stderr=True)
        sys.exit(get_exit_code(stop))
    except SystemExit:  # wrong usage, or --help: rank 0 exits, and the launcher stops the other ranks
        if not distributed.rank():
            raise
    except Exception:  # a bug: one traceback, from the first rank that fails
        if distributed.is_first_to_fail():
            raise
        sys.exit(1)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Raise InputError for control characters, which messages about wrong usage would print. Bytes are fine: a file's
    name may be any."""
    found = [find_control_character(os.fsencode(argument).decode(errors="replace")) for argument in arguments]
    faults = [
        f"Argument {number}: contains the control character U+{ord(match.group()):04X} "
        f"at position {match.start() + 1}; leave it out."
        for number, match in enumerate(found, 1)
        if match
    ]
    if faults:
        raise InputError(*faults)


def _quiet_libraries() -> None:
    """Hide progress bars and warnings of libraries, but not their errors."""
    warnings.simplefilter("ignore", FutureWarning)
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {to_printable(str(message))}\n"  # no line of code
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # Pillow's; data.example checks
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # OpenMP threads spin while they wait, which slows other programs on the same cores. Two pocket runs on two
    # cores: 4.4 samples/s each with the default of 300,000 turns, 28 with 20,000. One run alone: 167 and 165.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
