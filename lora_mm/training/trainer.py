"""``transformers.Trainer`` with our loss, order, weight decay and guards. Knows training; knows no recipe."""

import functools
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerState
from transformers.trainer_utils import rotate_checkpoints

from lora_mm import distributed
from lora_mm.adapters.token_router import find_token_routers
from lora_mm.errors import LoraMMError
from lora_mm.interrupt import make_worker_context
from lora_mm.models.anatomy import get_placeholder_ids
from lora_mm.training.callbacks import EpochSetter, GradientGuard, Meter
from lora_mm.training.checkpoints import UNFINISHED, seal_checkpoint
from lora_mm.training.gradients import average_gradients
from lora_mm.training.loss import LossWeight, compute_answer_loss, count_items


class AdapterTrainer(Trainer):
    """The Trainer for adapters.

    Args:
        args: positional arguments of :class:`transformers.Trainer`.
        sampler: gives the order of the training examples.
        loss_weight: what counts equally in the loss.
        facts: what the run trains, for the manifest of its checkpoints.
        count_seconds: returns how long the run has trained, for the same.
        kwargs: keyword arguments of :class:`transformers.Trainer`; ``model`` is required.
    """

    model: peft.PeftModel
    loss_is_scaled_for_ga = True  # compute_answer_loss divides by the items of all accumulated batches

    def __init__(
        self,
        *args: Any,
        sampler: Sampler[int],
        loss_weight: LossWeight = "token",
        facts: Mapping[str, str] | None = None,
        count_seconds: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sampler, self.loss_weight = sampler, loss_weight
        self.facts, self.count_seconds = facts or {}, count_seconds
        self.pictured_batches = 0
        self._placeholder_ids = torch.tensor(list(get_placeholder_ids(self.model.get_base_model()).values()))
        self.last_loss = float("nan")
        self.model_accepts_loss_kwargs = True  # the Trainer then counts items over accumulated batches
        self.meter = Meter()
        self.add_callback(GradientGuard(lambda: self.pictured_batches))
        self.add_callback(self.meter)
        self.add_callback(EpochSetter())
        if distributed.world_size() > 1:  # do not wrap the model in DDP, see training.gradients
            self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.token_routers = find_token_routers(self.model)
        for router in self.token_routers:  # the balancing loss is added once per batch, and batches are accumulated
            router.balance_weight /= self.args.gradient_accumulation_steps

    def load_finished(self, checkpoint: Path) -> bool:
        """Load the last checkpoint of a finished run instead of training; return False if steps remain.

        (The Trainer itself trains one more step if the run ended within an epoch.)
        """
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step < state.max_steps:
            return False
        self._load_from_checkpoint(str(checkpoint))
        self.state = state
        return True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, and add speed, memory, and how evenly experts were used since the last log.

        Args:
            logs: values to log; training logs have ``loss``.
            start_time: passed on to the Trainer.
        """
        if "loss" in logs:
            logs |= self.meter.read(self.state.global_step)
        if self.token_routers and "loss" in logs:
            use = torch.stack([router.take_usage().float() for router in self.token_routers])
            shares = use / use.sum(dim=-1, keepdim=True).clamp(min=1)
            logs["expert_share_min"], logs["expert_share_max"] = shares.min().item(), shares.max().item()
            balances = [router.balance for router in self.token_routers if router.balance is not None]
            logs["expert_balance"] = torch.stack(balances).mean().item()
        super().log(logs, start_time)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the answer loss, as the Trainer calls it.

        Args:
            model: the adapted model.
            inputs: model inputs and ``labels`` [batch, tokens].
            return_outputs: whether to return ``(loss, None)``, as the Trainer expects, instead of the loss.
            num_items_in_batch: :func:`count_items` of all accumulated batches.

        Raises:
            LoraMMError: the loss is not a finite number.
        """
        self.pictured_batches += self._has_picture(inputs)
        loss = compute_answer_loss(model, inputs, num_items_in_batch, self.loss_weight)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        self.last_loss = loss.item()
        if not math.isfinite(self.last_loss):
            raise LoraMMError(
                f"The loss is {self.last_loss} at step {self.state.global_step + 1}; the last checkpoint is intact. "
                "Lower training.learning_rate, or use base.dtype=bfloat16 instead of float16."
            )
        if not loss.requires_grad:  # only tower or connector train and the batch has no picture
            loss.requires_grad_()
        return (loss, None) if return_outputs else loss

    def _has_picture(self, inputs: Mapping[str, Tensor]) -> bool:
        """Whether a batch has a picture; BLIP's has pixels without placeholders if its rows have no picture."""
        ids = inputs["input_ids"]
        return "pixel_values" in inputs and bool(torch.isin(ids, self._placeholder_ids.to(ids.device)).any())

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Run forward and backward as the Trainer does; average gradients over ranks before an optimizer step.

        Args:
            model: the adapted model.
            args: positional arguments of the Trainer's method.
            kwargs: its keyword arguments.
        """
        loss: Tensor = super().training_step(model, *args, **kwargs)
        if self.accelerator.sync_gradients:
            average_gradients(model)
        return loss

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """List the parameters with weight decay: all matrices. Biases and vectors do not decay.

        (Transformers' own rule excludes names with ``norm``, but our adapters are attached to norms.)
        """
        return [
            name
            for name, parameter in model.named_parameters()
            if parameter.dim() > 1
            and not name.endswith(".bias")  # biases of several experts are stacked: [experts, width]
        ]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Make the Trainer's data loader; its worker processes leave stop signals to this process."""
        loader = super().get_train_dataloader()
        if loader.num_workers:
            inner = getattr(loader, "base_dataloader", loader)  # accelerate's wrapper does not pass attributes on
            inner.multiprocessing_context = make_worker_context()
        return loader

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(super()._get_output_dir(trial)) / UNFINISHED)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save as the Trainer does, but in a folder of its own, and give the checkpoint its name when it is whole."""
        checkpoints, name = Path(str(self.args.output_dir)), f"checkpoint-{self.state.global_step}"
        unfinished = checkpoints / UNFINISHED
        try:
            if self.args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
            distributed.barrier()
            super()._save_checkpoint(model, trial)
            distributed.barrier()
            if self.args.should_save:
                seal_checkpoint(unfinished / name, checkpoints / name, self.facts, self.count_seconds())
                unfinished.rmdir()
                rotate_checkpoints(str(checkpoints), self.args.save_total_limit)
        except Exception as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            # What a full disk raises depends on the writer: tokenizers raise a plain Exception.
            if not isinstance(error, (OSError, RuntimeError, SafetensorError)) and type(error) is not Exception:
                raise
            raise LoraMMError(
                f"{checkpoints / name}: the checkpoint cannot be written: {str(error).splitlines()[0]}\n"
                "Free some disk space, then continue from the previous checkpoint with --resume."
            ) from error

    def _get_num_items_in_batch(self, batch_samples: Sequence[Mapping[str, Tensor]], device: torch.device) -> Tensor:
        """Count the items of all accumulated batches, on all ranks."""
        counts = [count_items(batch["labels"], self.loss_weight) for batch in batch_samples]
        items = torch.stack(counts).sum().to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            items = self.accelerator.gather(items).sum()
        return items

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.sampler
