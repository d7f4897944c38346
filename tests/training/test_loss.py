"""The answer loss against the model's own, its accumulation, and the logits that it does not compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoProcessor

import lora_mm
from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.models.forward import IGNORE_INDEX
from lora_mm.training.loss import compute_answer_loss, count_items
from tests.helpers.tiny import perturb, tiny_model


@pytest.fixture(scope="module")
def model() -> Any:
    model = lora_mm.attach(tiny_model(), ["mma"]).eval()
    perturb(model)
    return model


@pytest.fixture(scope="module")
def examples(scienceqa_folder: Path) -> list[Example]:
    picture = next((scienceqa_folder / "images" / "train").rglob("*.png"))
    return [
        Example("1", "Which?", "The answer is A.", (picture,)),
        Example("2", "Which of these many things would you take home?", "B. BECAUSE: so it is."),
        Example("3", "Who?", "No."),
        Example("4", "What?", "", (picture,)),
    ]


@pytest.fixture(scope="module")
def collator(base_folder: Path) -> Collator:
    return Collator(AutoProcessor.from_pretrained(base_folder), max_length=500)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_equals_the_models_own_loss_and_its_gradients(model: Any, collator: Collator, examples: list[Example]) -> None:
    batch = collator(examples)
    ours, theirs = compute_answer_loss(model, batch), model(**batch).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert theirs > 1, "a loss near zero would say nothing"
    torch.testing.assert_close(gradients(model, ours), gradients(model, theirs), rtol=1e-4, atol=1e-5)


def test_accumulated_over_batches_it_is_the_loss_of_all_tokens(
    model: Any, collator: Collator, examples: list[Example]
) -> None:
    whole = collator(examples)
    count = (whole["labels"] != IGNORE_INDEX).sum()
    parts = [collator(examples[:1]), collator(examples[1:])]
    for items in (count, int(count)):
        total = sum(compute_answer_loss(model, part, items) for part in parts)
        torch.testing.assert_close(total, compute_answer_loss(model, whole), rtol=1e-5, atol=1e-6)
    mean_of_means = sum(compute_answer_loss(model, part) for part in parts) / 2
    assert not torch.allclose(mean_of_means, compute_answer_loss(model, whole), rtol=1e-3)


def test_weighed_by_example_it_is_the_mean_of_the_examples_own_losses(
    model: Any, collator: Collator, examples: list[Example]
) -> None:
    whole = collator(examples)
    own = [compute_answer_loss(model, collator([example])) for example in examples]
    by_example = compute_answer_loss(model, whole, weight="example")
    torch.testing.assert_close(by_example, sum(own) / len(own), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(by_example, compute_answer_loss(model, whole), rtol=1e-3), "answers differ in length"
    parts = [collator(examples[:1]), collator(examples[1:])]
    items = sum(count_items(part["labels"], "example") for part in parts)
    assert items == len(examples)
    total = sum(compute_answer_loss(model, part, items, "example") for part in parts)
    torch.testing.assert_close(total, by_example, rtol=1e-5, atol=1e-6)


def test_an_example_without_supervised_tokens_does_not_count(
    model: Any, collator: Collator, examples: list[Example]
) -> None:
    batch = collator(examples[:3])
    batch["labels"][1] = IGNORE_INDEX
    own = [compute_answer_loss(model, collator([examples[number]])) for number in (0, 2)]
    torch.testing.assert_close(compute_answer_loss(model, batch, weight="example"), sum(own) / 2, rtol=1e-5, atol=1e-6)


def test_only_positions_before_supervised_tokens_go_through_the_head(
    model: Any, collator: Collator, examples: list[Example]
) -> None:
    batch = collator(examples[1:3])
    seen: list[int] = []
    hook = model.get_submodule("base_model.model.lm_head").register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[1])
    )
    compute_answer_loss(model, batch)
    hook.remove()
    columns = (batch["labels"][:, 1:] != IGNORE_INDEX).any(dim=0)
    assert seen == [int(columns.sum())]
    assert seen[0] < batch["input_ids"].shape[1] - 1


def test_a_batch_whose_answers_are_all_cut_has_no_loss(model: Any, collator: Collator, examples: list[Example]) -> None:
    batch = collator(examples)
    batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)
    loss = compute_answer_loss(model, batch)
    assert loss.item() == 0.0
    loss.backward()


def test_is_fp32_on_a_bf16_model(collator: Collator, examples: list[Example]) -> None:
    model = tiny_model()
    exact = compute_answer_loss(model, collator(examples))
    rounded = compute_answer_loss(model.bfloat16(), collator(examples))
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_leaves_the_batch_as_it_was(model: Any, collator: Collator, examples: list[Example]) -> None:
    batch = collator(examples)
    before = {name: value.clone() for name, value in batch.items()}
    compute_answer_loss(model, batch)
    assert set(batch) == set(before)
    assert all(torch.equal(batch[name], value) for name, value in before.items())
