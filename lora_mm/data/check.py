"""Checks a recipe's data before a run: faults, tokens, pictures, duplicates, supervised tokens. Loads no model."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lora_mm.data import scienceqa
from lora_mm.data.collate import Collator
from lora_mm.data.example import Example, read_size
from lora_mm.data.location import get_scienceqa_path, is_own_data
from lora_mm.data.mask import MaskPiece, decode_mask
from lora_mm.data.own_data import find_sources
from lora_mm.data.source import Examples
from lora_mm.data.splits import load_split
from lora_mm.data.survey import Faults, find_repeated, survey_source
from lora_mm.errors import InputError
from lora_mm.json_text import to_json
from lora_mm.recipe.load import load_recipe, recipe_names
from lora_mm.recipe.sections import Recipe

PERCENTILES = (50, 90, 99)

_NAMED = 10
"""Number of duplicates, and of examples in both splits, that the report names; the others are counted."""
_SEARCHED_FOR_SAMPLES = 200
_SAMPLES = 3

ShowStatus = Callable[[str], None]
"""Shows the current step, in a few words."""


@dataclass
class SplitCheck:
    """The check of one split.

    Attributes:
        rows: number of rows.
        usable: number of rows that can be used.
        layouts: the layout of each source.
        train_only: paths of the sources that have no rows to evaluate on.
        faults: faults of the other rows, each with its row.
        pictures: number of pictures → number of examples that have so many.
        cut_off: percentile → share of a picture's area that the model does not see, from 0 to 1; empty if the base's
            processor and ``data.pictures.fit`` never cut anything off.
        turns: number of assistant turns → number of examples that have so many.
        tokens: percentile → tokens of an example, placeholders included; 100 is the longest example.
        longest: id of the longest example.
        overlong: number of examples over ``data.max_length``.
        duplicates: the first few examples with the texts and pictures of an earlier example: id and id of the earlier
            example.
        duplicate_count: number of such examples.
        unread_columns: columns that the layout does not read.
    """

    rows: int = 0
    usable: int = 0
    layouts: list[str] = field(default_factory=list)
    train_only: list[str] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    pictures: dict[int, int] = field(default_factory=dict)
    cut_off: dict[int, float] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    longest: str = ""
    overlong: int = 0
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    duplicate_count: int = 0
    unread_columns: list[str] = field(default_factory=list)


@dataclass
class DataReport:
    """The result of :func:`check_data`.

    Attributes:
        splits: name → check of the split.
        overlap: ids of the first few examples that are in both splits.
        overlap_count: number of examples in both splits.
        masks: id → text of an example, in pieces that are supervised or not; for up to three examples.
        base: name of the base whose tokenizer and chat template were used.
        drops_faulty_rows: whether ``data.faulty_rows`` drops faulty rows; otherwise they are an error.
    """

    splits: dict[str, SplitCheck]
    overlap: list[str]
    overlap_count: int
    masks: dict[str, list[MaskPiece]]
    base: str
    drops_faulty_rows: bool

    @property
    def sound(self) -> bool:
        """Whether a run accepts this data."""
        faulty = any(check.faults.rows for check in self.splits.values()) and not self.drops_faulty_rows
        return not faulty and not self.overlap and all(check.usable for check in self.splits.values())

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        splits = {
            name: {**vars(check), "faulty": check.faults.rows, "faults": check.faults.lines}
            for name, check in self.splits.items()
        }
        masks = {
            id: [{"text": piece.text, "supervised": piece.supervised} for piece in pieces]
            for id, pieces in self.masks.items()
        }
        return {
            "sound": self.sound,
            "base": self.base,
            "splits": splits,
            "in_both": {"count": self.overlap_count, "examples": self.overlap},
            "masks": masks,
        }


def load_recipe_or_path(name: str, overrides: Sequence[str] = ()) -> tuple[Recipe, list[str]]:
    """Load a recipe, or make one for a path.

    Args:
        name: name or YAML file of a recipe; or path or Hub id of a data set, which is then read for the pocket base.
        overrides: ``key=value`` settings of the recipe.

    Returns:
        The recipe and the names of the splits to check. For a path, the evaluation split only if there is one.
    """
    if name in recipe_names() or name.endswith((".yaml", ".yml")):
        recipe = load_recipe(name, overrides)
        return recipe, [recipe.data.train_split, recipe.data.eval_split]
    defaults = [f"data.path={to_json(Path(name).as_posix())}", "data.pictures.fit=processor"]
    recipe = load_recipe("scienceqa-pocket", [*defaults, *overrides])
    try:
        if is_own_data(recipe.data):
            find_sources(recipe.data, recipe.data.eval_split)
    except InputError:
        return recipe, [recipe.data.train_split]
    return recipe, [recipe.data.train_split, recipe.data.eval_split]


def check_data(
    recipe: Recipe, splits: Sequence[str], collator: Collator, show_status: ShowStatus = lambda what: None
) -> DataReport:
    """Read every row, open every picture and count every token.

    Memory grows by about 100 bytes per row, whatever the size of the row (121 MiB from 10,000 to a million rows).

    Args:
        recipe: its ``data`` section says where the data is and how to read it.
        splits: names of the splits to check; the first is the training split.
        collator: the collator of the recipe's base.
        show_status: called at each step, with a few words about it.

    Raises:
        InputError: a source cannot be read at all.
    """
    checks = {name: SplitCheck() for name in splits}
    examples: dict[str, Sequence[Example]] = {}
    hashes: list[np.ndarray] = []
    for name, check in checks.items():
        show_status(f"{name}: reading rows, opening pictures")
        examples[name], split_hashes = _read_split(recipe, name, check)
        hashes.append(split_hashes)
        show_status(f"{name}: counting tokens")
        asked = name == recipe.data.eval_split != recipe.data.train_split
        _measure(recipe, examples[name], collator, check, asked=asked)
    first_split = examples[splits[0]]
    train_hashes, *other_hashes = hashes
    overlap = [int(number) for other in other_hashes for number in np.flatnonzero(np.isin(train_hashes, other))]
    return DataReport(
        splits=checks,
        overlap=[first_split[number].id for number in overlap[:_NAMED]],
        overlap_count=len(overlap),
        masks={example.id: decode_mask(collator, example) for example in _choose_samples(first_split, collator)},
        base=recipe.base.model,
        drops_faulty_rows=recipe.data.faulty_rows == "drop",
    )


def _read_split(recipe: Recipe, split: str, check: SplitCheck) -> tuple[Sequence[Example], np.ndarray]:
    """Read the usable examples of a split and their hashes; count rows and faults in ``check``."""
    if is_own_data(recipe.data):
        return _read_own_split(recipe, split, check)
    return _read_scienceqa_split(recipe, split, check)


def _read_own_split(recipe: Recipe, split: str, check: SplitCheck) -> tuple[Examples, np.ndarray]:
    sources, index, hashes = [], [], []
    found = find_sources(recipe.data, split)
    check.train_only = found.train_only
    for number, (source, rows) in enumerate(found.opened):
        survey = survey_source(source, rows)
        sources.append(source)
        index.append(np.stack([np.full(len(survey.usable), number), survey.usable], axis=1).astype(np.int64))
        hashes.append(survey.hashes)
        check.rows += len(rows)
        check.layouts.append(source.reader.layout)
        check.unread_columns += source.find_unread_columns()
        check.faults.add_all(survey.faults)
    examples, all_hashes = Examples(sources, np.concatenate(index)), np.concatenate(hashes)
    check.usable = len(examples)
    repeated = find_repeated(all_hashes)
    check.duplicate_count = len(repeated)
    check.duplicates = [(examples[n].id, examples[first].id) for n, first in list(repeated.items())[:_NAMED]]
    return examples, all_hashes


def _read_scienceqa_split(recipe: Recipe, split: str, check: SplitCheck) -> tuple[Sequence[Example], np.ndarray]:
    check.layouts.append("scienceqa")
    try:
        loaded = load_split(recipe, split)
    except InputError as error:
        for fault in error.faults:
            check.faults.add_row([fault])
        return [], np.array([], dtype=np.uint64)
    check.rows = scienceqa.load_problems(get_scienceqa_path(recipe.data), split, pictures=False).rows
    check.usable = len(loaded.examples)
    return loaded.examples, loaded.hashes


def _measure(
    recipe: Recipe, examples: Sequence[Example], collator: Collator, check: SplitCheck, *, asked: bool
) -> None:
    """Measure every example in ``check``: its tokens, pictures and turns; and count those that the base cannot read.

    Args:
        recipe: says what happens to examples that are too long.
        examples: the examples.
        collator: the collator of the recipe's base.
        check: receives the results.
        asked: whether the examples are questions to the model; see :meth:`Collator.length`.
    """
    totals, shares = np.zeros(len(examples), dtype=np.int32), array("f")
    for number in range(len(examples)):
        example = examples[number]
        try:
            fixed, cuttable = collator.length(example, asked=asked)
            if collator.fitter.cuts:
                shares.extend(collator.fitter.measure_cut(read_size(source)) for source in example.pictures)
        except InputError as error:
            check.faults.add_row([_name_row(examples, number, example.id, fault) for fault in error.faults])
            check.usable -= 1
            continue
        totals[number] = total = fixed + cuttable
        if total > collator.max_length:
            check.overlong += 1
            fault = collator.find_length_fault(example.id, fixed, total, recipe.data.overlong)
            check.usable -= fault is not None or recipe.data.overlong == "drop"
            if fault:
                check.faults.add_row([_name_row(examples, number, example.id, fault)])
        pictures, answers = len(example.pictures), sum(turn.role == "assistant" for turn in example.turns)
        check.pictures[pictures] = check.pictures.get(pictures, 0) + 1
        check.turns[answers] = check.turns.get(answers, 0) + 1
    if len(examples):
        known = totals[totals > 0]
        check.tokens = {p: int(np.percentile(known, p)) for p in (*PERCENTILES, 100)} if len(known) else {}
        check.cut_off = {p: float(np.percentile(shares, p)) for p in (*PERCENTILES, 100)} if shares else {}
        check.longest = examples[int(totals.argmax())].id


def _name_row(examples: Sequence[Example], number: int, id: str, fault: str) -> str:
    """Name the example's row in a fault, instead of its id, if the row is known."""
    if not isinstance(examples, Examples):
        return fault
    return f"{examples.where(number)}: {fault.removeprefix(f'{id}: ')}"


def _choose_samples(examples: Sequence[Example], collator: Collator) -> list[Example]:
    """Choose up to three examples that the base can read: if possible with pictures, without, and with several turns.

    Only the first :data:`_SEARCHED_FOR_SAMPLES` examples are searched.
    """
    first_of_kind: dict[tuple[bool, bool], Example] = {}
    others: list[Example] = []
    for number in range(min(len(examples), _SEARCHED_FOR_SAMPLES)):
        example = examples[number]
        try:
            fixed, _ = collator.length(example)
        except InputError:
            continue
        if fixed >= collator.max_length:
            continue
        kind = bool(example.pictures), bool(example.history)
        if kind in first_of_kind:
            others.append(example)
        first_of_kind.setdefault(kind, example)
    return [*first_of_kind.values(), *others][:_SAMPLES]
