"""A recipe's rows as examples to train on or to ask: ScienceQA, people's own data, mixtures. Knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_mm.data import scienceqa
from lora_mm.data.example import Example
from lora_mm.data.mixture import SourceShare, allocate_counts, cap_rows, draw_rows, format_shares, hold_out_rows
from lora_mm.data.rows import find_rows
from lora_mm.data.scienceqa_layouts import is_scienceqa
from lora_mm.data.selection import Selection
from lora_mm.data.source import Examples, Source, Survey, hash_content, hash_source, open_source, survey_source
from lora_mm.errors import InputError, truncate_faults
from lora_mm.hub_access import UnreachableError
from lora_mm.pocket.cache import prepare_pocket_data
from lora_mm.pocket.own_data import OWN_DATA_SETS
from lora_mm.pocket.world import WORLDS
from lora_mm.recipe.data_section import DataSection, SourceSection
from lora_mm.recipe.sections import Recipe


@dataclass(frozen=True)
class DataSplit:
    """The examples of one split.

    Attributes:
        examples: read when they are asked for.
        told: the exact account of its rows, a line each.
        marks: 64 bits for each example, by which one that is in two splits is found.
        problems: of ScienceQA, what its official score asks for, in the examples' order; else None.
        faults: rows that were left out as faulty, in words, as far as they were kept.
    """

    name: str
    examples: Sequence[Example]
    told: tuple[str, ...]
    marks: np.ndarray
    problems: tuple[scienceqa.Problem, ...] | None = None
    faults: tuple[str, ...] = ()

    def account(self) -> str:
        """What became of the rows, for people."""
        return "\n".join(self.told)


def load_split(recipe: Recipe, split: str, limit: int | None = None) -> DataSplit:
    """The examples of one split as the recipe says, every row read and every picture opened once.

    Args:
        split: ``data.train_split`` gives the rows to train on, ``data.eval_split`` those to be asked; of what has other
            splits, any name.
        limit: the first so many.

    Raises:
        InputError: everything wrong with the data, each fault named by its row.
    """
    section = recipe.data
    if is_own_data(section):
        return _own_split(section, split, limit)
    loaded = scienceqa.load_problems(
        get_scienceqa_path(section), split, missing_images=section.missing_images, limit=limit
    )
    faults = scienceqa.check_images(loaded.problems)
    if faults:
        raise InputError(*truncate_faults(faults))
    examples = [scienceqa.to_example(p, format=section.format, caption=section.captions) for p in loaded.problems]
    marks = np.array([hash_content(problem.id.encode()) for problem in loaded.problems], dtype=np.uint64)
    return DataSplit(split, examples, (loaded.account(),), marks, loaded.problems)


def is_own_data(section: DataSection) -> bool:
    """Whether rows are people's own, and not ScienceQA's.

    Raises:
        InputError: for keys that say something of own rows, where they are ScienceQA's.
    """
    if section.path is None:
        return True
    if section.layout not in ("auto", "scienceqa"):
        return True
    unsaid = section.layout == "auto" and section.path not in WORLDS
    if unsaid and (section.streaming or not is_scienceqa(section.path, section.train_split)):
        return True
    fields = type(section).model_fields
    vain = [name for name in (*_OF_OWN, "eval_share") if getattr(section, name) != fields[name].default]
    if vain:
        raise InputError(*(f"data.{name}: says nothing of ScienceQA problems; leave it out." for name in vain))
    return False


_OF_OWN = ("columns", "image_root", "question", "response", "eval_path", "cap", "select", "streaming")


def get_scienceqa_path(section: DataSection) -> str:
    """Where ScienceQA's problems are."""
    return resolve_path(section, str(section.path))


def resolve_path(section: DataSection, path: str) -> str:
    """Where a path's rows are: pocket data is drawn now, if it was not before; all else is where it says."""
    drawn = path in WORLDS or path in OWN_DATA_SETS
    return str(prepare_pocket_data(path, section.pocket.seed, section.pocket.size)) if drawn else path


def load_train_and_test(recipe: Recipe) -> tuple[DataSplit, DataSplit]:
    """The examples to train on and those to be asked, none of which is in both.

    Raises:
        InputError: what is wrong with either, at once.
    """
    section = recipe.data
    found: list[DataSplit] = []
    faults: list[str] = []
    for split, limit in ((section.train_split, section.train_limit), (section.eval_split, section.eval_limit)):
        try:
            found.append(load_split(recipe, split, limit))
        except UnreachableError:
            raise
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*dict.fromkeys(faults))
    train, test = found
    check_disjoint(train, test)
    return train, test


def check_disjoint(train: DataSplit, test: DataSplit) -> None:
    """Raise InputError when something to train on is asked too: a score on it says nothing."""
    both = np.flatnonzero(np.isin(train.marks, test.marks))
    if len(both):
        name = train.examples[int(both[0])].id
        raise InputError(
            f"{len(both):,} examples are in both data.train_split={train.name} and data.eval_split={test.name}, "
            f"such as {name}; a score on what was trained on says nothing."
        )


def check_data_source(recipe: Recipe) -> None:
    """Raise InputError, or Unreachable, where the data is not to be found; reads as little as it can."""
    section = recipe.data
    if is_own_data(section):
        for place in section.places:
            if not section.streaming:
                find_rows(resolve_path(section, place.path), section.train_split)
    else:
        scienceqa.load_problems(get_scienceqa_path(section), section.train_split, pictures=False, limit=1)


# --- own data ------------------------------------------------------------------------------------------------------


