"""The shipped base: its folder, prompt and tokenizer; that it binds letters, sees, and does not know the exam."""

import json
import re
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
from lora_mm.pocket.drawing import Spots
from lora_mm.pocket.world import draw_problems, make_world
from tools.pocket_pretraining import corpus, picture_corpus
from tools.pocket_pretraining.pretrain import STAGES, Learner, batches, encode, held_out, pixels

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


def test_folder_is_small_plain_and_readable() -> None:
    files = [f for f in BASE.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 8_000_000
    assert {f.suffix for f in files} <= {".json", ".jinja", ".safetensors"}


def test_size_and_kind(model) -> None:
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert 2_000_000 < sum(p.numel() for p in model.parameters()) < 4_000_000
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("image", [False, True])
def test_prompt_starts_the_whole_rendering(processor, image: bool) -> None:
    prompt = processor.apply_chat_template(messages("What?", image=image), add_generation_prompt=True)
    whole = processor.apply_chat_template(messages("What?", image=image, answer="The answer is B."))
    assert prompt == "USER: " + "<image>\n" * image + "What? ASSISTANT:"
    assert whole == prompt + " The answer is B.</s>"
    tokens = processor.tokenizer(prompt)["input_ids"]
    assert processor.tokenizer(whole)["input_ids"][: len(tokens)] == tokens


def test_letters_and_marks_are_one_token_each(processor) -> None:
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
def test_tokenizer_gives_any_text_back(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text), skip_special_tokens=False) == text


def test_long_real_text_fits(model, processor) -> None:
    text = "Photosynthesis in Euglena gracilis: 6 CO₂ + 6 H₂O → C₆H₁₂O₆ + 6 O₂. " * 24
    batch = processor(text=[f"USER: {text} ASSISTANT:"], return_tensors="pt")
    assert 1024 < batch["input_ids"].shape[1] <= model.config.text_config.max_position_embeddings
    with torch.no_grad():
        assert torch.isfinite(model(**batch).logits[:, -1]).all()


def test_mixed_batch_equals_single_samples(model, processor) -> None:
    image = Spots.random(Random(0)).draw()
    texts, images = (
        ["Choose red.\nOptions: (A) red (B) blue", "Which spot is highest? (A) red (B) blue (C) green"],
        [None, image],
    )
    together = letter_logits(model, processor, texts, images)
    for n in range(2):
        alone = letter_logits(model, processor, texts[n : n + 1], images[n : n + 1])
        assert torch.allclose(together[n], alone[0], atol=1e-4)


def test_picture_of_any_form_takes_as_many_tokens(processor) -> None:
    for size in ((300, 200), (40, 400), (144, 144)):
        image = Spots.random(Random(0)).draw().resize(size)
        batch = processor(images=[image], text=["USER: <image>\nWhat? ASSISTANT:"], return_tensors="pt")
        assert (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum() == 36
        assert batch["pixel_values"].shape == (1, 3, 72, 72)


def test_pretraining_reads_pictures_as_the_processor_does(processor) -> None:
    samples = [picture_corpus.picture(Random(n)) for n in range(4)]
    seen = processor.image_processor([s.picture for s in samples], return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels(samples), seen, atol=1e-6)
    text = "".join(t for t, _ in samples[0].pieces)
    ids = processor(images=[samples[0].picture], text=[text], return_tensors="pt")["input_ids"][0].tolist()
    assert encode(processor.tokenizer, samples)[0][0] == ids


def test_base_binds_letters_reads_pictures_and_captions_them(model, processor) -> None:
    # Held-out samples of a seed that pretraining never printed.
    scores = Learner(model, processor.tokenizer).scores(held_out(seed=99, size=96))
    # Chance is about 0.35 for choices and below 0.3 for open questions. The bare form is scaffolding, and forgotten.
    assert scores["named"] >= 0.8
    assert scores["kinds"] >= 0.8
    assert scores["picture open"] >= 0.7
    assert scores["picture choice"] >= 0.55


def test_base_is_near_chance_on_the_pocket_world(model, processor, problems) -> None:
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
    assert right / len(rows) <= chance + 0.07  # two points of sampling noise over the five that are promised


def test_corpus_never_asks_what_the_world_asks() -> None:
    asked = [draft.question.split("\n")[0] for _, _, draft in draw_problems(0, 2000)]
    words = {q.rstrip("?.") for q in asked}
    rng = Random(0)
    makers = (corpus.named, corpus.facts, corpus.kinds, corpus.topics, corpus.sentence, picture_corpus.picture)
    text = "\n".join("".join(t for t, _ in rng.choice(makers)(rng).pieces) for _ in range(4000))
    assert not [q for q in words if q in text]


def test_every_word_of_the_world_is_one_that_pretraining_shows(processor) -> None:
    shown = {word.lower() for word in corpus.WORDS}
    rng = Random(0)
    for make in (corpus.sentence, picture_corpus.picture, corpus.named, corpus.facts, corpus.kinds, corpus.topics):
        for _ in range(1500):
            shown |= {w.lower() for text, _ in make(rng).pieces for w in re.findall(r"[^\W\d_]+", text)}
    asked = {
        word.lower()
        for _, _, draft in draw_problems(0, 2000)
        for text in (draft.question, draft.hint, *draft.choices)
        for word in re.findall(r"[^\W\d_]+", text)
    }
    assert sorted(asked - shown) == []


def test_curriculum_is_fixed_by_its_seed() -> None:
    assert sum(stage.share for stage in STAGES) == pytest.approx(1)
    one, same, other = ([[s.pieces for s in batch] for _, batch in batches(seed, 10)] for seed in (1, 1, 2))
    assert one == same != other
