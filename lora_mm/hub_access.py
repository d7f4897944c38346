"""Whether the Hugging Face Hub answers, what is said when it does not, and where things are kept beside its cache.

Knows no models and no data sets.
"""

import functools
import os
import textwrap
from pathlib import Path

from lora_mm.errors import InputError

_TIMEOUT = 10.0  # seconds


class UnreachableError(InputError):
    """Something is neither on this machine nor to be had from the Hub: one line for that, one for what works anyway."""

    WAY_OUT = (
        "Without network: local copies, by `--set base.model=FOLDER --set data.path=FOLDER`; "
        "or `lora-mm finetune --recipe scienceqa-pocket`, which needs neither."
    )

    def __init__(self, *things: str) -> None:
        super().__init__("; ".join(things), self.WAY_OUT)
        self.things = things


@functools.cache
def connection_error() -> str | None:
    """Why the Hub does not answer; None if it does. Asked once: a machine without network knows after half a second.

    Left to themselves, transformers and datasets each ask six times, in 25 s, and log every try.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception as error:  # transport errors come from whichever HTTP library the Hub's client is built on
        return root_cause(error)
    return None


def cache_folder() -> Path:
    """Where lora-mm keeps what it has drawn or unpacked: ``$HF_HOME/lora-mm``, by default in ``~/.cache``."""
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "lora-mm"


def root_cause(error: BaseException) -> str:
    """The innermost cause on one line: it names the trouble, the outer ones say that there was one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__
