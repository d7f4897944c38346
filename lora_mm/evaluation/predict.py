"""Answers from a model: by the likelihood of candidates, or written. Knows examples; knows no data set and no score."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from lora_mm.data.collate import Collator, split_into_batches
from lora_mm.data.example import Example
from lora_mm.errors import LoraMMError
from lora_mm.models.forward import IGNORE_INDEX, compute_supervised_logits, move_batch

Advance = Callable[[int], None]
"""Called with the number of examples just answered."""


def _ignore(done: int) -> None:
    """The :data:`Advance` of a caller that does not watch."""


@torch.inference_mode()
def score_candidates(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[Example],
    *,
    batch_size: int,
    mean: bool = False,
    advance: Advance = _ignore,
) -> list[list[float]]:
    """Log-likelihood of every candidate of every example.

    Candidates that differ in one token, as answer letters do, are compared by that token alone, read off one forward of
    the text before it: what follows it is the same. Others take one row each, and the sum over their tokens counts, the
    end included; with ``mean`` it is divided by how many they are, so that long candidates are not unlikely for that.

    Raises:
        LoraMMError: when the model gives a number that is not one.
    """
    model.eval()
    letters = _letters(collator, examples)
    scores: list[list[float]] = []
    for start, chunk in enumerate(split_into_batches(examples, batch_size)):
        if letters is None:
            scores += _whole_candidates(model, collator, chunk, mean)
        else:
            scores += _next_token(model, collator, chunk, *letters)
        if any(value != value for row in scores[-len(chunk) :] for value in row):
            raise LoraMMError(f"The model's likelihoods are not numbers (NaN) in batch {start} of the evaluation.")
        advance(len(chunk))
    return scores


@torch.inference_mode()
def generate_answers(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[Example],
    *,
    batch_size: int,
    max_new_tokens: int,
    advance: Advance = _ignore,
) -> list[str]:
    """What the model writes as its answer, greedily, without special tokens."""
    model.eval()
    answers: list[str] = []
    for chunk in split_into_batches(examples, batch_size):
        batch = move_batch(model, collator.prompts(chunk))
        written = model.generate(
            **batch, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=collator.tokenizer.pad_token_id
        )
        new = written[:, batch["input_ids"].shape[1] :]
        answers += collator.tokenizer.batch_decode(new, skip_special_tokens=True)
        advance(len(chunk))
    return answers


def _letters(collator: Collator, examples: Sequence[Example]) -> tuple[str, list[int]] | None:
    """The text that all candidates share and the token that tells each apart; None when one token does not.

    Looked up once, on the example with most candidates, of which the others' must be the first few.
    """
    if not examples:
        return None
    longest = max(examples, key=lambda example: len(example.candidates))
    if any(example.candidates != longest.candidates[: len(example.candidates)] for example in examples):
        return None
    prompt = collator.render(longest)[0]
    turns = [collator.render(_with_target(longest, text)) for text in longest.candidates]
    tokens = [collator.tokenizer(prompt + target)["input_ids"] for _, target in turns]
    shared = next((i for i, column in enumerate(zip(*tokens, strict=False)) if len(set(column)) > 1), None)
    if shared is None or len({row[shared] for row in tokens}) < len(tokens):
        return None
    if len({tuple(row[shared + 1 :]) for row in tokens}) > 1:
        return None  # they differ in more than that token
    begin = _shared_text([target for _, target in turns])
    if collator.tokenizer(prompt + begin)["input_ids"] != tokens[0][:shared]:
        return None
    return begin, [row[shared] for row in tokens]


def _shared_text(texts: Sequence[str]) -> str:
    """What all texts begin with, without a trailing space (which belongs to the next token)."""
    shared = next((i for i, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), 0)
    return texts[0][:shared].rstrip()


def _next_token(
    model: nn.Module, collator: Collator, chunk: Sequence[Example], begin: str, tokens: list[int]
) -> list[list[float]]:
    batch = move_batch(model, collator.prompts(chunk, begin))
    logits = model(**batch, logits_to_keep=1, use_cache=False).logits[:, -1].float()  # [batch, vocabulary]
    chosen = F.log_softmax(logits, dim=-1)[:, tokens].tolist()
    return [row[: len(example.candidates)] for row, example in zip(chosen, chunk, strict=True)]


def _whole_candidates(model: nn.Module, collator: Collator, chunk: Sequence[Example], mean: bool) -> list[list[float]]:
    rows = [_with_target(example, text) for example in chunk for text in example.candidates]
    sums: list[float] = []
    for part in split_into_batches(rows, max(1, len(chunk))):
        logits, targets = compute_supervised_logits(model, collator(part))
        loss = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none")
        tokens = (targets != IGNORE_INDEX).sum(dim=1) if mean else 1
        sums += (-loss.sum(dim=1) / tokens).tolist()
    scores = iter(sums)
    return [[next(scores) for _ in example.candidates] for example in chunk]


def _with_target(example: Example, target: str) -> Example:
    return replace(example, target=target)
