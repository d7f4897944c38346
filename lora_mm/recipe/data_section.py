"""The ``data`` section of a recipe: what to train on and what to evaluate on. Reads no data."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lora_mm.errors import suggest_name
from lora_mm.models.picture_fit import Fit
from lora_mm.recipe.columns import COLUMNS
from lora_mm.section import Section

MAX_SEED = 2**32 - 1
"""The largest random seed that NumPy's generators of all kinds take."""
MAX_COUNT = 10**9
"""Maximum number of rows or steps."""


class PocketSection(Section):
    """Which pocket data to draw.

    Attributes:
        seed: Random seed.
        size: Number of rows to draw, in all splits together.
    """

    seed: int = Field(0, ge=0, le=MAX_SEED)
    size: int = Field(6000, ge=100, le=1_000_000)


class PicturesSection(Section):
    """How to fit pictures before the base's processor.

    Attributes:
        fit: How a picture becomes a square. ``processor`` leaves it to the base's processor, which may crop it. ``pad``
            adds borders in the processor's mean colour, as LLaVA-1.5 was trained. ``squash`` resizes without regard to
            the aspect, and ``crop`` keeps the central square. With ``data.slicing``, pictures are fitted first.
    """

    fit: Fit = "processor"


class SlicingSection(Section):
    """How to cut pictures into crops, for a vision tower with one small square input.

    The model sees the crops of a grid, then the whole picture.

    Attributes:
        rows: Rows of the grid.
        columns: Columns of the grid.
        window: Side of a crop in pixels. By default, the size that the base's image processor uses.
    """

    rows: int = Field(2, ge=1, le=16)
    columns: int = Field(2, ge=1, le=16)
    window: int | None = Field(None, ge=16, le=2048)


class SelectionSection(Section):
    """A core set: the training examples that cover given concepts best, as in SVIT.

    Attributes:
        concepts: Words and phrases. Examples are ranked by how many of them they contain.
        keep: Maximum number of examples to keep. By default, all that ``yes_no`` leaves.
        yes_no: Whether to drop examples so that as many answers start with yes as with no.
    """

    concepts: list[str] = []
    keep: int | None = Field(None, ge=1, le=MAX_COUNT)
    yes_no: bool = False

    @model_validator(mode="after")
    def _check_that_it_selects(self) -> "SelectionSection":
        if not self.yes_no and not (self.concepts and self.keep):
            raise ValueError("selects nothing; set concepts and keep, or yes_no")
        return self


class SourceKeys(Section):
    """The keys that ``data`` shares with each entry of ``data.sources``.

    Attributes:
        layout: Format of the rows. ``auto`` detects it from the column names.
        columns: Names of the columns to read, where they differ from the usual ones. Keys: ``question``, ``answer``,
            ``choices``, ``image``, ``context``, ``id``, ``messages``, ``conversations``.
        image_root: Folder that picture paths are relative to. By default, the folder of the file.
        question: Question for rows that have none, such as captions.
        response: Instruction appended to every question: ``short`` asks for a short answer, ``letter`` for the letter
            of the choice, ``none`` appends nothing.
        answer: How the rows of multiple choice name the right choice: by its ``index`` from 0, its ``letter`` or its
            ``text``. By default, by any of them, and a row where two of them name different choices is faulty.
        eval_path: File, folder or Hub id of the evaluation rows, if they are not a split of ``path``.
        cap: Maximum number of training rows, sampled at random.
        select: Core set of the training rows to use; by default, all of them.
    """

    layout: Literal[
        "auto", "scienceqa", "messages", "conversations", "multiple_choice", "question_answer", "caption"
    ] = "auto"
    columns: dict[str, str] = {}
    image_root: str | None = None
    question: str | None = None
    response: Literal["none", "short", "letter"] = "none"
    answer: Literal["index", "letter", "text"] | None = None
    eval_path: str | None = None
    cap: int | None = Field(None, ge=1, le=MAX_COUNT)
    select: SelectionSection | None = None

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = [name for name in columns if name not in COLUMNS]
        if unknown:
            suggestion = suggest_name(unknown[0], list(COLUMNS))
            raise ValueError(f"Unknown column '{unknown[0]}'. Known: {', '.join(COLUMNS)}.{suggestion}")
        return columns


class SourceSection(SourceKeys):
    """One source of a mixture, with the keys of :class:`SourceKeys`. It takes no value from ``data``.

    Attributes:
        path: File (JSON, JSON lines, CSV or Parquet), folder or Hub id of the rows.
        weight: Sampling weight of this source, multiplied with the share that ``data.sampling`` gives it.
        eval_share: Share of this source's training rows to hold out for evaluation; by default ``data.eval_share``.
            With 0, the source is for training only, as is one without an evaluation split or ``eval_path``.
    """

    path: str
    weight: float = Field(1.0, ge=0, le=1e6)
    eval_share: float | None = Field(None, ge=0, lt=1)


