"""The pocket base: its folder, prompt and tokenizer. It sees pictures, and does not know the answers of the world."""

import json
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from lora_mm.pocket import BASE
from lora_mm.pocket.scenes import Spots
from lora_mm.pocket.world import make_world

LETTERS = "ABCDE"


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, dict]]]:
    folder = tmp_path_factory.mktemp("pocket") / "world"
    make_world(folder, seed=11, size=2400)
    found = json.loads((folder / "problems.json").read_text())
    return folder, [(key, p) for key, p in found.items() if p["split"] == "test"]


def messages(text: str, *, image: bool, answer: str | None = None) -> list[dict]:
    content = [{"type": "image"}] * image + [{"type": "text", "text": text}]
    chat = [{"role": "user", "content": content}]
    return chat if answer is None else [*chat, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


def question(problem: dict) -> str:
    options = " ".join(f"({LETTERS[n]}) {c}" for n, c in enumerate(problem["choices"]))
    return f"Question: {problem['question']}\nContext: {problem['hint'] or 'N/A'}\nOptions: {options}\nResponse:"


@torch.no_grad()
def letter_logits(model, processor, texts, images) -> torch.Tensor:
    prompts = [
        processor.apply_chat_template(messages(t, image=i is not None), add_generation_prompt=True) + " The answer is"
        for t, i in zip(texts, images, strict=True)
    ]
    pictures = [i for i in images if i is not None]
    batch = processor(images=pictures or None, text=prompts, padding=True, return_tensors="pt")
    last = batch["attention_mask"].sum(1) - 1
    ids = [processor.tokenizer.convert_tokens_to_ids(f"Ġ{letter}") for letter in LETTERS]
    return model(**batch).logits[torch.arange(len(last)), last][:, ids]


def test_the_folder_is_small_and_has_no_code() -> None:
    files = [f for f in BASE.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 8_000_000
    assert {f.suffix for f in files} <= {".json", ".jinja", ".safetensors"}


def test_size_and_kind(model) -> None:
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert 2_000_000 < sum(p.numel() for p in model.parameters()) < 4_000_000
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("image", [False, True])
def test_the_conversation_starts_with_the_prompt(processor, image: bool) -> None:
    prompt = processor.apply_chat_template(messages("What?", image=image), add_generation_prompt=True)
    whole = processor.apply_chat_template(messages("What?", image=image, answer="The answer is B."))
    assert prompt == "USER: " + "<image>\n" * image + "What? ASSISTANT:"
    assert whole == prompt + " The answer is B.</s>"
    tokens = processor.tokenizer(prompt)["input_ids"]
    assert processor.tokenizer(whole)["input_ids"][: len(tokens)] == tokens


def test_letters_are_one_token_each(processor) -> None:
    tokenizer = processor.tokenizer
    for letter in LETTERS:
        assert len(tokenizer.encode(f" {letter}")) == len(tokenizer.encode(f" ({letter})")) == 1
        assert tokenizer.tokenize(f"Options: ({letter}) red")[-2:] == [f"Ġ({letter})", "Ġred"]
        assert tokenizer.tokenize(f" The answer is {letter}.")[-2:] == [f"Ġ{letter}", "."]
    assert len(tokenizer.encode("1234")) == 4


@cache
def tokenizer():
    return AutoProcessor.from_pretrained(BASE).tokenizer


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60).filter(lambda text: "<" not in text))
def test_the_tokenizer_decodes_what_it_encodes(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text), skip_special_tokens=False) == text


def test_long_real_text_fits(model, processor) -> None:
    text = "Photosynthesis in Euglena gracilis: 6 CO₂ + 6 H₂O → C₆H₁₂O₆ + 6 O₂. " * 24
    batch = processor(text=[f"USER: {text} ASSISTANT:"], return_tensors="pt")
    assert 1024 < batch["input_ids"].shape[1] <= model.config.text_config.max_position_embeddings
    with torch.no_grad():
        assert torch.isfinite(model(**batch).logits[:, -1]).all()


def test_a_mixed_batch_gives_the_logits_of_single_samples(model, processor) -> None:
    image = Spots.random(Random(0)).draw()
    texts, images = (
        ["Choose red.\nOptions: (A) red (B) blue", "Which spot is highest? (A) red (B) blue (C) green"],
        [None, image],
    )
    together = letter_logits(model, processor, texts, images)
    for n in range(2):
        alone = letter_logits(model, processor, texts[n : n + 1], images[n : n + 1])
        assert torch.allclose(together[n], alone[0], atol=1e-4)


def test_pictures_of_any_size_have_the_same_number_of_tokens(processor) -> None:
    for size in ((300, 200), (40, 400), (144, 144)):
        image = Spots.random(Random(0)).draw().resize(size)
        batch = processor(images=[image], text=["USER: <image>\nWhat? ASSISTANT:"], return_tensors="pt")
        assert (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum() == 36
        assert batch["pixel_values"].shape == (1, 3, 72, 72)


def test_the_base_is_near_chance_on_the_pocket_world(model, processor, problems) -> None:
    folder, rows = problems
    assert len(rows) >= 300
    rows.sort(key=lambda row: len(question(row[1])))
    right = 0
    for start in range(0, len(rows), 60):
        part = rows[start : start + 60]
        images = [Image.open(folder / "images" / "test" / k / "image.png") if p["image"] else None for k, p in part]
        logits = letter_logits(model, processor, [question(p) for _, p in part], images)
        for line, (_, p) in zip(logits, part, strict=True):
            right += int(line[: len(p["choices"])].argmax()) == p["answer"]
    chance = sum(1 / len(p["choices"]) for _, p in rows) / len(rows)
    assert right / len(rows) <= chance + 0.07  # five points, and two of sampling noise
