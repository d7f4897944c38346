"""Conversations are supervised as in LLaVA's training (haotian-liu/LLaVA, llava/train/train.py, commit c121f04).

The chat template of LLaVA's Hub repositories writes no system prompt of its own, and no ``</s>`` after earlier turns.
With it, we supervise the same tokens but for those ``</s>``. With a template that writes both, all tokens and labels
are LLaVA's.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer

from lora_mm.data.cells import PictureFolder
from lora_mm.data.collate import Collator
from lora_mm.data.layouts import RowReader
from lora_mm.data.row_context import RowContext
from lora_mm.models.forward import IGNORE_INDEX
from tests.helpers.tiny import TEMPLATE, tiny_processor

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
WHO = "{{ message['role'].upper() + ': ' }}"
HUBS = TEMPLATE.replace(WHO, "{% if message['role'] != 'system' %}" + WHO + "{% endif %}")
LLAVAS_OWN = (
    SYSTEM
    + " {% for message in messages %}{{ message['role'].upper() + ': ' }}"
    + "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    + "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    + "{{ ' ' if message['role'] == 'user' else '</s>' }}"
    + "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
WORDS = ("red", "the ball", "Which", "is it?", "yes,", "no.", "Überall", "球", "3.5", "\n", "a\nline", "(B)", "so")
Conversation = list[dict[str, str]]


@pytest.fixture(scope="module")
def tokenizer() -> LlamaTokenizer:
    """A small tokenizer of Llama's kind: a mark for each space, one before every text, bytes for unknown letters."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=names, show_progress=False)
    trained.train_from_iterator([SYSTEM, "USER: ASSISTANT:", *WORDS[:6]] * 5, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    options: dict[str, Any] = {"legacy": True, "add_bos_token": True, "pad_token": "<unk>"}
    return LlamaTokenizer(model["vocab"], merges, **options, extra_special_tokens={"image_token": "<image>"})


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Conversation]]:
    """A folder with a picture, and 150 conversations of one to four rounds; most have the picture in their first turn,
    before or behind the question."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (20, 16), "red").save(folder / "a.png")
    rng = random.Random(0)

    def draw_text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 12))).strip() or "so"

    drawn = []
    for _ in range(150):
        texts = [draw_text() for _ in range(2 * rng.randint(1, 4))]
        texts[0] = rng.choice((f"<image>\n{texts[0]}", f"{texts[0]}\n<image>", texts[0]))
        drawn.append([{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)])
    return folder, drawn


def tokenize_with_picture(tokenizer: LlamaTokenizer, text: str) -> list[int]:
    """``tokenizer_image_token`` (llava/mm_utils.py): each text around the mark by itself, one token for the mark."""
    first, *others = (tokenizer(piece)["input_ids"] for piece in text.split("<image>"))
    picture = tokenizer.convert_tokens_to_ids("<image>")
    return [*first, *(token for piece in others for token in (picture, *piece[1:]))]


def label_as_llava(tokenizer: LlamaTokenizer, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Tokens and labels by ``preprocess_multimodal`` and ``preprocess_v1``, conversation template vicuna_v1."""
    text = SYSTEM + " "
    for turn in conversation:
        value = turn["value"]
        if "<image>" in value:
            value = ("<image>\n" + value.replace("<image>", "").strip()).strip()
        text += f"USER: {value} " if turn["from"] == "human" else f"ASSISTANT: {value}</s>"
    ids = tokenize_with_picture(tokenizer, text)
    labels = list(ids)
    labels[0] = IGNORE_INDEX
    position = 1
    for exchange in text.split("</s>")[:-1]:
        question = exchange.partition(" ASSISTANT: ")[0] + " ASSISTANT: "
        asked = len(tokenize_with_picture(tokenizer, question)) - 2  # <s>, and the space that the answer's word takes
        labels[position : position + asked] = [IGNORE_INDEX] * asked
        position += len(tokenize_with_picture(tokenizer, exchange))  # its <s> stands for the </s>
    assert position == len(ids), "otherwise LLaVA leaves the conversation out"
    return ids, labels


def label_as_ours(collator: Collator, folder: Path, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Tokens and labels of a row, with one token for the picture."""
    row: dict[str, Any] = {"id": "1", "conversations": conversation}
    if any("<image>" in turn["value"] for turn in conversation):
        row["image"] = "a.png"
    batch = collator([RowReader("conversations", {}, RowContext(PictureFolder(folder)))(row, "1")])
    [ids], [labels] = batch["input_ids"].tolist(), batch["labels"].tolist()
    picture = collator.tokenizer.convert_tokens_to_ids("<image>")
    kept = [n for n, token in enumerate(ids) if token != picture or ids[n - 1] != picture]
    return [ids[n] for n in kept], [labels[n] for n in kept]


def test_with_llavas_own_template_all_tokens_and_labels_are_llavas(
    tokenizer: LlamaTokenizer, conversations: tuple[Path, list[Conversation]]
) -> None:
    folder, drawn = conversations
    collator = Collator(tiny_processor(tokenizer, LLAVAS_OWN), max_length=4000)
    for conversation in drawn:
        assert label_as_ours(collator, folder, conversation) == label_as_llava(tokenizer, conversation)


def test_earlier_turns_lack_their_end_with_the_hubs_template(
    tokenizer: LlamaTokenizer, conversations: tuple[Path, list[Conversation]]
) -> None:
    folder, drawn = conversations
    collator = Collator(tiny_processor(tokenizer, HUBS), max_length=4000)
    missing = 0
    for conversation in drawn:
        theirs = [label for label in label_as_llava(tokenizer, conversation)[1] if label != IGNORE_INDEX]
        ours = [label for label in label_as_ours(collator, folder, conversation)[1] if label != IGNORE_INDEX]
        *said, end = theirs
        assert end == tokenizer.eos_token_id
        assert ours == [*(token for token in said if token != end), end]
        missing += len(theirs) - len(ours)
    assert missing == sum(len(conversation) // 2 - 1 for conversation in drawn) == 227


def test_a_system_turn_of_the_row_gives_llavas_prompt_with_the_hubs_template(
    tokenizer: LlamaTokenizer, conversations: tuple[Path, list[Conversation]]
) -> None:
    folder, drawn = conversations
    collator = Collator(tiny_processor(tokenizer, HUBS), max_length=4000)
    for conversation in drawn:
        exchange = conversation[:2]
        row = [{"from": "system", "value": SYSTEM}, *exchange]
        assert label_as_ours(collator, folder, row) == label_as_llava(tokenizer, exchange)
