"""``transformers.Trainer`` with our loss, sampler, weight decay and guards. Knows training; knows no recipe."""

import functools
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from lora_mm import distributed
from lora_mm.adapters.token_router import find_token_routers
from lora_mm.errors import LoraMMError
from lora_mm.models.anatomy import find_part
from lora_mm.training.gradients import average_gradients
from lora_mm.training.loss import compute_answer_loss
from lora_mm.training.meter import Meter


class AdapterTrainer(Trainer):
    """The Trainer for adapters.

    Args:
        lengths: tokens of every training example, for ``train_sampling_strategy: group_by_length``.
        pictured: whether each shows a picture, to keep those apart in ``group_by_modality``; None mixes them.
    """

    loss_is_scaled_for_ga = True  # answer_loss divides by the tokens of all accumulated batches

    def __init__(
        self, *args: Any, lengths: Sequence[int], pictured: Sequence[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lengths, self.pictured = lengths, pictured
        self.seen_pictures = False
        self.last_loss = float("nan")
        self.model_accepts_loss_kwargs = True  # so that supervised tokens are counted over accumulated batches
        self.meter = Meter()
        self.add_callback(GradientGuard(self))
        self.add_callback(self.meter)
        self.add_callback(EpochSetter())
        if distributed.world_size() > 1:  # not to be wrapped, see training.together
            self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.mixtures = find_token_routers(self.model)
        for mixture in self.mixtures:  # its gradient is added once a batch, and batches are accumulated
            mixture.balance_weight /= self.args.gradient_accumulation_steps

    def take_up(self, checkpoint: Path) -> bool:
        """Put a run's last checkpoint in place of training; False, and nothing done, where it is not the last.

        Resumed from there, the Trainer itself would take one step more where the run ended within an epoch.
        """
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step < state.max_steps:
            return False
        self._load_from_checkpoint(str(checkpoint))
        self.state = state
        return True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer does, with speed and memory, and how evenly the experts were used since the last time."""
        if "loss" in logs:
            logs |= self.meter.read(self.state.global_step)
        if self.mixtures and "loss" in logs:
            use = torch.stack([mixture.take_usage().float() for mixture in self.mixtures])
            shares = use / use.sum(dim=-1, keepdim=True).clamp(min=1)
            logs["expert_share_min"], logs["expert_share_max"] = shares.min().item(), shares.max().item()
            balances = [mixture.balance for mixture in self.mixtures if mixture.balance is not None]
            logs["expert_balance"] = torch.stack(balances).mean().item()
        super().log(logs, start_time)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        self.seen_pictures |= "pixel_values" in inputs
        loss = compute_answer_loss(model, inputs, num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        self.last_loss = loss.item()
        if not math.isfinite(self.last_loss):
            raise LoraMMError(
                f"The loss is {self.last_loss} at step {self.state.global_step + 1}; the last checkpoint is good. "
                "Lower training.learning_rate, or use base.dtype=bfloat16 instead of float16."
            )
        if not loss.requires_grad:  # text alone, where only tower or connector train: a step that changes nothing
            loss.requires_grad_()
        return (loss, None) if return_outputs else loss

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """As the Trainer does; after the last batch before a step, gradients are the mean of those of all processes."""
        loss: Tensor = super().training_step(model, *args, **kwargs)
        if self.accelerator.sync_gradients:
            average_gradients(model)
        return loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer does; a checkpoint that cannot be written whole is taken away again."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except (
            OSError,
            RuntimeError,
            SafetensorError,
        ) as error:  # what a full disk raises depends on the file's writer
            shutil.rmtree(folder, ignore_errors=True)
            raise LoraMMError(
                f"{folder}: the checkpoint cannot be written: {str(error).splitlines()[0]}\n"
                "Free some space and go on from the one before with --resume."
            ) from error

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All but biases and vectors. (Transformers' rule goes by names with ``norm``, on which our adapters sit.)"""
        return [
            name
            for name, parameter in model.named_parameters()
            if parameter.dim() > 1 and not name.endswith(".bias")  # the experts' biases are stacked: [experts, width]
        ]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroups(self.lengths, size, self.args.seed, self.pictured)


class LengthGroups(Sampler[int]):
    """Random order in which neighbours are alike in length. An epoch's order depends on seed and epoch alone.

    With ``pictured``, batches are of one modality (Liu et al. 2024, LLaVA-1.5, who found it a quarter faster).

    (Transformers' own sampler draws from a stream that a resumed run enters at another place.)
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, pictured: Sequence[int] | None = None
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self.pictured = pictured

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.pictured is None:
            return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
        return iter(self._apart(generator))

    def _apart(self, generator: torch.Generator) -> list[int]:
        """Batches of pictures or of text alone, in random order; what fills no batch of its kind comes last."""
        whole: list[list[int]] = []
        rest: list[int] = []
        for kind in (True, False):
            numbers = [number for number, shown in enumerate(self.pictured or ()) if bool(shown) is kind]
            if not numbers:
                continue
            lengths = [self.lengths[number] for number in numbers]
            order = get_length_grouped_indices(lengths, self.batch_size, generator=generator)
            full = len(order) // self.batch_size * self.batch_size
            grouped = [numbers[at] for at in order]
            whole += [grouped[at : at + self.batch_size] for at in range(0, full, self.batch_size)]
            rest += grouped[full:]
        order = torch.randperm(len(whole), generator=generator).tolist()
        return [number for at in order for number in whole[at]] + rest


class EpochSetter(TrainerCallback):
    """Tells the sampler its epoch. The Trainer does too, but where several processes resume it does not reach it."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kwargs["train_dataloader"].set_epoch(int(state.epoch or 0))


class GradientGuard(TrainerCallback):
    """Stops the run when a trained tensor gets no gradient: it would be saved as it was drawn, and nobody would know.

    Tensors of the tower and the connector are waited for until the first picture has been seen.
    """

    def __init__(self, trainer: AdapterTrainer) -> None:
        self.trainer = trainer
        self.done = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.done:
            return
        seen_pictures = distributed.any_rank(self.trainer.seen_pictures)
        root = self.trainer.accelerator.unwrap_model(self.trainer.model)
        without = [name for name, p in root.named_parameters() if p.requires_grad and p.grad is None]
        base = root.get_base_model()
        waiting = [
            name
            for name in without
            if not seen_pictures and find_part(base, name.removeprefix("base_model.model.")) in ("vision", "connector")
        ]
        dead = [name for name in without if name not in waiting]
        if dead:
            shown = ", ".join(dead[:3]) + (f" and {len(dead) - 3} more" if len(dead) > 3 else "")
            raise LoraMMError(
                f"After step {state.global_step + 1}, {len(dead)} trained tensors have had no gradient: {shown}. "
                "They are not on the path from input to loss; leave their layers out (adapters.N.layers)."
            )
        self.done = not waiting
