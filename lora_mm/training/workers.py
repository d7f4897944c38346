"""Reports what happens in a data loader's worker as it would be reported without one. Knows no data."""

from collections.abc import Iterator
from contextlib import contextmanager

from lora_mm.errors import LoraMMError


@contextmanager
def explain_worker_errors() -> Iterator[None]:
    """Raise our errors of workers without the traceback that torch adds, and name a worker's sudden end.

    Raises:
        LoraMMError: a worker raised it, or the system ended a worker.
    """
    try:
        yield
    except LoraMMError as error:
        _, torchs, traceback = str(error).partition("Original Traceback")
        if not torchs:
            raise
        lines = traceback.splitlines()
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        first = max(number for number, line in enumerate(lines) if line.startswith(name))
        raise type(error)("\n".join(lines[first:]).removeprefix(name)) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LoraMMError(
            f"A worker of the data loader ended: {str(error).splitlines()[0]}\n"
            "Usually the system ends a process that takes too much memory; lower training.dataloader_num_workers, or "
            "make the pictures smaller."
        ) from error
