"""What happens in a data loader's worker is told in one or two lines."""

import pytest
from torch.utils.data import DataLoader, Dataset

from lora_mm.errors import InputError, LoraMMError
from lora_mm.training.workers import explain_worker_errors


class Rows(Dataset[int]):
    """Three rows, of which the last raises."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, row: int) -> int:
        if row == 2:
            raise InputError("r2: cut off", "r2: and damaged")
        return row


def test_our_error_of_a_worker_has_no_traceback() -> None:
    with pytest.raises(InputError) as caught, explain_worker_errors():
        list(DataLoader(Rows(), num_workers=1))
    assert str(caught.value) == "r2: cut off\nr2: and damaged"


def test_a_worker_that_was_killed_is_named() -> None:
    """A worker is not killed here: torch's signal handler would raise the error a second time, anywhere in pytest."""
    told = r"A worker of the data loader ended: .*Killed\.\n.*dataloader_num_workers"
    with pytest.raises(LoraMMError, match=told), explain_worker_errors():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_other_errors_stay() -> None:
    for error in (RuntimeError("shapes differ"), InputError("a: b")):
        with pytest.raises(type(error), match=str(error)), explain_worker_errors():
            raise error
