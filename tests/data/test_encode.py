"""Batches of every family by its own real processor: rows with and without pictures, questions with their answers."""

import importlib.util
import io
import re

import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import AddedToken

from lora_mm.data.collate import Collator
from lora_mm.data.encode import EncoderRow, encode_rows
from lora_mm.data.example import PICTURE as IN_TEXT
from lora_mm.data.example import Example, Turn
from lora_mm.data.mask import decode_mask
from lora_mm.errors import InputError
from lora_mm.evaluation.predict import generate_answers
from lora_mm.models.families import FAMILIES
from lora_mm.models.forward import IGNORE_INDEX
from lora_mm.models.loading import Base
from lora_mm.models.processor import drop_video_processor
from tests.helpers.bases import LACKING, PROCESSORS
from tests.helpers.families import FAMILY
from tests.helpers.family_inputs import VOCABULARY
from tests.helpers.tiny import tiny_tokenizer

every_family = pytest.mark.parametrize("family", list(PROCESSORS))
OF_TOKENS = ("input_ids", "attention_mask", "labels", "token_type_ids", "mm_token_type_ids")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Without a picture, with one, with one of another shape and colour."""
    folder = tmp_path_factory.mktemp("pictures")
    wide, high = folder / "wide.png", folder / "high.png"
    Image.new("RGB", (40, 16), "red").save(wide)
    Image.new("RGB", (16, 20), "blue").save(high)
    return [
        Example("text", "Which of these many things would you take home?", "The answer is B. BECAUSE: so"),
        Example("wide", "Which?", "The answer is A.", (wide,)),
        Example("high", "Who\nis it?", "", (high,)),
    ]


def collator(base: Base) -> Collator:
    return Collator(base.processor, max_length=500)


def covered(family: str) -> set[str]:
    """What a test here bears out (see benchmarks/families.py)."""
    return {"processor"}


def test_every_family_has_a_processor_but_one_that_needs_more_than_is_here() -> None:
    assert set(FAMILIES) - set(PROCESSORS) == set(LACKING)
    if importlib.util.find_spec("num2words") is None:
        with pytest.raises(ImportError, match="num2words"):
            drop_video_processor(hf.SmolVLMProcessor)(hf.SmolVLMImageProcessorPil(), tiny_tokenizer(), None)


@every_family
def test_labels_are_the_answers_and_their_ends(family: str, bases: dict[str, Base], examples: list[Example]) -> None:
    made = collator(bases[family])
    batch = made(examples)
    for row, (item, labels) in enumerate(zip(examples, batch["labels"], strict=True)):
        mask = batch["attention_mask"][row]
        told = made.tokenizer.decode(labels[labels != IGNORE_INDEX])
        assert told.strip() == f"{item.target}</s>"
        assert (labels != IGNORE_INDEX).nonzero()[-1] == mask.nonzero()[-1], "the answer is the row's end"
        assert sum(made.length(item)) == mask.sum()
        whole = made.tokenizer.decode(batch["input_ids"][row][mask.bool()])
        assert whole.count("<s>") == (family not in NO_BEGINNING), "begun once"
        assert item.prompt in whole


NO_BEGINNING = {name for name, made in PROCESSORS.items() if not made.begins and made.mark is not None}
"""Families whose tokenizer here begins no text, as Qwen's."""


@every_family
@torch.no_grad()
def test_a_row_of_a_mixed_batch_is_the_row_alone(family: str, bases: dict[str, Base], examples: list[Example]) -> None:
    base = bases[family]
    made = collator(base)
    for build, side in ((made, "right"), (made.prompts, "left")):
        together = build(examples)
        logits = base.model(**{name: value for name, value in together.items() if name != "labels"}).logits
        for row, item in enumerate(examples):
            alone = build([item])
            length = alone["input_ids"].shape[1]
            real = slice(0, length) if side == "right" else slice(-length, None)
            for name in OF_TOKENS:
                if name in alone and name in together:
                    assert torch.equal(together[name][row, real], alone[name][0]), name
            assert together["attention_mask"][row].sum() == length
            if item.images or FAMILY[family].mixes:
                single = base.model(**{name: value for name, value in alone.items() if name != "labels"}).logits
                torch.testing.assert_close(logits[row, real], single[0], rtol=1e-3, atol=1e-3)


@every_family
def test_both_pictures_of_an_example_are_there(family: str, bases: dict[str, Base], examples: list[Example]) -> None:
    made = collator(bases[family])
    item = Example("two", "Alike?", "yes", (*examples[1].images, *examples[2].images))
    batch = made([item])
    assert sum(made.length(item)) == batch["input_ids"].shape[1]
    with torch.no_grad():
        logits = bases[family].model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    assert logits.isfinite().all()


@every_family
@pytest.mark.parametrize("again", [False, True])
def test_every_answer_of_a_conversation_is_supervised(
    family: str, again: bool, bases: dict[str, Base], examples: list[Example]
) -> None:
    """Also where a later turn has a picture too, so that tokens before it are not counted from the row's end."""
    made = collator(bases[family])
    history = (Turn("user", "Is it no?", examples[1].images), Turn("assistant", "yes it is"))
    item = Example("talk", "And is this no, yes it is?", "no", examples[2].images if again else (), history=history)
    supervised = [piece.text.strip() for piece in decode_mask(made, item) if piece.supervised]
    assert [text.removesuffix("</s>").strip() for text in supervised] == ["yes it is", "no"]
    batch = made([item])
    assert sum(made.length(item)) == batch["input_ids"].shape[1]
    with torch.no_grad():
        logits = bases[family].model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    assert logits.isfinite().all()


