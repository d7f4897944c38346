"""What a recipe's data holds, before a run: faults, tokens, pictures, twins, what is learnt. Loads no model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lora_mm.data import scienceqa
from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.data.layouts import LAYOUTS
from lora_mm.data.mask import MaskPiece, decode_mask
from lora_mm.data.source import Examples, Faults, Source, find_repeated, survey_source
from lora_mm.data.splits import find_source, get_scienceqa_path, is_own_data, load_split
from lora_mm.errors import InputError
from lora_mm.recipe.columns import COLUMNS, OPTIONAL
from lora_mm.recipe.data_section import SourceSection
from lora_mm.recipe.load import load_recipe, recipe_names
from lora_mm.recipe.sections import Recipe

PERCENTILES = (50, 90, 99)

Tell = Callable[[str], None]
"""Told in a few words what is being done."""


@dataclass
class SplitCheck:
    """What the rows of one split hold.

    Attributes:
        rows, usable: how many there are, and fit to be used.
        layouts: of its places.
        faults: what is wrong, each with its row; of many rows the first thousand.
        pictures: number of pictures → examples that show so many.
        turns: the assistant's turns in an example → examples that have so many.
        tokens: percentile → tokens of an example, placeholders included; 100 is the longest.
        longest: id of the longest.
        overlong: examples over ``data.max_length``.
        equal, equal_count: examples that say and show the same as one before: the first, each with that one, by id,
            and how many.
        unread: columns that nothing reads.
    """

    rows: int = 0
    usable: int = 0
    layouts: list[str] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    pictures: dict[int, int] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    longest: str = ""
    overlong: int = 0
    equal: list[tuple[str, str]] = field(default_factory=list)
    equal_count: int = 0
    unread: list[str] = field(default_factory=list)


@dataclass
class DataReport:
    """What :func:`check_data` found.

    Attributes:
        splits: by name.
        both, both_count: examples that are in both splits, to train on and to be asked: the first ids, and how many.
        masks: id → what of it is learnt, for three examples.
        base: whose tokens and template they are.
        allowed: whether faulty rows are to be left out, by ``data.faulty_rows``, and not to be an error.
    """

    splits: dict[str, SplitCheck]
    both: list[str]
    both_count: int
    masks: dict[str, list[MaskPiece]]
    base: str
    allowed: bool

    @property
    def sound(self) -> bool:
        """Whether a run would take this data."""
        faulty = any(looked.faults.rows for looked in self.splits.values()) and not self.allowed
        return not faulty and not self.both and all(looked.usable for looked in self.splits.values())

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        splits = {
            name: {**vars(looked), "faulty": looked.faults.rows, "faults": looked.faults.lines}
            for name, looked in self.splits.items()
        }
        masks = {
            id: [{"text": piece.text, "learnt": piece.learnt} for piece in pieces] for id, pieces in self.masks.items()
        }
        return {
            "sound": self.sound,
            "base": self.base,
            "splits": splits,
            "in_both": {"count": self.both_count, "such_as": self.both},
            "masks": masks,
        }


def load_recipe_or_path(name: str, overrides: Sequence[str] = ()) -> tuple[Recipe, list[str]]:
    """The recipe called ``name``, or one for the data at that path, read by the pocket base; and its splits to look at.

    A path's rows for evaluation are looked at where it has any.
    """
    if name in recipe_names() or name.endswith((".yaml", ".yml")):
        recipe = load_recipe(name, overrides)
        return recipe, [recipe.data.train_split, recipe.data.eval_split]
    recipe = load_recipe("scienceqa-pocket", [f"data.path={Path(name).as_posix()!r}", *overrides])
    try:
        for place in recipe.data.places if is_own_data(recipe.data) else ():
            find_source(recipe.data, place, recipe.data.eval_split)
    except InputError:
        return recipe, [recipe.data.train_split]
    return recipe, [recipe.data.train_split, recipe.data.eval_split]


def check_data(recipe: Recipe, splits: Sequence[str], collator: Collator, tell: Tell = lambda what: None) -> DataReport:
    """Read every row, open every picture, count every token.

    Memory grows by some 100 bytes a row, whatever a row holds (121 MiB from 10,000 to a million rows).

    Raises:
        InputError: where there are no rows at all.
    """
    found = {name: SplitCheck() for name in splits}
    marks: list[np.ndarray] = []
    examples: dict[str, Sequence[Example]] = {}
    for name, looked in found.items():
        tell(f"{name}: reading rows, opening pictures")
        examples[name], content = _read(recipe, name, looked)
        marks.append(content)
        tell(f"{name}: counting tokens")
        _measure(recipe, examples[name], collator, looked)
    first, *others = marks
    twice = [number for other in others for number in np.flatnonzero(np.isin(first, other))]
    both = [examples[splits[0]][int(number)].id for number in twice[:10]]
    masks = {example.id: decode_mask(collator, example) for example in _three(examples[splits[0]], collator)}
    return DataReport(found, both, len(twice), masks, recipe.base.model, recipe.data.faulty_rows == "drop")


def iterate_examples(recipe: Recipe, split: str) -> Iterator[tuple[Source, np.ndarray]]:
    """Where a split's own rows are."""
    for number, place in enumerate(recipe.data.places):
        yield find_source(recipe.data, place, split, number)