class DataSection(SourceKeys):
    """What to train on and what to evaluate on, with the keys of :class:`SourceKeys`.

    Attributes:
        path: Where the rows are: a file (JSON, JSON lines, CSV or Parquet), a folder, a Hub id, ``pocket`` or another
            name that ``lora-mm data make`` knows. ScienceQA is read from its official folder, from Parquet or from the
            Hub.
        sources: Several sources to mix, in place of ``path``.
        eval_share: Share of the training rows to hold out for evaluation, in place of a split or ``eval_path``.
        sampling: How to mix sources. ``proportional`` uses each row once, ``sqrt`` samples sources in proportion to the
            square root of their size, and ``weights`` in proportion to their weights alone.
        seed: Random seed to hold out, cap, select and sample rows.
        faulty_rows: What to do with rows that cannot be used: stop with an ``error``, or ``drop`` and report them.
        streaming: Whether to download only the first ``train_limit`` and ``eval_limit`` rows of a Hub data set.
        pocket: Seed and size of the pocket data, if ``path`` names pocket data.
        train_split: Name of the training split.
        eval_split: Name of the evaluation split.
        format: Format of ScienceQA prompts and answers. ``QCM-ALE`` answers a sentence with the letter, the lecture and
            the solution, ``QCM-A`` the sentence alone, ``QCM-T`` the text of the choice, and ``CQM-A`` the bare letter,
            with LLaVA's prompt.
        captions: Whether ScienceQA's picture captions are part of the context.
        missing_images: What to do with a ScienceQA problem whose picture file is missing: stop with an ``error``,
            ``skip`` the problem, or ask it as ``text``.
        pictures: How to fit pictures before the base's processor. By default, it gets them as they are.
        slicing: How to cut pictures into crops, for model families that do not do so themselves. By default, pictures
            stay whole.
        special_tokens: Special tokens of the base that texts may spell, and that generated answers keep, such as
            ``<|box_start|>`` and ``<|box_end|>`` to learn Qwen's own boxes. By default, a text that spells one is
            faulty.
        max_length: Maximum number of tokens of prompt and answer, including image placeholders.
        overlong: What to do with longer examples: stop with an ``error``, ``drop`` them, or ``truncate`` their end.
        train_limit: Maximum number of training rows, from the first.
        eval_limit: Maximum number of evaluation rows, from the first.
    """

    path: str | None = None
    sources: list[SourceSection] = []
    eval_share: float = Field(0.0, ge=0, lt=1)
    sampling: Literal["proportional", "sqrt", "weights"] = "proportional"
    seed: int = Field(0, ge=0, le=MAX_SEED)
    faulty_rows: Literal["error", "drop"] = "error"
    streaming: bool = False
    pocket: PocketSection = PocketSection()
    train_split: str = "train"
    eval_split: str = "test"
    format: Literal["QCM-ALE", "QCM-A", "QCM-T", "CQM-A"] = "QCM-ALE"
    captions: bool = False
    pictures: PicturesSection = PicturesSection()
    slicing: SlicingSection | None = None
    missing_images: Literal["error", "skip", "text"] = "error"
    special_tokens: list[str] = []
    max_length: int = Field(2048, ge=8, le=1_000_000)
    overlong: Literal["error", "drop", "truncate"] = "error"
    train_limit: int | None = Field(None, ge=1, le=MAX_COUNT)
    eval_limit: int | None = Field(None, ge=1, le=MAX_COUNT)

    @property
    def location(self) -> str:
        """The path, or the paths of the sources, for messages."""
        return ", ".join(source.path for source in self.all_sources)

    @property
    def all_sources(self) -> list[SourceSection]:
        """The sources. A single ``path`` counts as one source."""
        if self.path is None:
            return self.sources
        return [SourceSection(path=self.path, **{name: getattr(self, name) for name in SourceKeys.model_fields})]

    @field_validator("sources")
    @classmethod
    def _check_path_or_sources(cls, sources: list[SourceSection], info: ValidationInfo) -> list[SourceSection]:
        if "path" not in info.data:  # the path itself is invalid, and pydantic reports that
            return sources
        path = info.data["path"]
        if path is None and not sources:
            raise ValueError("no data; set data.path or data.sources")
        if path is not None and sources:
            raise ValueError(f"data.path={path} is set too; use one of them, or set data.path=null")
        return sources

    @model_validator(mode="after")
    def _check_combinations(self) -> "DataSection":
        faults = []
        changed = [
            name for name in SourceKeys.model_fields if getattr(self, name) != type(self).model_fields[name].default
        ]
        if self.sources and changed:
            faults.append(f"{', '.join(changed)}: not used with sources; set it in each source")
        for number, source in enumerate(self.sources):
            if source.layout == "scienceqa":
                faults.append(
                    f"sources.{number}.layout: scienceqa cannot be mixed with other sources; set it as data.path"
                )
        for number, source in enumerate(self.sources):
            if source.eval_share is not None and source.eval_path:
                faults.append(f"sources.{number}.eval_share: eval_path={source.eval_path} is set too; use one of them")
        eval_paths = [source.eval_path for source in self.all_sources if source.eval_path]
        if self.eval_share and eval_paths:
            faults.append(f"eval_share: eval_path={eval_paths[0]} is set too; use one of them")
        if self.sampling == "weights" and not any(source.weight for source in self.sources):
            faults.append("sampling: weights needs sources with a weight above 0")
        if self.streaming and not (self.train_limit and self.eval_limit):
            faults.append("streaming: needs train_limit and eval_limit, the number of rows to download")
        if faults:
            raise ValueError("\n".join(faults))
        return self
