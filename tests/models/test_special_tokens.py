"""Special tokens that texts may spell: same ids, kept when decoded, and none that commands the base."""

import re
from pathlib import Path
from typing import Any

import pytest

from lora_mm.errors import InputError
from lora_mm.models.loading import load_base_config, load_base_processor
from lora_mm.models.special_tokens import allow_tokens, list_special_tokens
from tests.helpers.bases import make_family_base

BOX = ["<|box_start|>", "<|box_end|>"]
SAID = "It is at <|box_start|>(1,2),(3,4)<|box_end|>, é.</s>"


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = str(make_family_base(Path(tmp_path_factory.mktemp("bases")) / "qwen2_vl", "qwen2_vl"))
    return load_base_processor(folder, load_base_config(folder))


def test_ids_stay_and_decoding_keeps_the_tokens_and_no_other(processor: Any) -> None:
    allowing = allow_tokens(processor, BOX)
    ids = processor.tokenizer(SAID)["input_ids"]
    assert set(processor.tokenizer.convert_tokens_to_ids(BOX)) < set(ids)
    assert allowing.tokenizer(SAID)["input_ids"] == ids
    assert allowing.tokenizer.decode(ids, skip_special_tokens=True) == SAID.removesuffix("</s>")
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == "It is at (1,2),(3,4), é.", "stays as it is"
    assert list_special_tokens(processor.tokenizer) - list_special_tokens(allowing.tokenizer) == set(BOX)


def test_a_saved_processor_keeps_them_too(processor: Any, tmp_path: Path) -> None:
    allow_tokens(processor, BOX).tokenizer.save_pretrained(tmp_path)
    again = type(processor.tokenizer).from_pretrained(tmp_path)
    assert again.decode(again(SAID)["input_ids"], skip_special_tokens=True) == SAID.removesuffix("</s>")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("<image>", "is the base's image_token"),
        ("</s>", "is the base's eos_token"),
        ("<pad>", "is the base's pad_token"),
        ("<s>", "is the base's bos_token"),
        ("<start>", "is the base's vision_start_token"),
        ("<|box_strat|>", "is no special token of the base. Did you mean '<|box_start|>'?"),
        ("a", "is a plain token of the base"),
    ],
)
def test_a_token_that_cannot_be_allowed_is_named_with_the_reason(processor: Any, token: str, reason: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"data.special_tokens: '{token}' {reason}")):
        allow_tokens(processor, [*BOX, token])


def test_a_token_that_the_template_writes_forges_no_turn(processor: Any) -> None:
    before = processor.chat_template
    processor.chat_template = before + "{{ '<|box_end|>' }}"
    try:
        with pytest.raises(InputError, match=re.escape("chat template writes '<|box_end|>'")):
            allow_tokens(processor, BOX)
    finally:
        processor.chat_template = before


def test_without_tokens_the_processor_is_itself(processor: Any) -> None:
    assert allow_tokens(processor, []) is processor