def find_source(section: DataSection, place: SourceSection, split: str, number: int = 0) -> tuple[Source, np.ndarray]:
    """Where a place's rows of a split are, and which of them it is."""
    evaluating = split == section.eval_split and split != section.train_split
    limit = section.eval_limit if evaluating else section.train_limit
    held = section.eval_share and split in (section.train_split, section.eval_split)
    path = place.eval_path if evaluating and place.eval_path else place.path
    source = open_source(
        resolve_path(section, path),
        section.train_split if held else split,
        layout=place.layout,
        columns=place.columns,
        image_root=Path(place.image_root).expanduser() if place.image_root else None,
        question=place.question,
        response=place.response,
        stream=limit if section.streaming else None,
        prefix=f"{number}/" if section.sources else "",
    )
    if held:
        source, marks = hash_source(source)
        train, test = hold_out_rows(marks, section.eval_share, section.seed)
        return source, test if evaluating else train
    if source.split is None and split != section.train_split and not (evaluating and place.eval_path):
        raise InputError(
            f"data.path: '{path}' has no split '{split}' of its own. Name a file of it in data.eval_path, or hold rows "
            "out: --set data.eval_share=0.1."
        )
    return source, np.arange(len(source))


@dataclass(frozen=True)
class _Part:
    """What one place gives to a split: of ``rows`` those that a look ``found`` fit, and of these the ``chosen``."""

    place: SourceSection
    source: Source
    rows: int
    found: Survey
    chosen: np.ndarray

    def share(self, drawn: int) -> SourceShare:
        faulty, usable = self.found.faults.rows, len(self.found.kept)
        return SourceShare(
            self.place.path, self.source.reader.layout, self.rows, faulty, usable, len(self.chosen), drawn
        )


def _own_split(section: DataSection, split: str, limit: int | None) -> DataSplit:
    training = split == section.train_split
    parts = _looked_at(section, split, limit)
    sizes = [len(part.chosen) for part in parts]
    takes = allocate_counts(sizes, [part.place.weight for part in parts], section.sampling) if training else sizes
    numbers = [draw_rows(part.chosen, take, section.seed) for part, take in zip(parts, takes, strict=True)]
    rows = np.concatenate([part.found.kept[some] for part, some in zip(parts, numbers, strict=True)]).astype(np.int64)
    marks = np.concatenate([part.found.marks[some] for part, some in zip(parts, numbers, strict=True)])
    of = np.repeat(np.arange(len(parts)), takes)
    order = np.random.default_rng(section.seed).permutation(len(rows)) if len(parts) > 1 else np.arange(len(rows))
    order = order[:limit]
    shares = [part.share(take) for part, take in zip(parts, takes, strict=True)]
    faults = [line for part in parts for line in part.found.faults.lines]
    lines = _account(split, shares, len(order), faults)
    if not len(order):
        raise InputError(f"Nothing to use in split '{split}'.", *lines)
    examples = Examples([part.source for part in parts], np.stack([of, rows], axis=1)[order])
    return DataSplit(split, examples, tuple(lines), marks[order], faults=tuple(faults))


def _looked_at(section: DataSection, split: str, limit: int | None) -> list[_Part]:
    """Every place's rows of a split; raises InputError for all that is wrong with any, unless that may be dropped."""
    training = split == section.train_split
    parts: list[_Part] = []
    faults: list[str] = []
    for number, place in enumerate(section.places):
        try:
            source, rows = find_source(section, place, split, number)
        except InputError as error:
            faults += error.faults
            continue
        whole = len(section.places) > 1 or (training and (place.select or place.cap))
        found = survey_source(source, rows, limit=None if whole else limit)
        chosen = _chosen(section, place, source, found) if training else np.arange(len(found.kept))
        parts.append(_Part(place, source, len(rows), found, chosen))
    told = [line for part in parts for line in part.found.faults.lines] if section.faulty_rows == "error" else []
    if told:
        count = sum(part.found.faults.rows for part in parts)
        faults += told[:10]
        faults.append(
            f"{count:,} faulty row{'s' * (count != 1)} in split '{split}'. Mend them, or leave them out: "
            "--set data.faulty_rows=drop."
        )
    if faults:
        raise InputError(*faults)
    return parts


def _chosen(section: DataSection, place: SourceSection, source: Source, found: Survey) -> np.ndarray:
    """Numbers of the kept rows that selection and cap leave."""
    numbers = np.arange(len(found.kept))
    if place.select:
        selection = Selection(place.select.concepts, place.select.keep, place.select.yes_no, section.seed)
        for row in found.kept:
            selection.see(source[int(row)])
        numbers = selection.chosen()
    return cap_rows(numbers, place.cap, section.seed)


def _account(split: str, shares: Sequence[SourceShare], used: int, faults: Sequence[str]) -> list[str]:
    def total(what: str) -> int:
        return sum(getattr(share, what) for share in shares)

    line = f"{split}: {used:,} of {total('rows'):,} rows used"
    if len(shares) == 1:
        line += f" ({shares[0].layout})"
    if faulty := total("faulty"):
        line += f"; {faulty:,} faulty rows left out"
    if cut := total("usable") - total("chosen"):
        line += f"; {cut:,} left out by selection and cap"
    if beyond := total("rows") - total("usable") - faulty + total("drawn") - used:
        line += f"; {beyond:,} beyond the limit"
    few = [f"  left out: {fault}" for fault in faults[:3]]
    few += [f"  … and {faulty - 3:,} more"] if faulty > 3 else []
    return [line, *few, *(format_shares(shares) if len(shares) > 1 else [])]
