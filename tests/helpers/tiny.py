"""Tiny real things to test on: a random LLaVA with tokenizer and processor, and a ScienceQA folder with pictures."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def tiny_tokenizer(special: Sequence[str] = (), *, begins: bool = False, **named: str) -> PreTrainedTokenizerFast:
    """Reads bytes. Ids are 0 ``<pad>``, 1 ``<s>``, 2 ``</s>``, 3 ``<image>``, then ``special``.

    Args:
        special: more special tokens.
        begins: whether it puts ``<s>`` before every text, as those of Llama and Gemma do.
        named: attributes of the tokenizer that name some of them, beside ``image_token``.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [
        f"USER: Question: Which? Context: N/A Options: ({a}) Response: ASSISTANT: The answer is {a}." for a in "ABCDE"
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>", "<image>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus * 20, trainer)
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>", **named},
    )


def tiny_config(**text: object) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=32,
        ).to_dict(),
        text_config=LlamaConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=512,
            max_position_embeddings=1024,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **text,
        ).to_dict(),
        image_token_index=3,
        image_token_id=3,
    )


def tiny_model(seed: int = 0) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(tiny_config()).eval()
    with torch.no_grad():  # the usual 0.02 leaves logits so flat that nothing would show
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model


def tiny_batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Two rows, left-padded: one with a picture (4 placeholders), one without."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(10, 400, (2, 6), generator=generator)
    ids = torch.cat([torch.tensor([[1, 3, 3, 3, 3], [0, 0, 0, 0, 1]]), text], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "pixel_values": torch.randn(1, 3, 16, 16, generator=generator),
    }


def tiny_processor(tokenizer: PreTrainedTokenizerBase, template: str = TEMPLATE) -> LlavaProcessor:
    """LLaVA's processor for pictures of 16 × 16, which have 4 placeholders."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_convert_rgb=True
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def make_base(folder: Path, seed: int = 0) -> Path:
    """A folder that ``AutoModelForImageTextToText`` and ``AutoProcessor`` load."""
    tiny_model(seed).save_pretrained(folder)
    tiny_processor(tiny_tokenizer()).save_pretrained(folder)
    return folder


def make_scienceqa(folder: Path, *, train: int = 24, test: int = 12, seed: int = 0) -> Path:
    """Problems in the official layout, every other one with a picture: is it red or blue?"""
    rng = random.Random(seed)
    problems: dict[str, dict[str, object]] = {}
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number in range(1, train + test + 1):
        split = "train" if number <= train else "test"
        answer = rng.randrange(2)
        pictured = number % 2 == 0
        problems[str(number)] = {
            "question": f"Which colour is number {number}?",
            "choices": ["red", "blue"],
            "answer": answer,
            "hint": "" if pictured else f"It is {('red', 'blue')[answer]}.",
            "image": "image.png" if pictured else None,
            "task": "closed choice",
            "grade": f"grade{rng.randint(1, 12)}",
            "subject": rng.choice(["natural science", "social science", "language science"]),
            "topic": "colours",
            "category": "Colours",
            "skill": "See",
            "lecture": "Look.",
            "solution": "It is so.",
            "split": split,
        }
        splits[split].append(str(number))
        if pictured:
            file = folder / "images" / split / str(number) / "image.png"
            file.parent.mkdir(parents=True)
            Image.new("RGB", (20, 16), ("red", "blue")[answer]).save(file)
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(json.dumps(splits))
    return folder


def perturb(model: nn.Module, seed: int = 1, size: float = 0.3) -> None:
    """Add noise to everything that trains: updates begin at zero, where nothing can be told apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * size
                parameter.add_(noise.to(parameter.device, parameter.dtype))


def make_recipe(file: Path, base: Path, data: Path, /, **sections: object) -> Path:
    """A recipe of six steps of four problems; ``sections`` replace keys of the top level, or of its sections."""
    recipe: dict[str, object] = {
        "name": "tiny",
        "summary": "six steps on a tiny base",
        "base": {"model": str(base), "dtype": "float32"},
        "adapters": [
            {"method": "mma", "rank": 4, "temperature": 1, "dropout": 0.1},
            {"method": "mma", "part": "vision", "rank": 4, "temperature": 1, "dropout": 0.1},
        ],
        "train": ["connector"],
        "data": {"path": str(data), "format": "QCM-A", "max_length": 256},
        "training": {
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "learning_rate": 5e-3,
            "logging_steps": 1,
            "save_steps": 3,
        },
        "evaluation": {"per_device_eval_batch_size": 12},
    }
    for name, value in sections.items():
        old = recipe.get(name)
        recipe[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return file
