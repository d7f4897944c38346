"""Loads the user's own rows as examples, from one source or several; accounts for every row. Knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_mm.data.data_split import DataSplit
from lora_mm.data.location import locate_path
from lora_mm.data.mixture import SourceCounts, allocate_counts, cap_rows, draw_rows, format_counts, hold_out_rows
from lora_mm.data.selection import Selection
from lora_mm.data.source import Examples, Source, open_source
from lora_mm.data.survey import Survey, hash_source, survey_source
from lora_mm.data.tables import MissingSplitError
from lora_mm.errors import InputError
from lora_mm.paths import resolve_path
from lora_mm.recipe.data_section import DataSection, SourceSection

_FAULTS_IN_ERROR = 10
_FAULTS_IN_ACCOUNT = 3


@dataclass(frozen=True)
class FoundSources:
    """The sources of a recipe in one split.

    Attributes:
        opened: each source with the numbers of its rows in the split.
        train_only: paths of the sources of a mixture that have no rows to evaluate on.
    """

    opened: list[tuple[Source, np.ndarray]]
    train_only: list[str]


def find_sources(section: DataSection, split: str) -> FoundSources:
    """Open every source of a recipe; see :func:`find_source`.

    Args:
        section: the recipe's ``data`` section.
        split: name of the split.

    Raises:
        InputError: a source cannot be opened, or none has rows of the split.
    """
    found = {n: _find_source_if_any(section, entry, split, n) for n, entry in enumerate(section.all_sources)}
    opened = [item for item in found.values() if item]
    if not opened:
        raise InputError(_describe_nothing_to_evaluate(split))
    return FoundSources(opened, [section.sources[number].path for number, item in found.items() if item is None])


def _find_source_if_any(
    section: DataSection, entry: SourceSection, split: str, number: int
) -> tuple[Source, np.ndarray] | None:
    """Find a source; None if it belongs to a mixture, and is for training only."""
    try:
        return find_source(section, entry, split, number)
    except MissingSplitError:
        if split == section.train_split or not section.sources:
            raise
        return None


def _describe_nothing_to_evaluate(split: str) -> str:
    return (
        f"data.sources: none has rows of split '{split}' to evaluate on. Set eval_path in one of them, or hold out "
        "some rows: --set data.eval_share=0.1."
    )


def find_source(section: DataSection, entry: SourceSection, split: str, number: int = 0) -> tuple[Source, np.ndarray]:
    """Open one source, and find which of its rows are in a split.

    Args:
        section: the recipe's ``data`` section.
        entry: one of ``data.all_sources``.
        split: name of the split.
        number: index of the source, from 0; the prefix of its ids in a mixture.

    Returns:
        The source, and the row numbers of the split.

    Raises:
        MissingSplitError: the source has no rows of the split.
        InputError: the source has no rows at all, or no known layout.
    """
    evaluating = split == section.eval_split and split != section.train_split
    share = section.eval_share if entry.eval_share is None else entry.eval_share
    if evaluating and entry.eval_share == 0:
        raise MissingSplitError(f"data.sources: '{entry.path}' is for training only (eval_share=0).")
    limit = section.eval_limit if evaluating else section.train_limit
    held_out = share and split in (section.train_split, section.eval_split)
    path = entry.eval_path if evaluating and entry.eval_path else entry.path
    source = open_source(
        locate_path(section, path),
        section.train_split if held_out else split,
        layout=entry.layout,
        columns=entry.columns,
        image_root=resolve_path(entry.image_root, "data.image_root") if entry.image_root else None,
        question=entry.question,
        response=entry.response,
        answer=entry.answer,
        stream=limit if section.streaming else None,
        prefix=f"{number}/" if section.sources else "",
    )
    if held_out:
        source, hashes = hash_source(source)
        train, test = hold_out_rows(hashes, share, section.seed)
        return source, test if evaluating else train
    if source.split is None and split != section.train_split and not (evaluating and entry.eval_path):
        raise MissingSplitError(
            f"data.path: '{path}' has no split '{split}'. Set data.eval_path to a file with its rows, or hold out "
            "some: --set data.eval_share=0.1."
        )
    return source, np.arange(len(source))


@dataclass(frozen=True)
class _SurveyedSource:
    """One source of a split, with its rows checked.

    Attributes:
        entry: the source in the recipe.
        source: the source.
        rows: number of its rows in the split.
        survey: which rows can be used.
        chosen: indices into ``survey.usable`` of the rows that selection and cap leave.
    """

    entry: SourceSection
    source: Source
    rows: int
    survey: Survey
    chosen: np.ndarray

    def count(self, drawn: int) -> SourceCounts:
        """Count the rows; ``drawn`` of them are in an epoch."""
        return SourceCounts(
            name=self.entry.path,
            layout=self.source.reader.layout,
            rows=self.rows,
            faulty=self.survey.faults.rows,
            usable=len(self.survey.usable),
            chosen=len(self.chosen),
            drawn=drawn,
        )


def load_own_split(section: DataSection, split: str, limit: int | None) -> DataSplit:
    """Load a split of the user's own rows, mixed from all sources.

    Args:
        section: the recipe's ``data`` section.
        split: name of the split.
        limit: maximum number of examples, from the first; None for all.

    Raises:
        InputError: all faults of all sources, or no row can be used.
    """
    surveyed, train_only = _survey_sources(section, split, limit)
    drawn = _draw(section, split, surveyed)
    index, hashes = _join(surveyed, drawn)
    count = len(index)
    order = np.random.default_rng(section.seed).permutation(count) if len(surveyed) > 1 else np.arange(count)
    order = order[:limit]
    counts = [item.count(len(numbers)) for item, numbers in zip(surveyed, drawn, strict=True)]
    faults = [line for item in surveyed for line in item.survey.faults.lines]
    account = _write_account(split, counts, len(order), faults)
    if train_only:
        account.append(format_train_only(split, train_only))
    if not len(order):
        raise InputError(f"No usable rows in split '{split}'.", *account)
    examples = Examples([item.source for item in surveyed], index[order])
    return DataSplit(split, examples, tuple(account), hashes[order], faults=tuple(faults))


def _survey_sources(section: DataSection, split: str, limit: int | None) -> tuple[list[_SurveyedSource], list[str]]:
    """Survey every source; raise InputError for all faults, except faulty rows that are dropped.

    Returns:
        The sources with rows of the split, and the paths of those that are for training only.
    """
    training = split == section.train_split
    surveyed: list[_SurveyedSource] = []
    train_only: list[str] = []
    faults: list[str] = []
    for number, entry in enumerate(section.all_sources):
        try:
            found = _find_source_if_any(section, entry, split, number)
        except InputError as error:
            faults += error.faults
            continue
        if found is None:
            train_only.append(entry.path)
            continue
        source, rows = found
        needs_all = len(section.all_sources) > 1 or (training and (entry.select or entry.cap))
        survey = survey_source(source, rows, limit=None if needs_all else limit)
        chosen = _choose_rows(section, entry, source, survey) if training else np.arange(len(survey.usable))
        surveyed.append(_SurveyedSource(entry, source, len(rows), survey, chosen))
    if not surveyed and not faults:
        faults.append(_describe_nothing_to_evaluate(split))
    if section.faulty_rows == "error":
        faults += _describe_faulty_rows(split, surveyed)
    if faults:
        raise InputError(*faults)
    return surveyed, train_only


def _choose_rows(section: DataSection, entry: SourceSection, source: Source, survey: Survey) -> np.ndarray:
    """Apply the entry's selection and cap; return indices into ``survey.usable``."""
    numbers = np.arange(len(survey.usable))
    if entry.select:
        selection = Selection(entry.select.concepts, entry.select.keep, entry.select.yes_no, section.seed)
        for row in survey.usable:
            selection.add(source[int(row)])
        numbers = selection.choose()
    return cap_rows(numbers, entry.cap, section.seed)


