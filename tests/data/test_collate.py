"""Batches by the model's own processor: labels on the answer alone, padding, lengths, and what is too long."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor

from lora_mm.data.collate import Collator, split_into_batches
from lora_mm.data.example import PICTURE as MARK
from lora_mm.data.example import Example, Turn
from lora_mm.data.slicing import Slicer
from lora_mm.errors import InputError
from lora_mm.models.fitting import make_fitter
from lora_mm.models.forward import IGNORE_INDEX
from lora_mm.models.loading import load_base
from lora_mm.models.picture_fit import Fit
from tests.helpers.bases import make_family_base
from tests.helpers.tiny import TEMPLATE

ENDING = "{% if message['role'] == 'assistant' %}{{ '</s>\n' }}{% endif %}"
WITH_END = TEMPLATE.replace("{% endfor %}{% if add_generation", ENDING + "{% endfor %}{% if add_generation")
PICTURE = 4  # placeholders of one picture


@pytest.fixture(scope="module")
def processor(base_folder: Path) -> Any:
    return AutoProcessor.from_pretrained(base_folder)


@pytest.fixture(scope="module")
def collator(processor: Any) -> Collator:
    return Collator(processor, max_length=1000)


@pytest.fixture
def templated(processor: Any) -> Iterator[Any]:
    """The processor, whose template a test may change."""
    before = processor.chat_template
    yield processor
    processor.chat_template = before


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.new("RGB", (20, 16), "red").save(file)
    return file


def mixed(picture: Path) -> list[Example]:
    return [
        Example("1", "Which?", "The answer is A.", (picture,)),
        Example("2", "Which of these many things, say, would you take home?", "The answer is B. BECAUSE: so"),
        Example("3", "Who\nis\nit?", "", (picture,)),
        Example("4", "", "ASSISTANT: yes"),
    ]


def answers(collator: Collator, batch: dict[str, torch.Tensor]) -> list[str]:
    return [collator.tokenizer.decode(row[row != IGNORE_INDEX]) for row in batch["labels"]]


def test_labels_are_exactly_the_answer_and_its_end(collator: Collator, picture: Path) -> None:
    batch = collator(mixed(picture))
    assert answers(collator, batch) == [
        " The answer is A.</s>",
        " The answer is B. BECAUSE: so</s>",
        "</s>",
        " ASSISTANT: yes</s>",
    ]


def test_labels_are_the_end_of_each_row_and_equal_its_tokens(collator: Collator, picture: Path) -> None:
    batch = collator(mixed(picture))
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        supervised = (labels != IGNORE_INDEX).nonzero().squeeze(1).tolist()
        length = int(mask.sum())
        assert supervised == list(range(supervised[0], length))
        assert torch.equal(labels[supervised], ids[supervised])
        assert mask[:length].all(), "padded on the right"
        assert (labels[length:] == IGNORE_INDEX).all()


def test_prompt_and_answer_are_the_rendered_exchange(collator: Collator, picture: Path) -> None:
    examples = mixed(picture)
    batch = collator(examples)
    for item, ids, mask in zip(examples, batch["input_ids"], batch["attention_mask"], strict=True):
        prompt, target = collator.render(item)
        text = collator.tokenizer.decode(ids[mask.bool()])
        assert text.replace("<image>" * PICTURE, "<image>") == prompt + target


def test_padding_changes_nothing(collator: Collator, picture: Path) -> None:
    examples = mixed(picture)
    together = collator(examples)
    for row, item in enumerate(examples):
        single = collator([item])
        length = single["input_ids"].shape[1]
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(together[name][row, :length], single[name][0])
            assert (together[name][row, length:] == (IGNORE_INDEX if name == "labels" else 0)).all()


def test_pictures_are_in_the_order_of_their_rows(collator: Collator, picture: Path, tmp_path: Path) -> None:
    blue = tmp_path / "blue.png"
    Image.new("RGB", (20, 16), "blue").save(blue)
    first, second = Example("1", "a", "b", (picture,)), Example("2", "c", "d", (blue,))
    batch = collator([first, Example("3", "e", "f"), second])
    assert batch["pixel_values"].shape == (2, 3, 16, 16)
    assert torch.equal(batch["pixel_values"][0], collator([first])["pixel_values"][0])
    assert torch.equal(batch["pixel_values"][1], collator([second])["pixel_values"][0])
    assert "pixel_values" not in collator([Example("3", "e", "f")])


def test_an_example_with_two_pictures_keeps_both(collator: Collator, picture: Path) -> None:
    item = Example("1", "Alike?", "yes", (picture, picture))
    batch = collator([item])
    assert int((batch["input_ids"] == 3).sum()) == 2 * PICTURE
    assert batch["pixel_values"].shape[0] == 2
    assert sum(collator.length(item)) == batch["input_ids"].shape[1]
    assert answers(collator, batch) == [" yes</s>"]


def test_lengths_are_those_of_the_batch(collator: Collator, picture: Path) -> None:
    for item in mixed(picture):
        before, answer = collator.length(item)
        batch = collator([item])
        assert before + answer == batch["input_ids"].shape[1]
        assert answer == int((batch["labels"] != IGNORE_INDEX).sum())


def test_prompts_are_padded_on_the_left_and_end_where_the_assistant_speaks(collator: Collator, picture: Path) -> None:
    examples = mixed(picture)
    batch = collator.prompts(examples)
    assert "labels" not in batch
    for item, ids, mask in zip(examples, batch["input_ids"], batch["attention_mask"], strict=True):
        length = int(mask.sum())
        assert mask[-length:].all()
        assert length == collator.length(item)[0]
        text = collator.tokenizer.decode(ids[-length:])
        assert text.endswith("ASSISTANT:")
        assert text.replace("<image>" * PICTURE, "<image>") == collator.render(item)[0]


def test_prompts_may_begin_the_answer(collator: Collator) -> None:
    batch = collator.prompts([Example("1", "Which?", "")], " The answer is")
    assert collator.tokenizer.decode(batch["input_ids"][0]).endswith("ASSISTANT: The answer is")


# --- too long ------------------------------------------------------------------------------------------------------


def sized(processor: Any, item: Example, spare: int) -> Collator:
    """A collator whose limit is ``spare`` tokens above the length of ``item``."""
    return Collator(processor, max_length=sum(Collator(processor, max_length=1000).length(item)) + spare)


LONG = Example("long", "Which?", "The answer is A. BECAUSE: it is the first of all the letters.")


def test_what_just_fits_is_kept_and_one_token_more_is_not(processor: Any) -> None:
    fits = sized(processor, LONG, 0).prepare([LONG], "error")
    assert (list(fits.examples), fits.dropped, fits.truncated) == ([LONG], [], [])
    assert list(fits.lengths) == [sized(processor, LONG, 0).max_length]
    with pytest.raises(InputError, match=r"long: (\d+) tokens, more than data.max_length") as error:
        sized(processor, LONG, -1).prepare([LONG], "error")
    assert error.value.faults[0].endswith("raise it, or set data.overlong to drop or truncate")


def test_all_overlong_examples_are_named_up_to_ten(processor: Any) -> None:
    examples = [Example(f"id{number}", LONG.prompt, LONG.target) for number in range(13)]
    with pytest.raises(InputError) as error:
        sized(processor, LONG, -1).prepare([*examples, Example("short", "a", "b")], "error")
    assert [line.split(":")[0] for line in error.value.faults[:10]] == [f"id{number}" for number in range(10)]
    assert error.value.faults[10] == "… and 3 more"


def test_dropped_examples_are_counted_by_id(processor: Any) -> None:
    short = Example("short", "Which?", "A")
    found = sized(processor, LONG, -1).prepare([short, LONG], "drop")
    assert (list(found.examples), found.dropped, found.truncated) == ([short], ["long"], [])
    assert len(found.lengths) == 1


def test_truncation_cuts_the_answers_end_only(processor: Any, picture: Path) -> None:
    item = Example("long", LONG.prompt, LONG.target, (picture,))
    collator = sized(processor, item, -3)
    found = collator.prepare([item], "truncate")
    assert (list(found.examples), found.truncated, list(found.lengths)) == ([item], ["long"], [collator.max_length])
    whole = Collator(processor, max_length=1000)([item])
    cut = collator([item, Example("short", "a", "b")])
    assert cut["input_ids"].shape[1] == cut["labels"].shape[1] == cut["attention_mask"].shape[1] == collator.max_length
    assert torch.equal(cut["labels"][0], whole["labels"][0, :-3])
    assert torch.equal(cut["input_ids"][0], whole["input_ids"][0, :-3])
    assert int((cut["input_ids"][0] == 3).sum()) == PICTURE


@pytest.mark.parametrize("overlong", ["error", "truncate"])
def test_a_prompt_that_fills_the_limit_is_a_fault_so_no_picture_is_cut(
    processor: Any, picture: Path, overlong: Any
) -> None:
    item = Example("wide", "Which?", "A", (picture,))
    before, _ = Collator(processor, max_length=1000).length(item)
    collator = Collator(processor, max_length=before)
    with pytest.raises(InputError, match=f"wide: {before} tokens before the answer; data.max_length="):
        collator.prepare([item], overlong)
    with pytest.raises(InputError, match=f"wide: {before} tokens before the answer; data.max_length="):
        collator([item])
    assert Collator(processor, max_length=before + 1).prepare([item], "truncate").truncated == ["wide"]


# --- templates -----------------------------------------------------------------------------------------------------


def test_a_template_that_ends_the_turn_itself_gets_no_second_end(templated: Any) -> None:
    templated.chat_template = WITH_END
    item = Example("1", "Which?", "The answer is A.")
    collator = Collator(templated, max_length=1000)
    assert collator.render(item)[1] == " The answer is A. </s>"
    assert answers(collator, collator([item])) == [" The answer is A. </s>"]


def test_a_template_that_changes_the_prompt_once_it_is_answered_is_refused(templated: Any) -> None:
    templated.chat_template = "{{ messages | length }} turns" + TEMPLATE
    collator = Collator(templated, max_length=1000)
    with pytest.raises(InputError, match="7: the base's chat template renders the prompt differently with an answer"):
        collator([Example("7", "Which?", "A")])


def test_a_processor_without_template_is_refused(templated: Any) -> None:
    templated.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        Collator(templated, max_length=1000)


def test_a_tokenizer_without_padding_pads_with_its_end_which_keeps_its_label(base_folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(base_folder)
    processor.tokenizer.pad_token = None
    collator = Collator(processor, max_length=1000)
    batch = collator([Example("1", "Which?", "A"), Example("2", "Which?", "The answer is A.")])
    assert answers(collator, batch) == [" A</s>", " The answer is A.</s>"]


@pytest.mark.parametrize("field", ["prompt", "target"])
@pytest.mark.parametrize("token", ["<image>", "</s>", "<pad>", "<s>"])
def test_a_text_that_holds_a_special_token_is_refused_by_name(collator: Collator, field: str, token: str) -> None:
    """It would be read as a picture that is not there, or as the end of the answer."""
    turns = {"prompt": "Which?", "target": "A"} | {field: f"What is {token} for?"}
    spoilt = Example("7", **turns)
    for use in (collator.render, lambda item: collator([item]), lambda item: collator.prepare([item], "error")):
        with pytest.raises(InputError) as error:
            use(spoilt)
        assert "7: " in str(error.value)
        assert token in str(error.value)


# --- conversations -------------------------------------------------------------------------------------------------

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NUMBERED = CHATML.replace("'<|im_start|>'", "loop.index ~ '. '").replace(
    "'<|im_start|>assistant", "(messages | length + 1) ~ '. assistant"
)
THINKING = CHATML.replace("else part['text'] }}", "else part['text'].split('##')[-1] | trim }}")
TEMPLATES = {
    "no ends": (TEMPLATE, ["", "", "</s>"]),
    "ends of turns": (CHATML, ["<|im_end|>", "<|im_end|>", "<|im_end|></s>"]),
    "ends of sequences": (WITH_END, [" </s>", " </s>", " </s>"]),
    "numbers": (NUMBERED, ["<|im_end|>", "<|im_end|>", "<|im_end|></s>"]),
    "thoughts left out": (THINKING, ["<|im_end|>", "<|im_end|>", "<|im_end|></s>"]),
}


def conversation(*later: Path, first: tuple[Path, ...] = (), thought: str = "") -> Example:
    history = (
        Turn("system", "Be short."),
        Turn("user", "Is it red? yes", first),
        Turn("assistant", f"{thought}yes"),
        Turn("user", "yes or no?"),
        Turn("assistant", "yes, it\nis"),
    )
    return Example("talk", "yes?", "no", later, history=history)


def runs(collator: Collator, batch: dict[str, torch.Tensor]) -> list[str]:
    """What is learnt, in runs that are not broken by anything else."""
    [labels] = batch["labels"].tolist()
    texts: list[list[int]] = [[]]
    for label in labels:
        if label == IGNORE_INDEX and texts[-1]:
            texts.append([])
        elif label != IGNORE_INDEX:
            texts[-1].append(label)
    return [collator.tokenizer.decode(ids) for ids in texts if ids]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("shown", ["nothing", "first", "last", "both"])
def test_every_turn_of_the_assistant_is_learnt_by_any_template_and_nothing_else(
    templated: Any, picture: Path, name: str, shown: str
) -> None:
    templated.chat_template, ends = TEMPLATES[name]
    item = conversation(
        *[picture] * (shown in ("last", "both")),
        first=(picture,) * (shown in ("first", "both")),
        thought="hm ##" if name == "thoughts left out" else "",
    )
    collator = Collator(templated, max_length=1000)
    batch = collator([item])
    told = [text.lstrip() for text in runs(collator, batch)]
    assert told == [said + end for said, end in zip(["yes", "yes, it\nis", "no"], ends, strict=True)]
    assert sum(collator.length(item)) == batch["input_ids"].shape[1]
    assert int((batch["input_ids"] == 3).sum()) == PICTURE * len(item.pictures)


def test_a_picture_stands_where_its_turn_has_it(templated: Any, picture: Path) -> None:
    templated.chat_template = CHATML
    collator = Collator(templated, max_length=1000)
    for text, written in (
        (f"Is {MARK} like {MARK}?", "Is <image> like <image>?"),
        (f"See {MARK}{MARK}", "See <image><image>"),
        ("Alike?", "<image><image>Alike?"),
    ):
        assert written in collator.render(Example("1", text, "no", (picture, picture)))[0]


def test_a_template_that_puts_pictures_first_writes_no_trace_of_their_places(collator: Collator, picture: Path) -> None:
    asked = "USER: <image>\nWhich? ASSISTANT:"
    for text in ("Which?", f"{MARK}Which?", f"Which?{MARK}"):
        assert collator.render(Example("1", text, "this", (picture,)))[0] == asked
    assert collator.render(Example("1", MARK, "this", (picture,)))[0] == "USER: <image>\n ASSISTANT:"


def test_a_place_without_a_picture_is_a_fault(collator: Collator, picture: Path) -> None:
    for item in (Example("7", f"See {MARK}", "A"), Example("7", f"See {MARK}", "A", (picture, picture))):
        with pytest.raises(InputError, match=f"7: 1 picture marks but {len(item.images)} pictures"):
            collator.render(item)


def test_a_cut_conversation_loses_its_last_turns_but_no_picture(processor: Any, picture: Path) -> None:
    item = conversation(first=(picture,))
    whole = Collator(processor, max_length=1000)
    needed, _ = whole.length(item)
    assert needed < sum(whole.length(item)) - 30, "up to the first answer behind the picture"
    shorter = Collator(processor, max_length=needed + 3)
    assert shorter.prepare([item], "truncate").truncated == ["talk"]
    cut, batch = shorter([item]), whole([item])
    assert torch.equal(cut["labels"], batch["labels"][:, : needed + 3])
    assert (cut["labels"] != IGNORE_INDEX).any()
    late = conversation(picture)
    needed, _ = whole.length(late)
    with pytest.raises(InputError, match=f"talk: {needed} tokens before the answer; data.max_length="):
        Collator(processor, max_length=needed).prepare([late], "truncate")


def test_a_template_that_refuses_a_conversation_is_told(templated: Any) -> None:
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system, please') }}{% endif %}"
    templated.chat_template = refusal + TEMPLATE
    with pytest.raises(InputError, match="talk: the base's chat template refuses the conversation: no system, please"):
        Collator(templated, max_length=1000).render_supervised(conversation())


def test_a_turn_that_the_template_leaves_out_is_a_fault(templated: Any) -> None:
    templated.chat_template = THINKING.replace("<|im_end|>", "").replace("##", "yes")
    with pytest.raises(InputError, match="talk: the base's chat template leaves out one of the assistant's turns"):
        Collator(templated, max_length=1000).render_supervised(conversation())


def test_faulty_examples_are_left_out_and_named_where_that_is_asked_for(collator: Collator) -> None:
    spoilt = Example("7", "What is </s> for?", "A")
    found = collator.prepare([spoilt, LONG], "error", "drop")
    assert list(found.examples) == [LONG]
    assert [fault.split(":")[0] for fault in found.faults] == ["7"]


# --- any text ------------------------------------------------------------------------------------------------------

SPECIAL = ("<image>", "</s>", "<pad>", "<s>", MARK)
texts = st.text(max_size=30).filter(lambda text: not any(token in text for token in SPECIAL))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(texts, texts, st.booleans()), min_size=1, max_size=3))
@example([("ASSISTANT:", " A", False), ("a\u0301", "\u0301", True)])
@example([("Which?", "  \n lines \n", False)])
@example([("{{ messages }}", "{% if %}", True)])
@example([("ASSISTANT", ": ASSISTANT:", False)])
def test_whatever_the_texts_the_labels_are_the_answer_and_its_end(
    collator: Collator, picture: Path, exchanges: list[tuple[str, str, bool]]
) -> None:
    examples = [
        Example(str(number), prompt, target, (picture,) if pictured else ())
        for number, (prompt, target, pictured) in enumerate(exchanges)
    ]
    batch = collator(examples)
    assert answers(collator, batch) == [(" " + target).rstrip() + "</s>" for _, target, _ in exchanges]
    for item, ids, mask, labels in zip(
        examples, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        before, answer = collator.length(item)
        assert before + answer == int(mask.sum())
        assert answer == int((labels != IGNORE_INDEX).sum())
        prompt = collator.tokenizer.decode(ids[:before]).replace("<image>" * PICTURE, "<image>")
        assert prompt == collator.render(item)[0]
        assert item.prompt in prompt


def test_batches_cover_everything_once_in_order() -> None:
    items = [Example(str(number), "", "") for number in range(7)]
    runs = list(split_into_batches(items, 3))
    assert [len(run) for run in runs] == [3, 3, 1]
    assert [item for run in runs for item in run] == items


# --- conversations ---------------------------------------------------------------------------------------------------


def test_a_conversation_of_one_turn_is_the_prompt_of_an_example(collator: Collator, picture: Path) -> None:
    for images in ((), (picture,), (picture, picture)):
        said = collator.conversation([Turn("user", "Which?", images)])
        asked = collator.prompts([Example("1", "Which?", "", images)])
        assert set(said) == set(asked)
        assert all(torch.equal(said[name], asked[name]) for name in said)


def test_a_conversation_is_all_that_was_said_each_picture_at_its_turn(
    collator: Collator, picture: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "blue.png")
    batch = collator.conversation(
        [
            Turn("user", "Which is it?", (picture,)),
            Turn("assistant", "Red."),
            Turn("user", "And this?", (tmp_path / "blue.png",)),
        ]
    )
    text = collator.tokenizer.decode(batch["input_ids"][0])
    mark = "<image>" * PICTURE
    assert text == f"USER: {mark}\nWhich is it? ASSISTANT: Red. USER: {mark}\nAnd this? ASSISTANT:"
    red, blue = (pixels.mean(dim=(1, 2)) for pixels in batch["pixel_values"])
    assert red.argmax() == 0
    assert blue.argmax() == 2
    assert batch["attention_mask"].all()


def test_a_conversations_pictures_are_cut_as_an_examples_are(processor: Any, picture: Path) -> None:
    collator = Collator(processor, max_length=1000, slicer=Slicer(2, 2, 16))
    batch = collator.conversation(
        [Turn("user", "Which?", (picture,)), Turn("assistant", "Red."), Turn("user", "Sure?")]
    )
    assert int((batch["input_ids"] == 3).sum()) == 5 * PICTURE
    assert batch["pixel_values"].shape[0] == 5


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_turn_that_holds_a_special_token_is_refused_by_its_speaker(collator: Collator, role: Any) -> None:
    with pytest.raises(InputError, match=f"{role}'s turn: the text contains '<image>'"):
        collator.conversation([Turn("user", "Which?"), Turn(role, "Is it <image>?")])


def test_placeholders_are_counted_for_the_fitted_picture(tmp_path: Path) -> None:
    base = load_base(str(make_family_base(tmp_path / "base", "qwen2_vl")))
    Image.new("RGB", (64, 8), "red").save(tmp_path / "wide.png")
    item = Example("wide", "Which?", "This.", (tmp_path / "wide.png",))
    lengths = {}
    for fit in get_args(Fit):
        collator = Collator(base.processor, max_length=1000, fitter=make_fitter(base.processor, fit, one_view=False))
        lengths[fit] = sum(collator.length(item))
        assert lengths[fit] == collator([item])["input_ids"].shape[1]
    assert lengths["pad"] == lengths["squash"] > lengths["crop"]
