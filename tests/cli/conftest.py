"""The command line called in this process, as a user calls it."""

import sys
from collections.abc import Callable

import pytest

from lora_mm.cli.main import run

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run ``lora-mm`` with arguments, in this process; gives exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lora-mm", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:  # anything else would be a traceback to the user
            run()
        out, err = capfd.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err

    return call
