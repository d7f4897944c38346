"""Rows of every layout as examples: which layout is detected, what is ambiguous, and what is wrong with a row."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_mm.data.cells import PictureFolder
from lora_mm.data.example import PICTURE, Example, Turn
from lora_mm.data.layouts import LAYOUTS, RowReader, detect_layout
from lora_mm.data.row_context import RESPONSES, RowContext
from lora_mm.errors import InputError
from lora_mm.recipe.columns import COLUMNS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4), "red").save(folder / name)
    return folder


def read(root: Path, row: dict[str, Any], layout: str | None = None, **more: Any) -> Example:
    columns = more.pop("columns", {})
    context = RowContext(PictureFolder(root), **more)
    return RowReader(layout or detect_layout(list(row), columns), columns, context)(row, "rows:1")


def faults(root: Path, row: dict[str, Any], layout: str, **more: Any) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read(root, row, layout, **more)
    return caught.value.faults


# --- detection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "layout"),
    [
        (["messages", "images"], "messages"),
        (["id", "image", "conversations"], "conversations"),
        (["question", "choices", "answer", "image"], "multiple_choice"),
        (["index", "question", "hint", "A", "B", "C", "D", "answer"], "multiple_choice"),
        (["image", "query", "response"], "question_answer"),
        (["question_id", "question", "answers"], "question_answer"),
        (["file_name", "text"], "caption"),
    ],
)
def test_layouts_are_detected_by_their_columns(columns: list[str], layout: str) -> None:
    assert detect_layout(columns, {}) == layout


@pytest.mark.parametrize(
    ("columns", "named", "said"),
    [
        (
            ["messages", "conversations"],
            {},
            "messages and conversations fit. Columns: messages, conversations. Choose one: --set data.layout=messages",
        ),
        (["foo", "bar"], {}, "no layout fits. Columns: foo, bar. Name the columns"),
        (
            ["question", "answer", "answers"],
            {},
            "data.columns.answer: answer and answers fit. Choose one",
        ),
        (["question", "answer"], {"question": "qustion"}, "no column 'qustion'. Did you mean 'question'?"),
    ],
)
def test_what_is_ambiguous_or_unknown_names_the_columns_and_the_way_out(
    columns: list[str], named: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said.replace("(", "\\(").replace("?", "\\?")):
        detect_layout(columns, named)


def test_columns_and_layout_can_be_set(root: Path) -> None:
    named = {"question": "frage", "answer": "text"}
    assert detect_layout(["frage", "text", "caption"], named) == "question_answer"
    assert read(root, {"frage": "Wer?", "text": "ich", "caption": "nix"}, columns=named).target == "ich"
    assert detect_layout(["messages", "conversations"], {}, "messages") == "messages"


def test_every_layout_needs_what_can_be_read() -> None:
    for layout in LAYOUTS.values():
        assert {*layout.needs, *layout.lacks} <= set(COLUMNS)


# --- conversations -------------------------------------------------------------------------------------------------


def test_llava_conversations(root: Path) -> None:
    row = {
        "id": "7",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhich?"},
            {"from": "gpt", "value": "This."},
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "Yes."},
        ],
    }
    example = read(root, row)
    assert example.turns == (
        Turn("user", "Which?", (root / "a.png",)),
        Turn("assistant", "This."),
        Turn("user", "Sure?"),
        Turn("assistant", "Yes."),
    )
    assert (example.id, example.prompt, example.target, example.images) == ("7", "Sure?", "Yes.", ())
    assert example.pictures == (root / "a.png",)


def test_messages_with_parts_and_a_system_turn(root: Path) -> None:
    row = {
        "messages": [
            {"role": "system", "content": "Be short."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Is"},
                    {"type": "image"},
                    {"type": "text", "text": "like"},
                    {"type": "image", "image": "b.png"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
        ],
        "images": [{"bytes": b"encoded", "path": "x.png"}],
    }
    example = read(root, row)
    assert example.history == (Turn("system", "Be short."),)
    assert example.prompt == f"Is\n{PICTURE}\nlike{PICTURE}"
    assert example.images == (b"encoded", root / "b.png")
    assert example.id == "rows:1", "called by its row where it has no id"


@pytest.mark.parametrize(
    ("said", "read_as"),
    [
        ("<image>\nWhich?", "Which?"),
        (" <image>\n<image>\nWhich?\n", "Which?"),
        ("Which?\n<image>", f"Which?{PICTURE}"),
        ("Which?\n<image>\n<image> ", f"Which?{PICTURE}{PICTURE}"),
        ("<image>\nWhich?\n<image>", f"{PICTURE}Which?{PICTURE}"),
        ("<image>\nIs\n<image>\nred?", f"{PICTURE}Is\n{PICTURE}\nred?"),
        ("<image>", ""),
    ],
)
def test_the_ends_of_a_users_turn_are_stripped_around_its_marks(root: Path, said: str, read_as: str) -> None:
    row = {"conversations": turns(said, "This."), "image": ["a.png"] * said.count("<image>")}
    assert read(root, row).prompt == read_as
    assert len(read(root, row).images) == said.count("<image>")


def test_a_mark_at_the_end_stays_behind_the_instruction(root: Path) -> None:
    row = {"conversations": turns("Which?\n<image>", "This."), "image": "a.png"}
    assert read(root, row, response="letter").prompt == f"Which?\n{RESPONSES['letter']}{PICTURE}"


def test_null_keys_of_parts_are_ignored(root: Path) -> None:
    """A table gives every part all keys."""
    content = [{"type": "image", "text": None}, {"type": "text", "text": "Which?"}]
    row = {
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "This."}],
        "images": ["a.png"],
    }
    assert read(root, row).turns[0] == Turn("user", "Which?", (root / "a.png",))


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("said", "image", "fault"),
    [
        (turns("<image> Which?", "This."), None, "1 <image> mark but 0 pictures"),
        (turns("Which?", "This."), "a.png", "0 <image> marks but 1 picture$"),
        (turns("<image><image> Which?", "This."), ["a.png"], "2 <image> marks but 1 picture"),
        (turns("Which?"), None, "the last turn is the user's: no answer to learn"),
        (turns("Which?", " "), None, "turn 1: content: empty"),
        (turns("Which?", "<image>"), "a.png", "turn 1: a picture in the assistant's turn"),
        (turns("Which?", "This.")[::-1], None, "turn 0: role is assistant, expected user or system"),
        ([{"from": "robot", "value": "x"}], None, 'turn 0: unknown role "robot". Known: user, human'),
        ([{"from": "human", "value": 3}], None, "turn 0: content: 3 is neither text nor a list"),
        (["hello"], None, 'turn 0: "hello" is not an object'),
        ([{"role": "user", "content": [{"type": "video"}]}], None, "is not a part of type text or image"),
        ([], None, r"\[\] is not a list of turns"),
        ("hello", None, '"hello" is not a list of turns'),
    ],
)
def test_what_is_wrong_with_a_conversation(root: Path, said: Any, image: Any, fault: str) -> None:
    import re

    told = faults(root, {"conversations": said, "image": image}, "conversations")
    assert re.search(fault, " ".join(told)), told


# --- questions -----------------------------------------------------------------------------------------------------


def test_questions_and_captions(root: Path) -> None:
    example = read(root, {"id": 3, "question": "Which?", "answer": " this ", "image": "a.png"})
    assert example == Example("3", "Which?", "this", (root / "a.png",))
    assert read(root, {"question": "Which?", "answer": "this", "image": ""}).images == ()
    assert read(root, {"question": "Which?", "hint": "Look.", "answer": "this"}).prompt == "Look.\nWhich?"
    caption = read(root, {"file_name": "a.png", "text": "Red."}, question="What is there?")
    assert (caption.prompt, caption.target) == ("What is there?", "Red.")
    assert faults(root, {"file_name": "a.png", "text": "Red."}, "caption") == (
        "question: the row has none; set data.question for all rows",
    )


def test_several_peoples_answers_are_all_right_and_the_most_frequent_is_learnt(root: Path) -> None:
    for answers in (["red", "blue", "blue"], [{"answer": "red"}, {"answer": "blue"}, {"answer": "blue"}]):
        example = read(root, {"question": "Which?", "answers": answers})
        assert (example.target, example.references) == ("blue", ("red", "blue", "blue"))


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (2, "answer: 2 is the index of choice 2 and the text of choice 1, counted from 0; say which is meant: "
            "--set data.answer=index or --set data.answer=text"),
        ("2", '"2" is the index of choice 2 and the text of choice 1'),
        ("1", '"1" is the index of choice 1 and the text of choice 0'),
    ],
)  # fmt: skip
def test_an_answer_that_names_two_choices_is_a_fault_until_its_form_is_set(root: Path, answer: Any, fault: str) -> None:
    row = {"question": "How many?", "choices": ["1", "2", "3"], "answer": answer}
    assert fault in faults(root, row, "multiple_choice")[0]
    assert read(root, row, answer="index").answer == int(answer)
    assert read(root, row, answer="text").answer == int(answer) - 1
    with pytest.raises(InputError, match="is not the letter of any of the choices"):
        read(root, row, answer="letter")


def test_an_answer_that_names_one_choice_in_two_ways_is_clear(root: Path) -> None:
    for choices in (["0", "1", "2"], ["red", "B", "1"]):
        assert read(root, {"question": "Q", "choices": choices, "answer": choices[1]}).answer == 1


@pytest.mark.parametrize(("form", "answer"), [("index", "1"), ("index", 1), ("letter", "(B)"), ("text", "1")])
def test_an_answer_in_the_form_that_is_set(root: Path, form: Any, answer: Any) -> None:
    row = {"question": "Q", "choices": ["A", "1", "B"], "answer": answer}
    assert read(root, row, answer=form).answer == 1


@pytest.mark.parametrize(
    ("layout", "row", "other"),
    [
        ("question_answer", {"question": "Q", "choices": ["a", "b"], "answer": "B"}, "multiple_choice"),
        ("question_answer", {"question": "Q", "A": "a", "B": "b", "answer": "B"}, "multiple_choice"),
        ("caption", {"question": "Q", "answer": "x", "image": "a.png"}, "question_answer"),
        ("messages", {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
                      "question": "Q", "answer": "B"}, "question_answer"),
    ],
)  # fmt: skip
def test_a_row_of_another_layout_than_the_first_rows_is_a_fault(
    root: Path, layout: str, row: dict[str, Any], other: str
) -> None:
    reader = RowReader(layout, {}, RowContext(PictureFolder(root), "What?"), detected=True)
    with pytest.raises(InputError, match=f"columns of {other}, but the first rows those of {layout}; put rows"):
        reader(row, "rows:300")
    chosen = RowReader(layout, {}, RowContext(PictureFolder(root), "What?"))
    assert chosen(row, "rows:300").target, "the layout was set for all rows"


@pytest.mark.parametrize("answer", [1, "B", "(B)", "B.", "two", "1"])
def test_choices_by_index_letter_or_words(root: Path, answer: Any) -> None:
    row = {"question": "Which?", "choices": ["one", "two", "three"], "answer": answer}
    example = read(root, row)
    assert example.prompt == "Which?\n(A) one\n(B) two\n(C) three"
    assert (example.target, example.candidates, example.answer) == ("two", ("one", "two", "three"), 1)
    lettered = read(root, row, response="letter")
    assert (lettered.target, lettered.candidates, lettered.references) == ("B", ("A", "B", "C"), ("B",))
    assert lettered.prompt.endswith("\n" + RESPONSES["letter"])


def test_choices_in_cells_of_text(root: Path) -> None:
    assert read(root, {"question": "Q", "choices": '["x", "y"]', "answer": "y"}).answer == 1
    row = {"question": "Q", "A": "x", "B": "y", "C": "", "D": None, "answer": "B"}
    assert read(root, row).candidates == ("x", "y")


def test_columns_that_hold_a_choice_each_are_read(root: Path) -> None:
    columns = ["question", "A", "B", "C", "D", "answer", "split"]
    reader = RowReader("multiple_choice", {}, RowContext(PictureFolder(root)))
    assert reader.find_unread(columns) == ["split"]
    assert reader.find_unread([*columns, "choices"]) == ["A", "B", "C", "D", "split"]
    open_reader = RowReader("question_answer", {}, RowContext(PictureFolder(root)))
    assert open_reader.find_unread(columns) == ["A", "B", "C", "D", "split"]


@pytest.mark.parametrize(
    ("choices", "answer", "fault"),
    [
        (["a", "b"], 2, "2 is out of range"),
        (["a", "b"], "c", '"c" is not the index, letter or text of any of the choices'),
        (
            ["B", "A"],
            "A",
            "the letter of choice 0 and the text of choice 1, counted from 0; say which is meant",
        ),
        (["a", "b"], True, "true is not text"),
        (["a", "a"], 0, "duplicate 'a'"),
        (["a"], 0, "1 given, must be 2 to 26"),
        (["a", 3], 0, "number 1: 3 is not text"),
        ("a, b", 0, "is not a list"),
        (["a", ""], 0, "number 1: empty"),
    ],
)
def test_what_is_wrong_with_choices(root: Path, choices: Any, answer: Any, fault: str) -> None:
    assert fault in faults(root, {"question": "Q", "choices": choices, "answer": answer}, "multiple_choice")[0]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"answer": ""}, "answer: empty"),
        ({"answer": None}, "answer: null is not text"),
        ({"answer": 3}, "answer: 3 is not text"),
        ({"answer": []}, "answer: the list is empty"),
        ({"question": ["a"]}, 'question: ["a"] is not text'),
        ({"question": "a\x07b"}, "contains the control character U+0007 at position 2"),
        ({"answer": "a\x85"}, "answer: contains the control character U+0085"),
        ({"answer": "\ud800"}, "U+D800"),
        ({"question": "a \ufffc"}, "U+FFFC"),
        ({"image": "nix.png"}, "no file 'nix.png'"),
        ({"image": "../x.png"}, "'../x.png' is outside"),
        ({"image": "/etc/passwd"}, "'/etc/passwd' is outside"),
        ({"image": "a/../../x.png"}, "is outside"),
        ({"image": "https://example.org/a.png"}, "is a URL, not a file; download it"),
        ({"image": "a\0.png"}, "is not a valid path"),
        ({"image": 5}, "5 is neither a path nor the bytes of a picture"),
        ({"image": {"bytes": None, "path": None}}, "is neither a path"),
        ({"id": 1.5}, "id: 1.5 is neither text nor an integer"),
        ({"images": ["b.png"], "image": "a.png"}, "image: found in image and images; choose one"),
        ({"question": "<image> or <image>?", "image": "a.png"}, "2 <image> marks but 1 picture"),
    ],
)
def test_what_is_wrong_with_a_row(root: Path, change: dict[str, Any], fault: str) -> None:
    row = {"id": 1, "question": "Which?", "answer": "this"} | change
    assert fault in " ".join(faults(root, row, "question_answer"))


def test_missing_fields_are_reported_together(root: Path) -> None:
    assert faults(root, {"id": 1}, "question_answer") == (
        "question: the field is missing",
        "answer: the field is missing",
    )


def test_a_root_of_their_own_and_links_in_it(root: Path, tmp_path: Path) -> None:
    row = {"question": "Which?", "answer": "this", "image": str(root / "a.png")}
    assert read(root, row).images == (root / "a.png",), "an absolute path inside the root"
    (tmp_path / "pictures").symlink_to(root)
    assert read(tmp_path, row | {"image": "pictures/a.png"}).images == (tmp_path / "pictures" / "a.png",)


def test_every_question_asks_for_the_response(root: Path) -> None:
    row = {"conversations": turns("Which?", "this", "Sure?", "yes")}
    asked = [turn.text for turn in read(root, row, response="short").turns if turn.role == "user"]
    assert asked == [f"Which?\n{RESPONSES['short']}", f"Sure?\n{RESPONSES['short']}"]
