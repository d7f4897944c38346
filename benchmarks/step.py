"""The whole training step, forward to optimiser: MMA in LaVIN's form and in ours, LoRA by PEFT and by us.

    python benchmarks/step.py [--base pocket|100m] [--rank 8] [--dtype bfloat16] [--batch 8] [--tokens 256] [--rounds 7]

On the pocket base, and on a LLaVA of some 100 million parameters at random. LoRA stands on the same layers with equal
rank: by PEFT with the model's own loss, as the stock Trainer computes it, and by ``lora_mm.attach`` with ours.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from typing import Any

import torch
from layer import lora_by_peft, lora_by_us, mma_as_lavin_everywhere, mma_by_us
from measure import append, medians, table
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from lora_mm.ops import kernels
from lora_mm.training.loss import answer_loss


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


def batch_of(model: LlavaForConditionalGeneration, batch: int, tokens: int, device: str) -> dict[str, Tensor]:
    """Rows with a picture and rows without, in turn; the last 16 tokens are the answer."""
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


def stock_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


Form = tuple[Callable[..., nn.Module], Callable[..., Tensor], kernels.Kernels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=BASES, default="pocket")
    parser.add_argument("--dtype", default="bfloat16")
    for name, default in (("rank", 8), ("batch", 8), ("tokens", 256), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    forms: dict[str, Form] = {
        "MMA, LaVIN's form": (mma_as_lavin_everywhere, answer_loss, "torch"),
        "MMA, ours": (mma_by_us, answer_loss, "torch"),
        "LoRA, PEFT, stock loss": (lora_by_peft, stock_loss, "torch"),
        "LoRA, PEFT, our loss": (lora_by_peft, answer_loss, "torch"),
        "LoRA, ours": (lora_by_us, answer_loss, "torch"),
    }
    if device == "cuda":
        forms |= {f"{name}, Triton": (*forms[name][:2], "triton") for name in ("MMA, ours", "LoRA, ours")}
    steps = {}
    for name, (make, loss, choice) in forms.items():
        torch.manual_seed(0)
        base = BASES[options.base](getattr(torch, options.dtype)).to(device)
        batch = batch_of(base, options.batch, options.tokens, device)
        steps[name] = step(make(base.train(), options.rank).train(), loss, batch, choice)
        gc.collect()
    took = medians(steps, rounds=options.rounds, device=device)
    peft = took["LoRA, PEFT, stock loss"]
    rows = [(name, f"{ms:.1f}", f"{peft / ms:.2f}") for name, ms in took.items()]
    title = (
        f"A training step: {options.base}, {options.batch} × {options.tokens} tokens, r {options.rank}, {options.dtype}"
    )
    command = "python benchmarks/step.py " + " ".join(sys.argv[1:])
    append("step", title, command, table(("adapter", "ms", "× PEFT and the stock loss"), rows))


def step(
    model: nn.Module, loss: Callable[..., Any], batch: dict[str, Tensor], choice: kernels.Kernels
) -> Callable[[], object]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def run() -> None:
        kernels.choose(choice)
        loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


if __name__ == "__main__":
    main()
