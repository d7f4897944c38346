"""The lessons of the vision tower: name the fields of a picture from any one of its tokens. Knows no language."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor, nn

from lora_mm.pocket.scenes import SCENES
from tools.pocket_pretraining.picture_corpus import label_fields


class FieldHeads(nn.Module):
    """Linear heads, one for each field of :func:`~.picture_corpus.label_fields`. They are not part of the saved base.

    If each token holds all fields, an adapter or an attention head finds them in any token. Without these lessons, open
    questions stay at chance for 20,000 pictures, because neither the tower nor the language model learns first.

    Args:
        width: width of a token.
        seed: seed of the scenes that the classes are collected from.
    """

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        rng = Random(f"fields {seed}")
        self.classes: dict[str, dict[str, int]] = {}
        for _ in range(4000):
            for field, value in label_fields(rng.choice(SCENES).random(rng)).items():
                known = self.classes.setdefault(field, {})
                known.setdefault(value, len(known))
        self.heads = nn.Linear(width, sum(len(known) for known in self.classes.values()))
        self.starts: dict[str, int] = {}
        start = 0
        for field, known in self.classes.items():
            self.starts[field] = start
            start += len(known)

    def forward(self, tokens: Tensor, scenes: Sequence[object]) -> tuple[Tensor, list[bool]]:
        """Classify the fields of pictures.

        Args:
            tokens: [pictures, tokens, width]; one random token per picture is used.
            scenes: what each picture shows.

        Returns:
            The mean loss over a picture's fields, summed over pictures, and whether each field is right.
        """
        token = tokens[torch.arange(len(scenes)), torch.randint(tokens.shape[1], (len(scenes),))]
        logits = self.heads(token).float()
        truth: dict[str, list[tuple[int, int, float]]] = {}
        for row, scene in enumerate(scenes):
            labels = label_fields(scene)
            for field, value in labels.items():
                if value in self.classes[field]:
                    truth.setdefault(field, []).append((row, self.classes[field][value], 1 / len(labels)))
        loss, right = torch.zeros(()), []
        for field, answers in truth.items():
            rows, targets, weights = (torch.tensor(column) for column in zip(*answers, strict=True))
            field_logits = logits[rows, self.starts[field] : self.starts[field] + len(self.classes[field])]
            loss = loss + (nn.functional.cross_entropy(field_logits, targets, reduction="none") * weights).sum()
            right += (field_logits.argmax(-1) == targets).tolist()
        return loss, right
