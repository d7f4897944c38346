"""The tower's own lessons: name the fields of a picture, read linearly off any one of its tokens. Knows no language."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor, nn

from lora_mm.pocket.drawing import SCENES
from tools.pocket_pretraining.picture_corpus import labels as labels_of


class Fields(nn.Module):
    """Linear heads, one a field of :func:`~.picture_corpus.labels`; they are thrown away after pretraining.

    Whatever one token tells, an adapter or an attention head finds wherever it looks: without these lessons the tower
    and the language model wait long for each other to make sense (open questions at chance after 20,000 pictures).
    """

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        rng = Random(f"fields {seed}")
        self.classes: dict[str, dict[str, int]] = {}
        for _ in range(4000):
            for field, value in labels_of(rng.choice(SCENES).random(rng)).items():
                known = self.classes.setdefault(field, {})
                known.setdefault(value, len(known))
        self.heads = nn.Linear(width, sum(len(known) for known in self.classes.values()))
        self.starts: dict[str, int] = {}
        start = 0
        for field, known in self.classes.items():
            self.starts[field] = start
            start += len(known)

    def forward(self, tokens: Tensor, scenes: Sequence[object]) -> tuple[Tensor, list[bool]]:
        """Summed over pictures, the mean loss of a picture's fields; and whether each field was right.

        Args:
            tokens: [pictures, tokens, width]; one token of each picture is read, drawn at random.
            scenes: what each picture shows.
        """
        one = tokens[torch.arange(len(scenes)), torch.randint(tokens.shape[1], (len(scenes),))]
        logits = self.heads(one).float()
        truth: dict[str, list[tuple[int, int, float]]] = {}
        for row, scene in enumerate(scenes):
            labels = labels_of(scene)
            for field, value in labels.items():
                if value in self.classes[field]:
                    truth.setdefault(field, []).append((row, self.classes[field][value], 1 / len(labels)))
        loss, right = torch.zeros(()), []
        for field, found in truth.items():
            rows, targets, weights = (torch.tensor(column) for column in zip(*found, strict=True))
            part = logits[rows, self.starts[field] : self.starts[field] + len(self.classes[field])]
            loss = loss + (nn.functional.cross_entropy(part, targets, reduction="none") * weights).sum()
            right += (part.argmax(-1) == targets).tolist()
        return loss, right