@every_family
def test_answers_are_written_without_their_prompts(
    family: str, bases: dict[str, Base], examples: list[Example]
) -> None:
    base = bases[family]
    made = collator(base)
    without_text = {*made.tokenizer.added_tokens_decoder, *range(len(made.tokenizer), VOCABULARY)}
    base.model.generation_config.suppress_tokens = sorted(without_text)  # a trained base would not write them
    texts = generate_answers(base.model, made, examples, batch_size=3, max_new_tokens=3)
    assert len(texts) == 3
    assert all(item.prompt not in text for item, text in zip(examples, texts, strict=True))
    assert any(texts)


@every_family
def test_no_text_spells_a_special_token(family: str, bases: dict[str, Base]) -> None:
    """Whoever types it, wherever, with a picture in the middle: the base never reads it as the token."""
    made = collator(bases[family])
    picture = Image.new("RGB", (8, 8))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    tokenizers = {made.tokenizer, getattr(made.processor, "qformer_tokenizer", made.tokenizer)}
    added = [token for tokenizer in tokenizers for token in tokenizer.added_tokens_decoder.values()]
    spellings = {token.content for token in added if token.special}
    assert {"<s>", "</s>", "<image>", "<start_of_video>"} <= spellings
    for spelling in spellings:
        cut = f"a{spelling[:2]} {IN_TEXT} {spelling[2:]}"
        said = (Turn("user", "Who?"), Turn("assistant", spelling))
        for item in (
            Example("typed", f"What is{spelling}?", "a"),
            Example("typed", "What?", spelling),
            Example("typed", "What?", "a", history=said),
            Example("typed", cut, "a", (stream.getvalue(),)),
        ):
            for read in (made.render, made.length, lambda item: made([item]), lambda item: made.prompts([item])):
                with pytest.raises(InputError, match=f"typed: the text contains .{re.escape(spelling)}., a special"):
                    read(item)
        with pytest.raises(InputError, match="user's turn: the text contains"):
            made.conversation([Turn("user", spelling)])


@every_family
def test_a_text_that_nearly_spells_a_special_token_is_text(family: str, bases: dict[str, Base]) -> None:
    made = collator(bases[family])
    special = {id: token.content for id, token in made.tokenizer.added_tokens_decoder.items() if token.special}
    near = " ".join(spelling[:-1] for spelling in list(special.values())[:20])
    plain, tricky = (made([Example("typed", text, "a")])["input_ids"] for text in ("What?", f"{near} < s >?"))
    assert tricky.shape[1] > plain.shape[1]
    count_plain, count_tricky = (sum(id in special for id in ids[0].tolist()) for ids in (plain, tricky))
    assert count_tricky == count_plain


def test_added_tokens_that_are_vocabulary_may_be_spelled(bases: dict[str, Base]) -> None:
    """PaliGemma's places in a picture, which its answers are made of."""
    made = collator(bases["paligemma"])
    ids = made([Example("found", "detect", "<loc0001>")])["input_ids"]
    assert made.tokenizer.convert_tokens_to_ids("<loc0001>") in ids


# --- put together by hand: as the processor does where it can -------------------------------------------------------

PICTURE = Image.new("RGB", (40, 16), "red")


def test_paligemmas_rows_are_its_processors_with_a_suffix(bases: dict[str, Base]) -> None:
    processor = bases["paligemma"].processor
    want = processor(text="<image>What is it?", suffix="Red.", images=PICTURE, return_tensors="pt")
    row = EncoderRow(
        "<image><s>What is it?\n",
        "Red.</s>",
        suffix=len(processor.tokenizer("Red.</s>")["input_ids"]),
        pictures=[PICTURE],
    )
    made = encode_rows(processor, [row], "right")
    for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values"):
        assert torch.equal(made[name], want[name]), name


@pytest.mark.parametrize("family", ["blip-2", "instructblip"])
def test_blips_rows_are_its_processors(family: str, bases: dict[str, Base]) -> None:
    processor = bases[family].processor
    processor.image_token = AddedToken("<image>")  # as it takes it from a tokenizer that does not name it
    want = processor(text="What is it?", images=PICTURE, return_tensors="pt")
    made = encode_rows(processor, [EncoderRow("<image><s>What is it?", "", 0, [PICTURE], ["What is it?"])], "right")
    assert set(made) == set(want) - {"token_type_ids"}
    for name in made:
        assert torch.equal(made[name], want[name]), name


def test_idefics_rows_are_its_processors(bases: dict[str, Base]) -> None:
    processor = bases["idefics"].processor
    want = processor(text=[[PICTURE, "What is it?"], ["Why?"]], return_tensors="pt", padding_side="left")
    rows = [EncoderRow("<s><image>What is it?", "", 0, [PICTURE]), EncoderRow("<s>Why?", "", 0)]
    made = encode_rows(processor, rows, "left")
    real = want["attention_mask"].bool()
    for name in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(made[name], want[name]), name
    assert torch.equal(made["image_attention_mask"][real].bool(), want["image_attention_mask"][real].bool())


def test_fuyus_patches_are_its_processors_line_by_line(bases: dict[str, Base]) -> None:
    processor = bases["fuyu"].processor
    made = encode_rows(processor, [EncoderRow("|SPEAKER|<s>What?<0x04>", "", 0, [PICTURE])], "right")
    pixels = processor.image_processor([PICTURE])
    assert pixels["image_unpadded_heights"] == [[9]]  # 40 × 16 made to fit into 24 × 16
    reached = pixels["images"][0][0][:, :12]
    patches = torch.as_tensor(processor.image_processor.patchify_image(reached))
    assert torch.equal(made["pixel_values"], patches)
    text = processor.tokenizer.decode(made["input_ids"][0])
    assert text == ("|SPEAKER|" * 6 + "|NEWLINE|") * 3 + "<s>What?<0x04>"