def _describe_faulty_rows(split: str, surveyed: Sequence[_SurveyedSource]) -> list[str]:
    lines = [line for item in surveyed for line in item.survey.faults.lines]
    if not lines:
        return []
    count = sum(item.survey.faults.rows for item in surveyed)
    return [
        *lines[:_FAULTS_IN_ERROR],
        f"{_count(count, 'faulty row')} in split '{split}'. Fix them, or drop them: --set data.faulty_rows=drop.",
    ]


def _draw(section: DataSection, split: str, surveyed: Sequence[_SurveyedSource]) -> list[np.ndarray]:
    """Draw each source's rows of an epoch, as indices into its ``survey.usable``. Evaluation uses each row once."""
    sizes = [len(item.chosen) for item in surveyed]
    if split == section.train_split:
        sizes = allocate_counts(sizes, [item.entry.weight for item in surveyed], section.sampling)
    return [draw_rows(item.chosen, size, section.seed) for item, size in zip(surveyed, sizes, strict=True)]


def _join(surveyed: Sequence[_SurveyedSource], drawn: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Join the drawn rows of all sources: ``[examples, 2]`` of source and row, and the hash of each example."""
    pairs = list(zip(surveyed, drawn, strict=True))
    rows = np.concatenate([item.survey.usable[numbers] for item, numbers in pairs]).astype(np.int64)
    hashes = np.concatenate([item.survey.hashes[numbers] for item, numbers in pairs])
    sources = np.repeat(np.arange(len(surveyed)), [len(numbers) for numbers in drawn])
    return np.stack([sources, rows], axis=1), hashes


def format_train_only(split: str, paths: Sequence[str]) -> str:
    """Say which sources have no rows of the evaluation split."""
    return f"{split}: {_count(len(paths), 'source')} without rows to evaluate on, for training only: {', '.join(paths)}"


def _write_account(split: str, counts: Sequence[SourceCounts], used: int, faults: Sequence[str]) -> list[str]:
    """Account for every row of a split: one line, the first faults, and for a mixture a table of its sources."""
    rows, faulty, usable, chosen, drawn = (
        sum(getattr(count, name) for count in counts) for name in ("rows", "faulty", "usable", "chosen", "drawn")
    )
    line = f"{split}: {used:,} of {rows:,} rows used"
    if len(counts) == 1:
        line += f" ({counts[0].layout})"
    if faulty:
        line += f"; {_count(faulty, 'faulty row')} dropped"
    if unchosen := usable - chosen:
        line += f"; {unchosen:,} left out by selection and cap"
    if beyond := rows - usable - faulty + drawn - used:
        line += f"; {beyond:,} beyond the limit"
    first_faults = [f"  dropped: {fault}" for fault in faults[:_FAULTS_IN_ACCOUNT]]
    if faulty > _FAULTS_IN_ACCOUNT:
        first_faults.append(f"  … and {faulty - _FAULTS_IN_ACCOUNT:,} more")
    return [line, *first_faults, *(format_counts(counts) if len(counts) > 1 else [])]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
