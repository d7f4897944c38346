"""Selects a core set: the examples that mention most of the given concepts, and as many yes as no. Knows only texts.

Zhao et al., "SVIT" (2023), section 3.3: the informativeness of an example is the number of its concept words;
answers that begin with yes or no are balanced by leaving some out.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lora_mm.data.example import Example

_OTHER, _YES, _NO = 0, 1, 2
_SIDES = {"yes": _YES, "no": _NO}


@dataclass
class Selection:
    """Selects among examples that are added one by one; each takes 3 bytes of memory.

    Args:
        concepts: words and phrases; an example scores one point for each that its texts contain, ignoring case.
        keep: maximum number of examples; None for all that balancing leaves.
        yes_no: whether to keep as many answers yes as no.
        seed: random seed that decides between equal scores.
    """

    concepts: Sequence[str]
    keep: int | None
    yes_no: bool
    seed: int
    _scores: array = field(default_factory=lambda: array("H"))
    _sides: array = field(default_factory=lambda: array("B"))

    def __post_init__(self) -> None:
        lowered = {concept.lower() for concept in self.concepts}
        longest_first = sorted(map(re.escape, lowered), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<!\w)({'|'.join(longest_first)})(?!\w)") if longest_first else None

    def add(self, example: Example) -> None:
        """Score the next example."""
        text = " ".join(turn.text for turn in example.turns).lower()
        self._scores.append(len(set(self._pattern.findall(text))) if self._pattern else 0)
        first_word = re.match(r"\W*(\w+)", example.target.lower())
        self._sides.append(_SIDES.get(first_word[1], _OTHER) if first_word else _OTHER)

    def choose(self) -> np.ndarray:
        """Return the indices of the selected examples, in the order in which they were added."""
        scores, sides = np.array(self._scores, dtype=int), np.array(self._sides, dtype=int)
        shuffled = np.random.default_rng(self.seed).permutation(len(scores))
        best = shuffled[np.argsort(-scores[shuffled], kind="stable")]
        if not self.yes_no:
            return np.sort(best[: self.keep])
        others, yes, no = (best[sides[best] == side] for side in (_OTHER, _YES, _NO))
        pairs = min(len(yes), len(no))
        # The best yes is paired with the best no; a pair is kept or left out together, by its mean score.
        pair_scores = np.concatenate([scores[others], (scores[yes[:pairs]] + scores[no[:pairs]]) / 2])
        order = np.argsort(-pair_scores, kind="stable")
        limit = len(scores) if self.keep is None else self.keep
        fits = np.cumsum(np.where(order < len(others), 1, 2)) <= limit
        taken = order[fits]
        kept_pairs = taken[taken >= len(others)] - len(others)
        return np.sort(np.concatenate([others[taken[taken < len(others)]], yes[kept_pairs], no[kept_pairs]]))
