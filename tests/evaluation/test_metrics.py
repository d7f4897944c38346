"""Each metric against its definition written out, and what it refuses."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_mm.data.example import Example
from lora_mm.errors import InputError
from lora_mm.evaluation.metrics import METRICS, VQA_ANSWERS, choose_metric, judge, score_chance, total_score
from lora_mm.evaluation.reading import normalize_vqa
from lora_mm.evaluation.score import Score, compute_wilson_interval


def asked(*references: str, id: str = "1", picture: str | None = None, choices: tuple[str, ...] = ()) -> Example:
    images = (Path(picture),) if picture else ()
    answer = choices.index(references[0]) if choices else None
    return Example(id, "What?", references[0], images, choices, references, answer)


def scored(name: str, examples: list[Example], said: list[str]) -> Score:
    metric = METRICS[name]
    return total_score(metric, examples, [judge(metric, one, text) for one, text in zip(examples, said, strict=True)])


def worth(name: str, example: Example, said: str) -> float | None:
    return judge(METRICS[name], example, said).credit


# --- worth of one answer -----------------------------------------------------------------------------------------


def test_exact_match_is_of_any_reference_but_for_its_spelling() -> None:
    example = asked("Red ball", "a ball")
    assert [worth("exact", example, text) for text in ("red  BALL.", '"a ball"', "ball", "")] == [1, 1, 0, 0]


def test_an_example_without_references_is_asked_for_its_target() -> None:
    assert worth("exact", Example("1", "What?", "Blue"), "blue.") == 1


def test_containment_asks_whether_a_right_answer_stands_somewhere() -> None:
    example = asked("42 km", "26 miles")
    assert worth("contains", example, "The sign says 42 KM to Rome.") == 1
    assert worth("contains", example, "some 26  miles\nnorth") == 1
    assert worth("contains", example, "42 miles") == 0


people = st.lists(st.sampled_from(["red", "blue", "Red.", "a red"]), min_size=4, max_size=12)


@given(people, st.sampled_from(["red", "blue"]))
def test_vqa_accuracy_is_the_mean_over_all_subsets_that_leave_one_out(references: list[str], said: str) -> None:
    given_answers = [normalize_vqa(text) for text in references]
    subsets = [given_answers[:n] + given_answers[n + 1 :] for n in range(len(given_answers))]
    expected = sum(min(sum(text == said for text in subset) / 3, 1) for subset in subsets) / len(subsets)
    assert worth("vqa", asked(*references), said) == pytest.approx(expected)


@pytest.mark.parametrize(("same", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_of_ten_answers(same: int, expected: float) -> None:
    references = ["red"] * same + ["blue"] * (10 - same)
    assert worth("vqa", asked(*references), "Red") == pytest.approx(expected)


def test_vqa_accuracy_of_one_answer_is_right_or_wrong() -> None:
    assert worth("vqa", asked("the two dogs"), "2 dogs") == 1
    assert worth("vqa", asked("the two dogs"), "dogs") == 0


def test_a_choice_is_read_off_or_believed() -> None:
    example = asked("blue", choices=("red", "blue"))
    assert worth("choice", example, "Blue.") == 1
    assert worth("choice", example, "red") == 0
    assert worth("choice", example, "green") is None
    assert judge(METRICS["choice"], example, "red", 0).choice == 0


# --- figures of many -----------------------------------------------------------------------------------------------


def test_yes_and_no_give_popes_figures() -> None:
    truth = ["yes"] * 6 + ["no"] * 4
    said = ["Yes", "Yes, it is", "yes", "yes", "No", "perhaps", "yes", "no", "no", "No."]
    examples = [asked(text, id=str(n)) for n, text in enumerate(truth)]
    score = scored("yes_no", examples, said)
    figures = {name: figure.value for name, figure in score.columns.items()}
    # 4 hits, 1 false alarm, 2 missed (one said nothing that can be read), 3 rightly refused
    precision, recall = 4 / 5, 4 / 6
    assert figures == {
        "accuracy": pytest.approx(70),
        "precision": pytest.approx(100 * precision),
        "recall": pytest.approx(100 * recall),
        "F1": pytest.approx(100 * 2 * precision * recall / (precision + recall)),
        "yes share": pytest.approx(50),
    }
    assert score.unparsed == 1
    assert score.columns["precision"].interval == compute_wilson_interval(4, 5)
    low, high = score.columns["F1"].interval or (0, 0)
    assert low < figures["F1"] < high  # type: ignore[operator]


def test_a_model_that_never_says_yes_has_no_precision() -> None:
    score = scored("yes_no", [asked("yes"), asked("no")], ["no", "no"])
    assert score.columns["precision"].text == "–"
    assert score.columns["recall"].value == 0


def test_mme_counts_pictures_of_which_both_questions_are_right() -> None:
    examples = [
        asked(text, id=f"{picture}{n}", picture=f"{picture}.png")
        for picture in "abc"
        for n, text in enumerate(("yes", "no"))
    ]
    score = scored("mme", examples, ["yes", "no", "yes", "yes", "no", "yes"])
    assert {name: figure.value for name, figure in score.columns.items()} == {
        "score": pytest.approx(100 * 3 / 6 + 100 * 1 / 3),
        "accuracy": pytest.approx(50),
        "accuracy+": pytest.approx(100 / 3),
    }
    assert score.columns["accuracy+"].total == 3


def test_pictures_in_memory_are_paired_by_what_they_show() -> None:
    examples = [
        Example(str(n), "Is it?", answer, (bytes([n // 2]),), references=(answer,))
        for n, answer in enumerate(("yes", "no", "yes", "no"))
    ]
    assert scored("mme", examples, ["yes", "no", "no", "no"]).columns["accuracy+"].total == 2


def test_with_and_without_picture_are_told_apart_where_there_are_both() -> None:
    examples = [asked("red", picture="a.png"), asked("red"), asked("blue")]
    score = scored("exact", examples, ["red", "red", "red"])
    assert {name: (f.value, f.total) for name, f in score.columns.items()} == {
        "accuracy": (pytest.approx(200 / 3), 3),
        "image": (100, 1),
        "text": (50, 2),
    }
    assert list(scored("exact", examples[1:], ["red", "red"]).columns) == ["accuracy"]


def test_shares_have_a_bootstrapped_interval_and_counts_wilsons() -> None:
    examples = [asked(*["red"] * 3, *["blue"] * 7, id=str(n)) for n in range(40)]
    said = ["red"] * 20 + ["blue"] * 10 + ["green"] * 10
    figure = scored("vqa", examples, said).columns["accuracy"]
    assert figure.value == pytest.approx(100 * (20 * 0.9 + 10) / 40)
    low, high = figure.interval or (0, 0)
    assert low < figure.value < high  # type: ignore[operator]
    assert scored("exact", examples, said).columns["accuracy"].interval == compute_wilson_interval(30, 40)


def test_guessing_is_one_over_the_choices() -> None:
    examples = [asked("a", choices=("a", "b")), asked("a", choices=("a", "b", "c", "d"))]
    found = score_chance(METRICS["choice"], examples)
    assert found is not None
    assert found.columns["accuracy"].value == pytest.approx(37.5)
    assert found.columns["accuracy"].interval is None
    assert score_chance(METRICS["exact"], examples) is None


# --- captions ------------------------------------------------------------------------------------------------------

CAPTIONS = [asked("a red ball on the grass", "a ball", id="1"), asked("two dogs play in the snow", id="2")]


@pytest.mark.skipif(importlib.util.find_spec("sacrebleu") is None, reason="sacrebleu is not installed")
def test_captions_are_scored_by_sacrebleu() -> None:
    perfect = scored("caption", CAPTIONS, ["a red ball on the grass", "two dogs play in the snow"])
    assert perfect.columns["chrF"].value == pytest.approx(100)
    assert perfect.columns["BLEU"].value == pytest.approx(100)
    worse = scored("caption", CAPTIONS, ["a red ball on a table", "three cats"])
    assert 0 < worse.columns["chrF"].value < 80  # type: ignore[operator]
    assert worse.columns["chrF"].interval is not None
    assert scored("caption", CAPTIONS[:1], ["a ball"]).columns["chrF"].interval is None


@pytest.mark.skipif(importlib.util.find_spec("sacrebleu") is not None, reason="sacrebleu is installed")
def test_captions_without_sacrebleu_say_what_to_install() -> None:
    with pytest.raises(InputError, match=r"needs sacrebleu; `pip install 'lora-mm\[captions\]'`"):
        choose_metric("caption", CAPTIONS, scienceqa=False)


# --- which metric, and what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        ([asked("a", choices=("a", "b"))] * 2, "choice"),
        ([asked("yes"), asked("No.")], "yes_no"),
        ([asked(*["red"] * VQA_ANSWERS)], "vqa"),
        ([asked("red")], "exact"),
        ([asked("a", choices=("a", "b")), asked("red")], "exact"),
        ([asked("yes"), asked("red")], "exact"),
        ([asked("yes"), asked("No idea")], "exact"),
        ([asked(*["red"] * VQA_ANSWERS), asked("red")], "exact"),
    ],
)
def test_auto_goes_by_the_data(examples: list[Example], expected: str) -> None:
    assert choose_metric("auto", examples, scienceqa=False) == expected
    assert choose_metric("auto", examples, scienceqa=True) == "scienceqa"


@pytest.mark.parametrize(
    ("name", "example", "told"),
    [
        ("choice", asked("red"), "7: has no choices"),
        ("choice", Example("7", "What?", "a", candidates=("a", "b")), "7: does not say which choice is right"),
        ("yes_no", asked("red"), "7: its answer is neither yes nor no"),
        ("yes_no", asked("yes", "no"), "7: its answer is neither yes nor no"),
        ("vqa", asked("a", "b"), "7: has 2 answers; the formula needs one, or four and more"),
        ("contains", asked(" "), "7: an answer is empty"),
        ("exact", asked("red", " "), "7: an answer is empty"),
        ("mme", asked("yes"), "7: has no picture, whose questions go together"),
        ("mme", asked("yes", picture="a.png"), "1 of 1 pictures have another number"),
        ("scienceqa", asked("red"), "scienceqa scores ScienceQA's problems"),
    ],
)
def test_what_a_metric_cannot_score_is_named(name: str, example: Example, told: str) -> None:
    example = Example("7", *(getattr(example, key) for key in ("prompt", "target", "images", "candidates")),
                      example.references, example.answer)  # fmt: skip
    with pytest.raises(InputError) as error:
        choose_metric(name, [example], scienceqa=False)
    assert told in str(error.value)
    assert f"evaluation.metric: {name}" in str(error.value)


def test_many_faults_are_shortened() -> None:
    with pytest.raises(InputError) as error:
        choose_metric("yes_no", [asked("red", id=str(n)) for n in range(50)], scienceqa=False)
    assert len(error.value.faults) == 7
    assert "45 more" in error.value.faults[-1]
