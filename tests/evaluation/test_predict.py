"""Answers by likelihood and by generation, against sums and loops written out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoProcessor

import lora_mm
from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.errors import LoraMMError
from lora_mm.evaluation.predict import generate_answers, score_candidates
from lora_mm.models.forward import move_batch
from tests.helpers.tiny import perturb, tiny_model

LETTERS = tuple(f"The answer is {letter}." for letter in "ABCDE")


@pytest.fixture(scope="module")
def model() -> Any:
    model = lora_mm.attach(tiny_model(), ["mma", {"method": "mma", "part": "vision"}])
    perturb(model)
    return model


@pytest.fixture(scope="module")
def collator(base_folder: Path) -> Collator:
    return Collator(AutoProcessor.from_pretrained(base_folder), max_length=500)


@pytest.fixture(scope="module")
def problems(scienceqa_folder: Path) -> list[Example]:
    """Questions of different lengths with two to five choices, some with a picture."""
    files = sorted((scienceqa_folder / "images" / "train").rglob("*.png"))
    return [
        Example(str(n), f"Which is it{', really' * n}?", LETTERS[0], (files[n],) if n % 2 else (), LETTERS[: 2 + n % 4])
        for n in range(6)
    ]


@torch.no_grad()
def token_log_likelihoods(model: Any, collator: Collator, item: Example, answer: str) -> Tensor:
    """Log-likelihood of every token after the prompt, from one forward pass over the whole text."""
    prompt, _ = collator.render(item)
    images = [collator_image(source) for source in item.images]
    more = {"images": images} if images else {}
    start = collator.processor(text=[prompt], return_tensors="pt", **more)["input_ids"].shape[1]
    whole = dict(collator.processor(text=[f"{prompt} {answer}</s>"], return_tensors="pt", **more))
    log = torch.log_softmax(model(**whole).logits[0].float(), dim=-1)
    ids = whole["input_ids"][0]
    return torch.stack([log[position - 1, ids[position]] for position in range(start, len(ids))])


def collator_image(source: Any) -> Any:
    from lora_mm.data.example import open_image

    return open_image(source)


def test_letters_are_compared_by_the_likelihood_of_all_up_to_the_letter(
    model: Any, collator: Collator, problems: list[Example]
) -> None:
    scores = score_candidates(model, collator, problems, batch_size=4)
    for item, row in zip(problems, scores, strict=True):
        assert len(row) == len(item.candidates)
        tokens = [token_log_likelihoods(model, collator, item, answer) for answer in item.candidates]
        # "." and the end follow the letter: the last two tokens
        expected = torch.stack([each[:-2].sum() for each in tokens])
        found = torch.tensor(row)
        torch.testing.assert_close(found - found[0], expected - expected[0], rtol=1e-4, atol=1e-4)
        assert found.argmax() == expected.argmax()
    assert len({row.index(max(row)) for row in scores}) > 1, "equal answers would prove nothing"


def test_letters_take_one_forward_a_batch(model: Any, collator: Collator, problems: list[Example]) -> None:
    calls: list[int] = []
    hook = model.get_base_model().register_forward_pre_hook(
        lambda _, __, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    done: list[int] = []
    score_candidates(model, collator, problems, batch_size=4, advance=done.append)
    hook.remove()
    assert calls == [4, 2]
    assert done == [4, 2]


@pytest.mark.parametrize(
    "candidates",
    [
        ("a red ball", "the blue and green ball", "it"),
        ("A", "A B", "A B C"),
        ("The answer is A.", "The answer is B. BECAUSE: so.", "The answer is C."),
        ("only one",),
    ],
)
def test_candidates_of_several_tokens_are_compared_whole(
    model: Any, collator: Collator, problems: list[Example], candidates: tuple[str, ...]
) -> None:
    items = [Example(item.id, item.prompt, "", item.images, candidates) for item in problems[:3]]
    scores = score_candidates(model, collator, items, batch_size=2)
    for item, row in zip(items, scores, strict=True):
        sums = torch.stack([token_log_likelihoods(model, collator, item, answer).sum() for answer in candidates])
        found = torch.tensor(row)
        torch.testing.assert_close(found - found[0], sums - sums[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("candidates", [LETTERS[:3], ("red", "blue and green")])
def test_the_batch_size_changes_nothing(
    model: Any, collator: Collator, problems: list[Example], candidates: tuple[str, ...]
) -> None:
    items = [Example(item.id, item.prompt, "", item.images, candidates) for item in problems]
    one, many = (torch.tensor(score_candidates(model, collator, items, batch_size=size)) for size in (1, 6))
    torch.testing.assert_close(many, one, rtol=1e-4, atol=1e-4)


def test_no_questions_give_no_answers(model: Any, collator: Collator) -> None:
    assert score_candidates(model, collator, [], batch_size=4) == []
    assert generate_answers(model, collator, [], batch_size=4, max_new_tokens=4) == []


def test_likelihoods_that_are_nan_stop_the_evaluation(collator: Collator, problems: list[Example]) -> None:
    broken = tiny_model()
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(LoraMMError, match="not numbers"):
        score_candidates(broken, collator, problems, batch_size=4)


@torch.no_grad()
def generate_by_hand(model: Any, collator: Collator, item: Example, tokens: int) -> str:
    """Decode greedily with one whole forward pass for each token, without cache or padding."""
    batch = move_batch(model, collator.prompts([item]))
    generated: list[int] = []
    for _ in range(tokens):
        token = model(**batch, use_cache=False).logits[0, -1].argmax()
        if token == collator.tokenizer.eos_token_id:
            break
        generated.append(int(token))
        batch["input_ids"] = torch.cat([batch["input_ids"], token.view(1, 1)], dim=1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return collator.tokenizer.decode(generated, skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 6])
def test_generated_answers_equal_a_loop_by_hand(
    model: Any, collator: Collator, problems: list[Example], batch_size: int
) -> None:
    done: list[int] = []
    texts = generate_answers(model, collator, problems, batch_size=batch_size, max_new_tokens=8, advance=done.append)
    assert texts == [generate_by_hand(model, collator, item, 8) for item in problems]
    assert len(set(texts)) > 1
    assert sum(done) == len(problems)


def test_a_generated_answer_ends_at_the_end_token(collator: Collator, problems: list[Example]) -> None:
    model = tiny_model()
    with torch.no_grad():  # the end token is always the likeliest
        model.lm_head.weight.zero_()
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(512).index_fill(0, torch.tensor(2), 9.0))
    assert generate_answers(model, collator, problems, batch_size=6, max_new_tokens=8) == [""] * len(problems)


def test_scoring_leaves_no_gradients_and_no_training_mode(
    model: Any, collator: Collator, problems: list[Example]
) -> None:
    asks: list[Callable[[], Any]] = [
        lambda: score_candidates(model, collator, problems[:1], batch_size=1),
        lambda: generate_answers(model, collator, problems[:1], batch_size=1, max_new_tokens=1),
    ]
    for ask in asks:
        model.train()
        ask()
        assert not any(module.training for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())
