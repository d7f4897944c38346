"""A real tiny model answers questions by likelihood or generation, scored by the metric that fits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.data.splits import load_split
from lora_mm.errors import InputError
from lora_mm.evaluation.predict import score_candidates
from lora_mm.evaluation.scoring import choose_scoring, format_title, score_by_chance, score_model
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe
from tests.helpers.tiny import make_recipe, tiny_model


@pytest.fixture(scope="module")
def collator(base_folder: Path) -> Collator:
    return Collator(AutoProcessor.from_pretrained(base_folder), max_length=500)


@pytest.fixture
def recipe(base_folder: Path, scienceqa_folder: Path, tmp_path: Path) -> Any:
    def make(**evaluation: object) -> Recipe:
        settings = {"answer": "auto", "max_new_tokens": 6, "per_device_eval_batch_size": 3, **evaluation}
        return load_recipe(str(make_recipe(tmp_path / "r.yaml", base_folder, scienceqa_folder, evaluation=settings)))

    return make


def examples(scienceqa_folder: Path, **fields: Any) -> list[Example]:
    files = sorted((scienceqa_folder / "images" / "train").rglob("*.png"))
    return [
        Example(str(n), f"Which is it{', really' * n}?", "red", (files[n],) if n % 2 else (), **fields)
        for n in range(7)
    ]


CHOICES = ("a red ball", "the blue and green ball", "it")


@pytest.mark.parametrize("likelihood", ["sum", "mean"])
def test_choices_are_compared_and_answers_come_in_the_order_of_the_split(
    recipe: Any, collator: Collator, scienceqa_folder: Path, likelihood: str
) -> None:
    questions = examples(scienceqa_folder, candidates=CHOICES, references=(CHOICES[1],), answer=1)
    scored = score_model(tiny_model(), collator, recipe(likelihood=likelihood), questions)
    assert scored.metric == "choice"
    assert scored.outputs is None
    assert [answer.id for answer in scored.answers] == [example.id for example in questions]
    scores = score_candidates(tiny_model(), collator, questions, batch_size=7, mean=likelihood == "mean")
    assert [answer.choice for answer in scored.answers] == [row.index(max(row)) for row in scores]
    right = sum(answer.choice == 1 for answer in scored.answers)
    assert scored.score.columns["accuracy"].value == pytest.approx(100 * right / 7)
    chance = score_by_chance("choice", questions, None)["random choice"]
    assert chance.columns["accuracy"].value == pytest.approx(100 / 3)


def test_the_mean_is_the_sum_over_the_number_of_tokens(collator: Collator, scienceqa_folder: Path) -> None:
    questions = examples(scienceqa_folder, candidates=CHOICES)[:3]
    model = tiny_model()
    sums, means = (
        torch.tensor(score_candidates(model, collator, questions, batch_size=3, mean=m)) for m in (False, True)
    )
    tokens = torch.tensor(
        [[collator.length(Example(e.id, e.prompt, text, e.images))[1] for text in CHOICES] for e in questions]
    )
    torch.testing.assert_close(means, sums / tokens)
    assert len(set(tokens[0].tolist())) > 1


def test_open_questions_are_generated_and_matched(recipe: Any, collator: Collator, scienceqa_folder: Path) -> None:
    questions = examples(scienceqa_folder)
    first = score_model(tiny_model(), collator, recipe(), questions)
    assert first.metric == "exact"
    assert first.outputs is not None
    generated = dict(first.outputs)
    assert len(set(generated.values())) > 1
    # An answer is right where its reference is what the model generates.
    expected = [
        Example(e.id, e.prompt, "red", e.images, references=(generated[e.id] if int(e.id) < 4 else "no such",))
        for e in questions
    ]
    scored = score_model(tiny_model(), collator, recipe(), expected)
    assert [answer.correct for answer in scored.answers] == [int(e.id) < 4 for e in questions]
    assert scored.score.columns["accuracy"].value == pytest.approx(400 / 7)


def test_generated_answers_that_name_no_choice_count_as_unparsed(
    recipe: Any, collator: Collator, scienceqa_folder: Path
) -> None:
    questions = examples(scienceqa_folder, candidates=CHOICES, references=(CHOICES[1],), answer=1)
    scored = score_model(tiny_model(), collator, recipe(answer="generate"), questions)
    assert scored.score.unparsed == 7, "a random model names none"
    assert all(answer.credit is None and answer.choice is None for answer in scored.answers)
    assert scored.score.columns["accuracy"].value == 0


@pytest.mark.parametrize(("format", "choice"), [("CQM-A", 1), ("QCM-A", None), ("QCM-ALE", None), ("QCM-T", None)])
def test_a_bare_letter_answers_the_prompt_of_llava_only(
    base_folder: Path, scienceqa_folder: Path, tmp_path: Path, collator: Collator, format: str, choice: int | None
) -> None:
    settings = {"answer": "generate", "max_new_tokens": 1}
    file = make_recipe(tmp_path / "r.yaml", base_folder, scienceqa_folder, data={"format": format}, evaluation=settings)
    recipe = load_recipe(str(file))
    questions = load_split(recipe, "test")
    model = tiny_model()
    letter = collator.tokenizer.convert_tokens_to_ids("B")
    assert model.generation_config is not None
    model.generation_config.suppress_tokens = [token for token in range(512) if token != letter]
    scored = score_model(model, collator, recipe, questions.examples, problems=questions.problems)
    assert scored.outputs == {example.id: "B" for example in questions.examples}
    assert set(scored.predictions.values()) == {choice}
    assert scored.score.unparsed == (len(questions.examples) if choice is None else 0)


def test_likelihood_without_choices_is_refused(recipe: Any, scienceqa_folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"7 of 7 questions have none, for example 0; --set evaluation.answer=generate"
    ):
        choose_scoring(recipe(answer="likelihood"), examples(scienceqa_folder), scienceqa=False)


def test_the_title_names_metric_and_split() -> None:
    assert format_title("scienceqa", "test") == "ScienceQA test, accuracy in %"
    assert format_title("vqa", "validation") == "VQA accuracy on validation, in %"
    assert format_title("exact", "test") == "Exact match on test, in %"
