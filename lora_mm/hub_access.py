"""Checks whether the Hugging Face Hub can be reached, and finds the cache folder. Knows no models and no data."""

import functools
import os
import textwrap
from pathlib import Path

from lora_mm.errors import InputError
from lora_mm.paths import resolve_path

_TIMEOUT = 10.0  # seconds


class UnreachableError(InputError):
    """Something is not on this machine and cannot be downloaded. The second line says what works without network.

    Args:
        things: what is missing, each with the reason.
    """

    WAY_OUT = (
        "Without network, use local copies (`--set base.model=FOLDER --set data.path=FOLDER`), "
        "or `lora-mm finetune --recipe scienceqa-pocket`, which downloads nothing."
    )

    def __init__(self, *things: str) -> None:
        super().__init__("; ".join(things), self.WAY_OUT)
        self.things = things


@functools.cache
def connection_error() -> str | None:
    """The reason why the Hub cannot be reached, or None if it can. Checked once for each process.

    Without network this takes half a second. By themselves, transformers and datasets each try six times, in 25 s, and
    log every attempt.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception as error:  # the types of transport errors depend on the Hub client's HTTP library
        return root_cause(error)
    return None


def cache_folder() -> Path:
    """The folder for drawn and unpacked files: ``$HF_HOME/lora-mm``, by default ``~/.cache/huggingface/lora-mm``."""
    return resolve_path(os.environ.get("HF_HOME", "~/.cache/huggingface"), "HF_HOME") / "lora-mm"


def root_cause(error: BaseException) -> str:
    """The message of the innermost cause, on one line: it names the problem that the outer errors report."""
    while error.__cause__ is not None:
        error = error.__cause__
    return textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__
