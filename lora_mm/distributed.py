"""The processes of one run, as ``torchrun`` and ``accelerate launch`` start them: which this is, and what all agree on.

Of one process nothing of this asks anything, and torch is not imported. Knows nothing of what is run.
"""

import functools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any

from lora_mm.errors import InputError, LoraMMError

TIMEOUT = timedelta(days=1)
"""How long a process waits for others: the first may score a whole split. Where one fails, the launcher ends them."""


def world_size() -> int:
    """How many processes this run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one; 0 is the first, which alone prints, writes and scores."""
    return int(os.environ.get("RANK", "0"))


def init_process_group() -> None:
    """Meet the other processes, and take the GPU that is this one's.

    To be called when all is imported: of torch's modules, some that are imported later keep the group for good, whose
    threads then outlive :func:`destroy_process_group` and may abort the process at its exit.

    Raises:
        InputError: there are more processes than GPUs, or they are to share one model's weights.
    """
    if world_size() == 1:
        return
    import torch

    gpus, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < gpus < here:
        raise InputError(f"{here} processes on this machine, for GPUs that are {gpus}; start one process a GPU.")
    for way in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{way}", "false").lower() == "true":
            raise InputError(
                f"{way} splits a base over GPUs; here each holds all of it. Leave {way} out of the launch."
            )
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    torch.distributed.init_process_group(backend, store=_store(), rank=rank(), world_size=world_size(), timeout=TIMEOUT)


def destroy_process_group() -> None:
    """Once all have come here, each goes its way: nothing can be agreed on any more."""
    if world_size() == 1:
        return
    import torch.distributed

    barrier()
    torch.distributed.destroy_process_group()


def become_single_process() -> None:
    """Let this be a run of one process, for us and for every library that reads the environment."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)


def any_rank(mine: bool) -> bool:
    """Whether ``mine`` is true in any process. All have to ask, and each waits here for the others."""
    if world_size() == 1:
        return mine
    import torch

    found = torch.tensor(int(mine))  # on the CPU, where waiting costs nothing
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return bool(found)


def barrier() -> None:
    """Go on when all have come here."""
    any_rank(False)


@contextmanager
def silence_other_ranks() -> Iterator[None]:
    """Nothing that Python prints within is seen, but of the first process.

    Raises:
        LoraMMError: another process has ended while this one counted on it.
    """
    with ExitStack() as stack:
        if rank():
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        try:
            yield
        except RuntimeError as error:
            if world_size() > 1 and _is_of_a_lost_one(error):
                raise LoraMMError("A process of this run has ended without a word; its launcher says how.") from error
            raise


def is_first_to_fail() -> bool:
    """Whether this process is to say what made it fail: of several, the first that fails.

    What is wrong for all is said once so, and what others meet because one is gone is not said at all.
    """
    if world_size() == 1 or _store().add("failed", 1) == 1:
        return True
    time.sleep(1)  # the launcher ends all when the first is gone: let the one that tells be it
    return False


def _is_of_a_lost_one(error: RuntimeError) -> bool:
    import torch.distributed

    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


@functools.cache
def _store() -> Any:
    """What all processes can write to, from their launcher."""
    import torch.distributed

    store, _, _ = next(torch.distributed.rendezvous("env://", timeout=TIMEOUT))
    return store
