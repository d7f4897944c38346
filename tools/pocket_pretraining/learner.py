"""Computes tokens, losses and scores of samples in pretraining. Knows no curriculum and no optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from tools.pocket_pretraining.lessons import FieldHeads
from tools.pocket_pretraining.samples import FORM_WEIGHT, RECITED_WEIGHT, Sample
from tools.pocket_pretraining.shape import IMAGE_SIZE, PATCH_SIZE

EARLY_LAYERS, EARLY_WEIGHT = (2, 3), 0.4
"""Layers of the language model whose output must already name a recited answer, and the weight of that loss.

Comparing options with an answer takes layers after the one that finds the answer. Without this loss, only the last
layer finds it: the model answers open questions, but multiple choice stays at chance.
"""

FIELDS_WEIGHT = 1.0
"""Weight of the vision tower's lessons, which continue while the language model learns to read its output."""

IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2


def encode_samples(
    tokenizer: PreTrainedTokenizerFast, samples: Sequence[Sample]
) -> list[tuple[list[int], list[float]]]:
    """Tokenize samples.

    Args:
        tokenizer: the tokenizer of the base.
        samples: the samples; ``<image>`` becomes as many tokens as the vision tower gives.

    Returns:
        Token ids and loss weights of each sample.
    """
    texts = [text.replace("<image>", "<image>" * IMAGE_TOKENS) for s in samples for text, _ in s.pieces]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    rows = []
    for sample in samples:
        row: tuple[list[int], list[float]] = ([], [])
        for _, weight in sample.pieces:
            piece = next(ids)
            row[0].extend(piece)
            row[1].extend([weight] * len(piece))
        rows.append(row)
    return rows


def load_pixels(samples: Sequence[Sample]) -> Tensor | None:
    """Prepare the samples' pictures as the processor does, [pictures, 3, side, side]; None without pictures."""
    arrays = [np.asarray(s.picture.resize((IMAGE_SIZE, IMAGE_SIZE), 4)) for s in samples if s.picture is not None]
    if not arrays:
        return None
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Learner:
    """The model in training: forward and backward passes over samples, and scores of held-out samples.

    Args:
        model: the base.
        tokenizer: its tokenizer.
        fields: the heads of the vision tower's lessons; None to leave the lessons out.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        fields: FieldHeads | None = None,
    ) -> None:
        self.model, self.tokenizer, self.fields = model, tokenizer, fields
        self.side_loss = torch.zeros(())  # all losses of a forward pass except that of its tokens

    def compute_logits(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute logits, targets, weights and rows of all tokens with a loss."""
        rows = encode_samples(self.tokenizer, samples)
        width = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        weights = torch.zeros(len(rows), width)
        for n, (i, w) in enumerate(rows):
            ids[n, : len(i)], weights[n, : len(i)] = torch.tensor(i), torch.tensor(w)
        with torch.autocast("cpu", torch.bfloat16):
            out = self.model.model(
                input_ids=ids, pixel_values=load_pixels(samples), use_cache=False, output_hidden_states=True
            )
            row, column = weights[:, 1:].nonzero(as_tuple=True)
            targets, weights = ids[row, column + 1], weights[row, column + 1]
            logits = self.model.lm_head(out.last_hidden_state[row, column])
            recited = (weights - RECITED_WEIGHT).abs() < 0.01
            self.side_loss = torch.zeros(())
            for layer in EARLY_LAYERS if bool(recited.any()) else ():
                hidden = self.model.model.language_model.norm(out.hidden_states[layer][row[recited], column[recited]])
                guess = self.model.lm_head(hidden).float()
                self.side_loss = self.side_loss + EARLY_WEIGHT * nn.functional.cross_entropy(
                    guess, targets[recited], reduction="sum"
                )
            scenes = [s.scene for s in samples if s.scene is not None]
            if self.fields is not None and self.model.training and scenes:
                tokens = out.image_hidden_states.view(len(scenes), IMAGE_TOKENS, -1)
                loss, _ = self.fields(tokens, scenes)
                self.side_loss = self.side_loss + FIELDS_WEIGHT * loss
        return logits.float(), targets, weights, row

    def backward(self, samples: Sequence[Sample], chunks: int = 3) -> float:
        """Compute the gradients of the weighted loss.

        Args:
            samples: the samples of one step.
            chunks: number of forward passes; samples of similar length share one.

        Returns:
            The loss.
        """
        order = sorted(samples, key=lambda s: sum(len(t) for t, _ in s.pieces) + 120 * (s.picture is not None))
        size = math.ceil(len(order) / chunks)
        batches = [order[n : n + size] for n in range(0, len(order), size)]
        total_weight = sum(sum(weights[1:]) for _, weights in encode_samples(self.tokenizer, samples))
        total = 0.0
        for batch in batches:
            logits, targets, weights, _ = self.compute_logits(batch)
            loss = (nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()
            loss = (loss + self.side_loss) / total_weight
            loss.backward()
            total += float(loss.detach())
        return total

    @torch.no_grad()
    def score(self, held_out: dict[str, list[Sample]]) -> dict[str, float]:
        """Compute the share of right answers of each kind; for captions and sentences, the loss per token."""
        self.model.eval()
        scores = {}
        for kind, samples in held_out.items():
            results: list[float] = []
            for n in range(0, len(samples), 64):
                batch = samples[n : n + 64]
                logits, targets, weights, row = self.compute_logits(batch)
                counted = weights > 2 * FORM_WEIGHT
                if kind in ("caption", "sentences"):
                    results += nn.functional.cross_entropy(logits, targets, reduction="none")[counted].tolist()
                    continue
                hits = logits.argmax(-1) == targets
                results += _score_answers(hits.tolist(), counted.tolist(), row.tolist())
            scores[kind] = sum(results) / len(results)
        self.model.train()
        return scores


def _score_answers(hits: list[bool], counted: list[bool], rows: list[int]) -> list[float]:
    """Score each answer: 1 if all its tokens are right, else 0. An answer is a run of counted tokens in one row."""
    answers: list[float] = []
    open_row = -1
    for hit, counts, row in zip(hits, counted, rows, strict=True):
        if counts and open_row == row:
            answers[-1] = min(answers[-1], float(hit))
        elif counts:
            answers.append(float(hit))
        open_row = row if counts else -1
    return answers
