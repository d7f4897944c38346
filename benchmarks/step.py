"""Whole training steps: MMA in LaVIN's form and in ours, LoRA by PEFT and by us, with the stock Trainer and with ours.

    python benchmarks/step.py [--base pocket|100m] [--rank 8] [--dtype bfloat16] [--batch 8] [--tokens 256] [--rounds 7]

Bases are the pocket base and a random LLaVA of about 100 million parameters. Both LoRAs are on the same layers with
equal rank. The time is that of ``train()`` for some steps: collating, forward, loss, backward, clipping, AdamW,
callbacks.
"""

import argparse
import contextlib
import gc
import io
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from layer import lora_by_peft, lora_by_us, mma_as_lavin_everywhere, mma_by_us
from measure import append, medians, table
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from lora_mm.adapters.kernel_choice import set_kernels
from lora_mm.ops.kernel_choice import Kernels
from lora_mm.training.trainer import AdapterTrainer

PEFT = "LoRA by PEFT, stock Trainer"


def pocket(dtype: torch.dtype) -> LlavaForConditionalGeneration:
    from lora_mm.models.loading import load_base

    model: LlavaForConditionalGeneration = load_base("pocket", dtype=str(dtype).removeprefix("torch.")).model
    return model


def random_100m(dtype: torch.dtype) -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
                              image_size=112, patch_size=14)  # fmt: skip
    text = LlamaConfig(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
                       vocab_size=8192, max_position_embeddings=2048)  # fmt: skip
    config = LlavaConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_id=3)
    return LlavaForConditionalGeneration(config).to(dtype).requires_grad_(False)


BASES = {"pocket": pocket, "100m": random_100m}


def make_batch(model: LlavaForConditionalGeneration, batch: int, tokens: int, device: str) -> dict[str, Tensor]:
    """Make rows with and without a picture, alternating; the last 16 tokens are the answer."""
    generator = torch.Generator().manual_seed(0)
    config, image = model.config, model.config.image_token_id
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    ids = torch.randint(10, 60, (batch, tokens), generator=generator)
    ids[::2, 1 : 1 + (size // patch) ** 2] = image
    labels = ids.clone()
    labels[:, :-16] = -100
    pixels = torch.randn(len(ids[::2]), 3, size, size, generator=generator).to(model.dtype)
    tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "labels": labels}
    return {name: tensor.to(device) for name, tensor in tensors.items()}


STEPS = 4
"""Number of steps of one ``train()``."""


def stock_trainer(model: nn.Module, batch: dict[str, Tensor]) -> Trainer:
    return Trainer(model, arguments(), **data(batch))


def our_trainer(model: nn.Module, batch: dict[str, Tensor]) -> Trainer:
    return AdapterTrainer(model, arguments(), lengths=[1] * STEPS, **data(batch))


def arguments() -> TrainingArguments:
    return TrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=STEPS, per_device_train_batch_size=1, learning_rate=1e-4,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip


def data(batch: dict[str, Tensor]) -> dict[str, Any]:
    """Return a data set that repeats one batch."""
    return {"train_dataset": list(range(STEPS)), "data_collator": lambda rows: dict(batch)}


Form = tuple[Callable[..., nn.Module], Callable[..., Trainer], Kernels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=BASES, default="pocket")
    parser.add_argument("--dtype", default="bfloat16")
    for name, default in (("rank", 8), ("batch", 8), ("tokens", 256), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    forms: dict[str, Form] = {
        "MMA in LaVIN's form, stock Trainer": (mma_as_lavin_everywhere, stock_trainer, "torch"),
        "MMA, ours": (mma_by_us, our_trainer, "torch"),
        PEFT: (lora_by_peft, stock_trainer, "torch"),
        "LoRA by PEFT, our Trainer": (lora_by_peft, our_trainer, "torch"),
        "LoRA, ours": (lora_by_us, our_trainer, "torch"),
    }
    if device == "cuda":
        forms |= {f"{name}, Triton": (*forms[name][:2], "triton") for name in ("MMA, ours", "LoRA, ours")}
    steps = {}
    for name, (make, trainer, kernels) in forms.items():
        torch.manual_seed(0)
        base = BASES[options.base](getattr(torch, options.dtype)).to(device)
        batch = make_batch(base, options.batch, options.tokens, device)
        model = make(base.train(), options.rank)
        set_kernels(model, kernels)
        steps[name] = make_training(trainer(model, batch))
        gc.collect()
    times = {name: ms / STEPS for name, ms in medians(steps, rounds=options.rounds, device=device).items()}
    rows = [(name, f"{ms:.1f}", f"{times[PEFT] / ms:.2f}") for name, ms in times.items()]
    title = (
        f"A training step: {options.base}, {options.batch} × {options.tokens} tokens, r {options.rank}, {options.dtype}"
    )
    command = "python benchmarks/step.py " + " ".join(sys.argv[1:])
    append("step", title, command, table(("adapter", "ms a step", f"× {PEFT}"), rows))


def make_training(trainer: Trainer) -> Callable[[], object]:
    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its figures after each run
            trainer.train()

    return run


if __name__ == "__main__":
    main()
