"""Training step of one decoder layer: without adapter, with MMA (LaVIN's form and ours), with LoRA (PEFT's and ours).

    python benchmarks/layer.py [--width 4096] [--feed-forward 11008] [--tokens 2048] [--rank 8] [--dtype NAME] [--nf4]

The model is a random LLaVA of one Llama layer. A step is a forward pass and a backward pass to the layer's input, on
text, with frozen weights. ``--nf4`` quantizes the layer with bitsandbytes and compares only LoRA.
"""

import argparse
import gc
import sys
from collections.abc import Callable

import peft
import torch
from measure import append, medians, table
from primitive import lavin
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import lora_mm
from lora_mm.adapters.kernel_choice import set_kernels
from lora_mm.ops.kernel_choice import Kernels


def make_model(options: argparse.Namespace, device: str) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                              image_size=16, patch_size=8)  # fmt: skip
    heads = options.width // 128
    text = LlamaConfig(hidden_size=options.width, intermediate_size=options.feed_forward, num_attention_heads=heads,
                       num_hidden_layers=1, vocab_size=64, max_position_embeddings=8192)  # fmt: skip
    config = LlavaConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_id=3, dtype=options.dtype
    )
    with torch.device(device):
        model = LlavaForConditionalGeneration(config)
    model = model.to(getattr(torch, options.dtype)).requires_grad_(False)
    if options.nf4:
        quantize(model.model.language_model.layers, getattr(torch, options.dtype), device)
        model.is_loaded_in_4bit = True
    model.enable_input_require_grads()
    return model.train()


def quantize(part: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Quantize every linear layer of ``part`` to NF4."""
    import bitsandbytes as bnb

    for module in list(part.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                small = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=dtype, quant_type="nf4"
                )
                small.weight = bnb.nn.Params4bit(child.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                small.support_avx512bf16_for_cpu = False
                setattr(module, name, small.to(device))


class Lavin(nn.Module):
    """LaVIN's adapter after a norm, in LaVIN's form."""

    def __init__(self, norm: nn.Module, rank: int) -> None:
        super().__init__()
        width, like = norm.weight.shape[0], norm.weight
        sizes = {"down": (rank, width), "up": (2, width, rank // 2), "down_bias": (rank,), "up_bias": (2, width)}
        self.norm = norm
        self.p = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(size, device=like.device)) for name, size in sizes.items()}
        )
        nn.init.xavier_uniform_(self.p["down"])
        self.router = nn.Linear(width, 2, device=like.device)
        self.modality = nn.Parameter(torch.randn(width, device=like.device))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.router(self.modality) / 10, dim=-1).view(1, 1, 2)
        y = self.norm(x)
        return lavin(y, {name: tensor.to(y.dtype) for name, tensor in {**self.p, "weights": weights}.items()})


def mma_as_lavin_everywhere(model: LlavaForConditionalGeneration, rank: int) -> nn.Module:
    for layer in model.model.language_model.layers:
        layer.input_layernorm = Lavin(layer.input_layernorm, rank)
    return model


def lora_by_peft(model: LlavaForConditionalGeneration, rank: int) -> nn.Module:
    names = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    return peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names))


def lora_by_us(model: LlavaForConditionalGeneration, rank: int) -> nn.Module:
    return lora_mm.attach(model, [{"method": "lora", "at": "all", "rank": rank, "alpha": 2 * rank}])


def mma_by_us(model: LlavaForConditionalGeneration, rank: int) -> nn.Module:
    return lora_mm.attach(model, [{"method": "mma", "rank": rank, "dropout": 0.0}])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = (("width", 4096), ("feed-forward", 11008), ("tokens", 2048), ("rank", 8), ("rounds", 5))
    for name, default in sizes:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--nf4", action="store_true")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    makers: dict[str, tuple[Callable[..., nn.Module], Kernels]] = {"no adapter": (lambda model, rank: model, "torch")}
    if not options.nf4:
        makers |= {"MMA, LaVIN's form": (mma_as_lavin_everywhere, "torch"), "MMA, ours": (mma_by_us, "torch")}
    makers |= {
        "LoRA on all linear layers, PEFT": (lora_by_peft, "torch"),
        "LoRA on all linear layers, ours": (lora_by_us, "torch"),
    }
    if device == "cuda":
        ours = [name for name in makers if name.endswith("ours")]
        makers |= {f"{name}, Triton": (makers[name][0], "triton") for name in ours}
    ids = torch.randint(4, 64, (1, options.tokens), device=device)
    forms = {}
    for name, (make, kernels) in makers.items():
        model = make(make_model(options, device), options.rank)
        set_kernels(model, kernels)
        forms[name] = make_step(model, ids)
        gc.collect()
    times = medians(forms, rounds=options.rounds, device=device)
    layer = times["no adapter"]
    rows = [(name, f"{ms:.1f}", f"{ms / layer - 1:+.1%}") for name, ms in times.items()]
    weights = "NF4" if options.nf4 else options.dtype
    size = f"D {options.width}, T {options.tokens}, r {options.rank}"
    title = f"A decoder layer's step: {size}, {weights} weights, {options.dtype}"
    command = "python benchmarks/layer.py " + " ".join(sys.argv[1:])
    append("layer", title, command, table(("adapter", "ms", "above none"), rows))


def make_step(model: nn.Module, ids: Tensor) -> Callable[[], object]:
    def run() -> None:
        model.zero_grad(set_to_none=True)
        model(input_ids=ids, use_cache=False, logits_to_keep=8).logits.float().square().mean().backward()

    return run


if __name__ == "__main__":
    main()
