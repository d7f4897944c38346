"""Memory that runs out is told with the settings to change, and other errors stay."""

import pytest
import torch

from lora_mm.errors import LoraMMError
from lora_mm.out_of_memory import explain_out_of_memory


def test_an_allocation_that_the_machine_refuses_is_told_with_the_settings() -> None:
    with pytest.raises(LoraMMError) as caught, explain_out_of_memory():
        torch.empty(2**52)
    first, second = str(caught.value).splitlines()
    assert first.startswith("Out of memory: ")
    assert "lower evaluation.per_device_eval_batch_size" in second


def test_python_and_the_gpu_run_out_of_memory_too() -> None:
    for error, told in (
        (MemoryError(), "Out of memory: MemoryError"),
        (torch.cuda.OutOfMemoryError("x"), "Out of GPU"),
    ):
        with pytest.raises(LoraMMError, match=told), explain_out_of_memory():
            raise error


def test_another_error_stays() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), explain_out_of_memory():
        raise RuntimeError("shapes differ")
