"""The processes of one run, as ``torchrun`` and ``accelerate launch`` start them: rank, world size, synchronization.

A run of one process does not import torch here. Does not know what the processes compute.
"""

import functools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any

from lora_mm.errors import InputError, LoraMMError

PROCESS_GROUP_TIMEOUT = timedelta(days=1)
"""How long a rank waits for the others. Rank 0 may evaluate a whole split; the launcher ends all ranks if one fails."""


def world_size() -> int:
    """Number of processes in this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Rank of this process. Only rank 0 prints, writes and evaluates."""
    return int(os.environ.get("RANK", "0"))


def init_process_group() -> None:
    """Initialize the process group and select this rank's GPU. Does nothing for a single process.

    Call it after all imports: some torch modules, when imported later, keep a reference to the group. Its threads then
    survive :func:`destroy_process_group` and can abort the process at exit.

    Raises:
        InputError: there are more processes than GPUs, or the launch asks for FSDP or DeepSpeed.
    """
    if world_size() == 1:
        return
    import torch

    gpus, local_size = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < gpus < local_size:
        raise InputError(f"{local_size} processes but {gpus} GPU{'s'[: gpus > 1]}; use --nproc-per-node {gpus}.")
    for name, variable in (("FSDP", "ACCELERATE_USE_FSDP"), ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED")):
        if os.environ.get(variable, "false").lower() == "true":
            raise InputError(
                f"{name} is not supported: every GPU holds the whole base. Start the run without {name} (plain DDP)."
            )
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    torch.distributed.init_process_group(
        backend, store=_store(), rank=rank(), world_size=world_size(), timeout=PROCESS_GROUP_TIMEOUT
    )


def destroy_process_group() -> None:
    """Wait for all ranks, then destroy the process group. Does nothing for a single process."""
    if world_size() == 1:
        return
    import torch.distributed

    barrier()
    torch.distributed.destroy_process_group()


def become_single_process() -> None:
    """Make this a run of one process, also for libraries that read the launcher's environment variables."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is true on any rank. A collective call: every rank must make it, and waits for the others."""
    if world_size() == 1:
        return flag
    import torch

    any_flag = torch.tensor(int(flag))  # on the CPU, where waiting costs nothing
    torch.distributed.all_reduce(any_flag, torch.distributed.ReduceOp.MAX)
    return bool(any_flag)


def barrier() -> None:
    """Wait for all ranks."""
    any_rank(False)


@contextmanager
def silence_other_ranks() -> Iterator[None]:
    """Discard what Python prints inside the block, except on rank 0.

    Raises:
        LoraMMError: another rank ended while this one waited for it.
    """
    with ExitStack() as stack:
        if rank():
            devnull = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(devnull))
            stack.enter_context(redirect_stderr(devnull))
        try:
            yield
        except RuntimeError as error:
            if world_size() > 1 and _is_lost_rank(error):
                raise LoraMMError("Another rank ended unexpectedly; see its error in the launcher's output.") from error
            raise


def is_first_to_fail() -> bool:
    """Whether this rank reports its failure: only the first rank that fails does.

    A failure that all ranks share is reported once, and failures that follow from another rank's end are not reported.
    """
    if world_size() == 1 or _store().add("failed", 1) == 1:
        return True
    time.sleep(1)  # the launcher stops all ranks when the first one exits: let the reporting rank be the first
    return False


def _is_lost_rank(error: RuntimeError) -> bool:
    """Whether an error comes from the loss of another rank."""
    import torch.distributed

    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


@functools.cache
def _store() -> Any:
    """The launcher's key-value store, which all ranks share."""
    import torch.distributed

    store, _, _ = next(torch.distributed.rendezvous("env://", timeout=PROCESS_GROUP_TIMEOUT))
    return store
