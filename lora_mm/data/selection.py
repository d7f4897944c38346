"""A core set: the examples that say most about given concepts, with as many yes as no. Knows texts only.

Zhao et al., "SVIT" (2023), section 3.3: an example is as informative as the concept words in it are many; answers that
begin with yes or no are balanced by leaving some out.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lora_mm.data.example import Example

_SIDES = {"yes": 1, "no": 2}


@dataclass
class Selection:
    """Chooses among examples that it is shown one by one: 3 bytes are kept of each.

    Args:
        concepts: words and phrases; an example scores one for each that is in its texts, whatever its case.
        keep: as many examples; None for all that balance leaves.
        yes_no: whether yes and no are to be equally many.
        seed: decides between equals.
    """

    concepts: Sequence[str]
    keep: int | None
    yes_no: bool
    seed: int
    _scores: array = field(default_factory=lambda: array("H"))
    _sides: array = field(default_factory=lambda: array("B"))

    def __post_init__(self) -> None:
        self._known = {word.lower() for word in self.concepts}
        words = sorted(map(re.escape, self._known), key=len, reverse=True)
        self._words = re.compile(rf"(?<!\w)({'|'.join(words)})(?!\w)") if words else None

    def see(self, example: Example) -> None:
        """The next example."""
        text = " ".join(turn.text for turn in example.turns).lower()
        self._scores.append(len(set(self._words.findall(text))) if self._words else 0)
        first = re.match(r"\W*(\w+)", example.target.lower())
        self._sides.append(_SIDES.get(first[1], 0) if first else 0)

    def chosen(self) -> np.ndarray:
        """Numbers of the chosen, in the order in which they were seen."""
        scores, sides = np.array(self._scores, dtype=int), np.array(self._sides, dtype=int)
        by_chance = np.random.default_rng(self.seed).permutation(len(scores))
        best = by_chance[np.argsort(-scores[by_chance], kind="stable")]
        if not self.yes_no:
            return np.sort(best[: self.keep])
        others, yes, no = (best[sides[best] == side] for side in (0, 1, 2))
        pairs = min(len(yes), len(no))
        # The best yes goes with the best no: what is kept or left out is the pair, by its mean.
        worth = np.concatenate([scores[others], (scores[yes[:pairs]] + scores[no[:pairs]]) / 2])
        order = np.argsort(-worth, kind="stable")
        room = np.cumsum(np.where(order < len(others), 1, 2)) <= (len(scores) if self.keep is None else self.keep)
        taken = order[room]
        kept = taken[taken >= len(others)] - len(others)
        return np.sort(np.concatenate([others[taken[taken < len(others)]], yes[kept], no[kept]]))
