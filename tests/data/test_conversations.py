"""Conversations with a picture in every turn, for every family: pictures in their places, and no look ahead."""

from dataclasses import replace
from itertools import groupby, pairwise

import pytest
import torch
from PIL import Image

from lora_mm.data.collate import Collator
from lora_mm.data.encode import get_image_mark
from lora_mm.data.example import PICTURE, Example, Turn
from lora_mm.errors import InputError
from lora_mm.models.anatomy import get_placeholder_ids
from lora_mm.models.families import FAMILIES
from lora_mm.models.forward import IGNORE_INDEX
from lora_mm.models.loading import Base
from tests.helpers.bases import PROCESSORS

every_family = pytest.mark.parametrize("family", list(PROCESSORS))
PLAIN = [family for family in PROCESSORS if FAMILIES[family].template]
"""Families with a template of ours."""


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Two questions about a picture each, with their answers."""
    folder = tmp_path_factory.mktemp("pictures")
    red, blue = folder / "red.png", folder / "blue.png"
    Image.new("RGB", (20, 16), "red").save(red)
    Image.new("RGB", (20, 16), "blue").save(blue)
    first = (Turn("user", "What is this?", (red,)), Turn("assistant", "first"))
    return Example("talk", "And that one?", "second", (blue,), history=first)


def make_collator(base: Base) -> Collator:
    return Collator(base.processor, max_length=500)


def run(base: Base, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return base.model(**{name: value for name, value in batch.items() if name != "labels"}).logits[0]


@every_family
def test_each_picture_stands_in_its_turn(family: str, bases: dict[str, Base], talk: Example) -> None:
    made = make_collator(bases[family])
    batch = made([talk])
    ids = batch["input_ids"][0]
    placeholder = get_placeholder_ids(bases[family].model)["image"]
    text = made.tokenizer.decode(ids).replace(get_image_mark(made.processor), "#")
    text = text.replace(made.tokenizer.convert_ids_to_tokens(placeholder), "#")  # Aya's and Ovis' is another token
    pieces = ("What is this?", "first", "And that one?", "second")
    first, answer, second, last = (text.index(piece) for piece in pieces)
    assert first < answer < second < last
    assert "#" in text[:first]
    assert "#" not in text[first:answer]
    assert "#" in text[answer:second]
    assert "#" not in text[second:]
    assert sum(made.length(talk)) == len(ids)


@every_family
def test_no_two_turns_run_together(family: str, bases: dict[str, Base], talk: Example) -> None:
    made = make_collator(bases[family])
    spoken = replace(talk, images=(), history=(Turn("system", "Be brief."), *talk.history))
    text = made.tokenizer.decode(made([spoken])["input_ids"][0])
    pieces = ("Be brief.", "What is this?", "first", "And that one?", "second")
    assert all(piece in text for piece in pieces)
    assert not any(one + other in text for one, other in pairwise(pieces))


@pytest.mark.parametrize("family", PLAIN)
def test_neighbouring_turns_are_apart(family: str, bases: dict[str, Base], talk: Example) -> None:
    made = make_collator(bases[family])
    mark = made.processor.image_token if family == "fuyu" else "<image>"
    end = "<0x04>" if family == "fuyu" else "\n"
    begin = f"<s>{mark}" if family == "idefics" else f"{mark}<s>"
    assert made.render(talk) == (f"{begin}What is this?{end}first\n{mark}And that one?{end}", "second</s>")
    spoken = replace(talk, history=(Turn("system", "Be brief."), *talk.history))
    assert made.render(spoken)[0] == f"<s>Be brief.\n{mark}What is this?{end}first\n{mark}And that one?{end}"
    within = replace(talk, prompt=f"And {PICTURE} then?", history=())
    assert made.render(within)[0] == f"<s>And {mark} then?{end}"
    alone = replace(talk, history=())
    assert made.render(alone)[0] == f"{begin}And that one?{end}", "a picture and its question, as the base was trained"


def test_each_text_of_idefics_looks_at_the_picture_before_it(bases: dict[str, Base], talk: Example) -> None:
    made = make_collator(bases["idefics"])
    batch = made([talk])
    first, second = (batch["input_ids"][0] == made.processor.image_token_id).nonzero().flatten().tolist()
    looks = batch["image_attention_mask"][0]
    assert looks[:first].sum() == 0
    assert looks[first:second].tolist() == [[1, 0]] * (second - first)
    assert looks[second:].tolist() == [[0, 1]] * (len(looks) - second)


@every_family
def test_lengths_hold_for_neighbouring_and_separate_pictures(
    family: str, bases: dict[str, Base], talk: Example
) -> None:
    """Idefics writes one token between neighbouring pictures, and two around a picture between texts."""
    made = make_collator(bases[family])
    red, blue = talk.pictures
    for item in (
        replace(talk, images=(blue, red)),
        Example("apart", f"Is {PICTURE} like {PICTURE}?", "no", (red, blue)),
        Example("neighbours", f"Alike: {PICTURE}{PICTURE}", "no", (red, blue)),
    ):
        assert sum(made.length(item)) == made([item])["input_ids"].shape[1], item.id


@every_family
def test_nothing_before_an_answer_depends_on_it_or_on_what_follows(
    family: str, bases: dict[str, Base], talk: Example
) -> None:
    made = make_collator(bases[family])
    whole = made([talk])
    logits = run(bases[family], whole)
    starts = [run[0] for run in _list_supervised(whole)]
    for answer, other in (
        (0, replace(talk, history=(talk.history[0], Turn("assistant", "quite another one")))),
        (1, replace(talk, target="quite another one")),
        (0, replace(talk, prompt="Could you say more about the other one?")),
    ):
        before = starts[answer]
        batch = made([other])
        assert _list_supervised(batch)[answer][0] == before
        for name, value in whole.items():
            if value.dim() > 1 and value.shape[1] == whole["input_ids"].shape[1]:
                assert torch.equal(value[:, :before], batch[name][:, :before]), name
            elif other.prompt == talk.prompt:
                assert torch.equal(value, batch[name]), name
        torch.testing.assert_close(run(bases[family], batch)[:before], logits[:before], rtol=1e-5, atol=1e-5)


@every_family
def test_a_turn_is_asked_as_it_is_learnt(family: str, bases: dict[str, Base], talk: Example) -> None:
    """The prompt of a later turn, of an example and in a chat, is the beginning of the row that is trained on."""
    made = make_collator(bases[family])
    learnt = made([talk])
    for asked in (made.prompts([talk]), made.conversation(talk.turns[:-1])):
        length = asked["input_ids"].shape[1]
        assert length == _list_supervised(learnt)[-1][0]
        for name in ("input_ids", "token_type_ids"):
            if name in asked:
                assert torch.equal(asked[name][0], learnt[name][0, :length]), name


def test_a_question_too_long_for_the_q_former_is_a_fault_before_training(bases: dict[str, Base], talk: Example) -> None:
    made = Collator(bases["instructblip"].processor, max_length=5000)
    long = replace(talk, id="long", prompt="word " * 600)
    for read in (made.length, lambda item: made([item, talk]), lambda item: made.prompts([item])):
        with pytest.raises(InputError, match=r"^long: a turn with a picture has .* tokens for the Q-Former"):
            read(long)
    prepared = made.prepare([talk, long, replace(long, images=())], "error", "drop")
    assert [item.id for item in prepared.examples] == ["talk", "long"], (
        "without a picture, nothing reads it but the model"
    )
    assert len(prepared.faults) == 1


def _list_supervised(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    """The positions of each answer of the first row."""
    labels = (batch["labels"][0] != IGNORE_INDEX).tolist()
    return [[at for at, _ in run] for supervised, run in groupby(enumerate(labels), lambda pair: pair[1]) if supervised]
