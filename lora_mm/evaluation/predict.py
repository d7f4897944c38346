"""Predicts answers, by the likelihood of candidates or by generation. Knows examples; knows no data set or score."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from lora_mm.data.collate import Collator, split_into_batches
from lora_mm.data.example import Example
from lora_mm.errors import LoraMMError
from lora_mm.models.forward import IGNORE_INDEX, compute_supervised_logits, move_batch

Advance = Callable[[int], None]
"""Called with the number of examples just answered."""


def ignore_progress(done: int) -> None:
    """Show no progress."""


@torch.inference_mode()
def score_candidates(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[Example],
    *,
    batch_size: int,
    mean: bool = False,
    advance: Advance = ignore_progress,
) -> list[list[float]]:
    """Compute the log-likelihood of every candidate of every example.

    Candidates that differ in one token, such as answer letters, are compared by that token only, in one forward pass
    over the text before it, because the text after it is the same. Other candidates take one row each; the
    log-likelihoods of their tokens are summed, including the end token.

    Args:
        model: the model; it is put into evaluation mode.
        collator: the collator of the model's base.
        examples: the questions, each with candidates.
        batch_size: number of rows in a forward pass.
        mean: whether to divide each sum by its number of tokens, so that long candidates are not penalized.
        advance: called after every batch.

    Returns:
        ``[examples][candidates]``.

    Raises:
        LoraMMError: a likelihood is NaN.
    """
    model.eval()
    shared = _find_distinguishing_tokens(collator, examples)
    scores: list[list[float]] = []
    for number, chunk in enumerate(split_into_batches(examples, batch_size)):
        if shared is None:
            scores += _score_whole_candidates(model, collator, chunk, mean)
        else:
            scores += _score_next_token(model, collator, chunk, *shared)
        if any(value != value for row in scores[-len(chunk) :] for value in row):
            raise LoraMMError(f"The model's likelihoods are not numbers (NaN) in batch {number} of the evaluation.")
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
    advance: Advance = ignore_progress,
) -> list[str]:
    """Generate an answer to every example, by greedy decoding.

    Args:
        model: the model; it is put into evaluation mode.
        collator: the collator of the model's base.
        examples: the questions.
        batch_size: number of examples in a batch.
        max_new_tokens: maximum length of an answer.
        advance: called after every batch.

    Returns:
        One text for each example, without special tokens but those of ``data.special_tokens``.
    """
    model.eval()
    generate = cast(Callable[..., torch.Tensor], model.generate)
    answers: list[str] = []
    for chunk in split_into_batches(examples, batch_size):
        batch = move_batch(model, collator.prompts(chunk))
        tokens = generate(
            **batch, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=collator.tokenizer.pad_token_id
        )
        new = tokens[:, batch["input_ids"].shape[1] :]
        answers += collator.tokenizer.batch_decode(new, skip_special_tokens=True)
        advance(len(chunk))
    return answers


def _find_distinguishing_tokens(collator: Collator, examples: Sequence[Example]) -> tuple[str, list[int]] | None:
    """Find the common prefix of all candidates, and the one token that distinguishes each candidate.

    Both are found for the example with most candidates; the candidates of all others must be the first few of these.

    Returns:
        Text and tokens; None if candidates differ in more than one token.
    """
    if not examples:
        return None
    longest = max(examples, key=lambda example: len(example.candidates))
    if any(example.candidates != longest.candidates[: len(example.candidates)] for example in examples):
        return None
    prompt = collator.render(longest)[0]
    turns = [collator.render(_with_target(longest, text)) for text in longest.candidates]
    tokens = [collator.tokenizer(prompt + target)["input_ids"] for _, target in turns]
    position = next((i for i, column in enumerate(zip(*tokens, strict=False)) if len(set(column)) > 1), None)
    if position is None or len({row[position] for row in tokens}) < len(tokens):
        return None
    if len({tuple(row[position + 1 :]) for row in tokens}) > 1:
        return None
    prefix = _find_shared_prefix([target for _, target in turns])
    if collator.tokenizer(prompt + prefix)["input_ids"] != tokens[0][:position]:
        return None
    return prefix, [row[position] for row in tokens]


def _find_shared_prefix(texts: Sequence[str]) -> str:
    """Return the common prefix of all texts, without a trailing space, which belongs to the next token."""
    shared = next((i for i, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), 0)
    return texts[0][:shared].rstrip()


def _score_next_token(
    model: nn.Module, collator: Collator, chunk: Sequence[Example], prefix: str, tokens: list[int]
) -> list[list[float]]:
    batch = move_batch(model, collator.prompts(chunk, prefix))
    logits = model(**batch, logits_to_keep=1, use_cache=False).logits[:, -1].float()  # [batch, vocabulary]
    chosen = F.log_softmax(logits, dim=-1)[:, tokens].tolist()
    return [row[: len(example.candidates)] for row, example in zip(chosen, chunk, strict=True)]


def _score_whole_candidates(
    model: nn.Module, collator: Collator, chunk: Sequence[Example], mean: bool
) -> list[list[float]]:
    rows = [_with_target(example, text) for example in chunk for text in example.candidates]
    sums: list[float] = []
    for batch in split_into_batches(rows, max(1, len(chunk))):
        logits, targets = compute_supervised_logits(model, collator(batch))
        loss = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none")
        tokens = (targets != IGNORE_INDEX).sum(dim=1) if mean else 1
        sums += (-loss.sum(dim=1) / tokens).tolist()
    scores = iter(sums)
    return [[next(scores) for _ in example.candidates] for example in chunk]


def _with_target(example: Example, target: str) -> Example:
    return replace(example, target=target)