def _read(recipe: Recipe, split: str, looked: SplitCheck) -> tuple[Sequence[Example], np.ndarray]:
    if not is_own_data(recipe.data):
        return _read_scienceqa(recipe, split, looked)
    sources, index, marks = [], [], []
    for number, (source, rows) in enumerate(iterate_examples(recipe, split)):
        found = survey_source(source, rows)
        sources.append(source)
        index.append(np.stack([np.full(len(found.kept), number), found.kept], axis=1).astype(np.int64))
        marks.append(found.marks)
        looked.rows += len(rows)
        looked.layouts.append(source.reader.layout)
        looked.unread += _unread(source, recipe.data.places[number])
        looked.faults.add_all(found.faults)
    examples, content = Examples(sources, np.concatenate(index)), np.concatenate(marks)
    looked.usable = len(examples)
    again = find_repeated(content)
    looked.equal_count = len(again)
    looked.equal = [(examples[n].id, examples[first].id) for n, first in list(again.items())[:10]]
    return examples, content


def _read_scienceqa(recipe: Recipe, split: str, looked: SplitCheck) -> tuple[Sequence[Example], np.ndarray]:
    looked.layouts.append("scienceqa")
    try:
        loaded = load_split(recipe, split)
    except InputError as error:
        for fault in error.faults:
            looked.faults.add([fault])
        return [], np.array([], dtype=np.uint64)
    looked.rows = scienceqa.load_problems(get_scienceqa_path(recipe.data), split, pictures=False).rows
    looked.usable = len(loaded.examples)
    return loaded.examples, loaded.marks


def _measure(recipe: Recipe, examples: Sequence[Example], collator: Collator, looked: SplitCheck) -> None:
    totals = np.zeros(len(examples), dtype=np.int32)
    for number in range(len(examples)):
        example = examples[number]
        try:
            needed, rest = collator.length(example)
        except InputError as error:
            looked.faults.add([_named(examples, number, example.id, fault) for fault in error.faults])
            looked.usable -= 1
            continue
        totals[number] = total = needed + rest
        if total > collator.max_length:
            looked.overlong += 1
            if fault := collator.too_long(example.id, needed, total, recipe.data.overlong):
                looked.faults.add([_named(examples, number, example.id, fault)])
                looked.usable -= 1
        shown, spoken = len(example.pictures), sum(turn.role == "assistant" for turn in example.turns)
        looked.pictures[shown] = looked.pictures.get(shown, 0) + 1
        looked.turns[spoken] = looked.turns.get(spoken, 0) + 1
    if len(examples):
        known = totals[totals > 0]
        looked.tokens = {p: int(np.percentile(known, p)) for p in (*PERCENTILES, 100)} if len(known) else {}
        looked.longest = examples[int(totals.argmax())].id


def _named(examples: Sequence[Example], number: int, id: str, fault: str) -> str:
    """A fault told by an example's id, told by its row where that has a place of its own."""
    if not isinstance(examples, Examples):
        return fault
    return f"{examples.where(number)}: {fault.removeprefix(f'{id}: ')}"


def _unread(source: Source, place: SourceSection) -> list[str]:
    read = {*LAYOUTS[source.reader.layout].needs, *OPTIONAL}
    known = {name for what in read for name in ([place.columns[what]] if what in place.columns else COLUMNS[what])}
    return [name for name in source.columns() if name not in known]


def _three(examples: Sequence[Example], collator: Collator) -> list[Example]:
    """Up to three that the base can read: with pictures, without, and of several turns, where there are such."""
    kinds: dict[tuple[bool, bool], Example] = {}
    others: list[Example] = []
    for number in range(min(len(examples), 200)):
        example = examples[number]
        try:
            needed, _ = collator.length(example)
        except InputError:
            continue
        if needed >= collator.max_length:
            continue
        kind = bool(example.pictures), bool(example.history)
        if kind in kinds:
            others.append(example)
        kinds.setdefault(kind, example)
    return [*kinds.values(), *others][:3]
