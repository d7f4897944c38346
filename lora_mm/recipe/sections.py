"""What to do, as validated data: a YAML recipe, what it extends, and ``--set`` on top. Knows no torch and does nothing.

``extends`` names a recipe or a file; of several, each goes on top of those before it.

Keys of ``training`` have the names of ``transformers.TrainingArguments``.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from lora_mm.adapters.placement import Placement
from lora_mm.errors import suggest_name
from lora_mm.recipe.columns import COLUMNS
from lora_mm.yaml_text import to_yaml

Part = Literal["vision", "connector", "language", "head"]
Logger = Literal["none", "tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "swanlab", "clearml", "dvclive"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)


class StackSection(_Section):
    """Layers of a part: paths of their lists, and role → path inside a layer (``lora-mm models show`` for examples)."""

    layers: list[str] = Field(min_length=1)
    roles: dict[str, str]


class AnatomySection(_Section):
    """Where the parts of a model are that lora-mm does not know (see ``models.families.describe_family``).

    Attributes:
        like: the model type whose description holds where nothing is said here.
    """

    like: str | None = None
    language: StackSection | None = None
    vision: StackSection | None = None
    parts: dict[Part, list[str]] | None = None
    placeholders: dict[str, str] | None = None
    visual_tokens: bool | None = None
    crops: Literal["none", "overview_first", "overview_last", "quarters"] | None = None
    framed: bool | None = None
    packed: bool | None = None


class BaseSection(_Section):
    """The frozen model.

    Attributes:
        model: Hub id, folder, or ``pocket`` for the base that ships with the package.
        revision: branch, tag or commit on the Hub.
        dtype: of weights and products that are not quantised.
        quantization: ``nf4`` (4 bits, double quantisation), ``int8`` or ``none``.
        full_precision: parts left out of quantisation.
        attention: transformers' ``attn_implementation``.
        kernels: which form of the adapters' operations runs: ``torch``, ``triton`` where it can, or ``auto``: Triton
            where it was measured to be faster.
        anatomy: where the model's parts are, for a type that ``lora-mm models list`` does not name.
    """

    model: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    quantization: Literal["none", "nf4", "int8"] = "none"
    full_precision: list[Part] = ["vision", "connector", "head"]
    attention: str | None = None
    kernels: Literal["auto", "triton", "torch"] = "auto"
    anatomy: AnatomySection | None = None


class PocketWorld(_Section):
    """Seed and number of rows of the pocket data that ``data.path`` names."""

    seed: int = Field(0, ge=0)
    size: int = Field(6000, ge=100)


class SlicingSection(_Section):
    """How pictures are cut into crops, for a tower that sees one small square: a grid of windows, then the whole.

    ``window`` is their side in pixels; by default what the base's processor takes.
    """

    rows: int = Field(2, ge=1)
    columns: int = Field(2, ge=1)
    window: int | None = Field(None, ge=16)


class SelectionSection(_Section):
    """A core set (SVIT): the examples that say most about given concepts.

    Attributes:
        concepts: words and phrases; an example ranks by how many of them it has.
        keep: how many examples; None for all that ``yes_no`` leaves.
        yes_no: leave out answers that begin with yes, or with no, until there are as many of one as of the other.
    """

    concepts: list[str] = []
    keep: int | None = Field(None, ge=1)
    yes_no: bool = False

    @model_validator(mode="after")
    def _selects(self) -> "SelectionSection":
        if not self.yes_no and not (self.concepts and self.keep):
            raise ValueError("selects nothing: give concepts and keep, or yes_no")
        return self


class _PlaceSection(_Section):
    layout: Literal[
        "auto", "scienceqa", "messages", "conversations", "multiple_choice", "question_answer", "caption"
    ] = "auto"
    columns: dict[str, str] = {}
    image_root: str | None = None
    question: str | None = None
    response: Literal["none", "short", "letter"] = "none"
    eval_path: str | None = None
    cap: int | None = Field(None, ge=1)
    select: SelectionSection | None = None

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = [what for what in columns if what not in COLUMNS]
        if unknown:
            like = suggest_name(unknown[0], list(COLUMNS))
            raise ValueError(f"'{unknown[0]}' is nothing that is read; that is {', '.join(COLUMNS)}.{like}")
        return columns


class SourceSection(_PlaceSection):
    """One place of a mixture; keys as in ``data``, of which it takes nothing.

    Attributes:
        weight: how often to draw from it, beside what ``data.sampling`` gives by its size.
    """

    path: str
    weight: float = Field(1.0, ge=0)


class DataSection(_PlaceSection):
    """What to learn from, and what to be asked.

    Attributes:
        path: a file (JSON, JSON lines, CSV, Parquet), a folder, a Hub id; ScienceQA in its official folder, as Parquet
            or from the Hub; ``pocket`` or another name of ``lora-mm data make``.
        sources: several places instead, mixed.
        layout: what rows look like; ``auto`` goes by their columns.
        columns: what is read → its column (``question``, ``answer``, ``choices``, ``image``, ``context``, ``id``,
            ``messages``, ``conversations``), where the name is another.
        image_root: where pictures' paths go out from; by default the file's folder.
        question: asked of rows that have none, such as captions.
        response: what every question ends in asking for: ``short`` answers, the option's ``letter``, ``none``.
        eval_path: where the rows to be asked are, if not in a split of ``path``.
        eval_share: or hold out this share of the training rows.
        cap: at most so many training rows of a place, by chance.
        select: a core set of the training rows.
        sampling: how sources mix: each row once (``proportional``), by the square root of sizes (``sqrt``), or by
            ``weights`` alone.
        seed: of what is held out, capped, selected and drawn.
        faulty_rows: what a row that cannot be used means: ``error``, or ``drop`` it and say so.
        streaming: of a set on the Hub, bring only the first ``train_limit`` and ``eval_limit`` rows here.
        pocket: how much to draw when the path is one of those.
        train_split, eval_split: names of the splits.
        format: of ScienceQA, the assistant's turn: ``QCM-ALE`` answers with letter, lecture and solution, ``QCM-A``
            with the letter alone, ``QCM-T`` with the words of the choice.
        captions: of ScienceQA, whether the picture's caption is part of the context.
        missing_images: of ScienceQA, what a problem without its picture file means: ``error``, ``skip`` the row, or ask
            as ``text``.
        slicing: how pictures are cut into crops, for families that do not do so by themselves; None leaves them whole.
        max_length: tokens of a whole exchange, placeholders included.
        overlong: what a longer one means: ``error``, ``drop`` the row, or ``truncate`` its end.
        train_limit, eval_limit: use the first so many rows.
    """

    path: str | None = None
    sources: list[SourceSection] = []
    eval_share: float = Field(0.0, ge=0, lt=1)
    sampling: Literal["proportional", "sqrt", "weights"] = "proportional"
    seed: int = Field(0, ge=0)
    faulty_rows: Literal["error", "drop"] = "error"
    streaming: bool = False
    pocket: PocketWorld = PocketWorld()
    train_split: str = "train"
    eval_split: str = "test"
    format: Literal["QCM-ALE", "QCM-A", "QCM-T"] = "QCM-ALE"
    captions: bool = False
    slicing: SlicingSection | None = None
    missing_images: Literal["error", "skip", "text"] = "error"
    max_length: int = Field(2048, ge=8)
    overlong: Literal["error", "drop", "truncate"] = "error"
    train_limit: int | None = Field(None, ge=1)
    eval_limit: int | None = Field(None, ge=1)

    @property
    def where(self) -> str:
        """The path, or those of the sources, for people."""
        return ", ".join(place.path for place in self.places)

    @property
    def places(self) -> list[SourceSection]:
        """The sources; of a single path, the one that it is."""
        if self.path is None:
            return self.sources
        return [SourceSection(path=self.path, **{name: getattr(self, name) for name in _PlaceSection.model_fields})]

    @field_validator("sources")
    @classmethod
    def _path_or_sources(cls, sources: list[SourceSection], info: ValidationInfo) -> list[SourceSection]:
        if "path" not in info.data:  # it is no path, which is told already
            return sources
        path = info.data["path"]
        if path is None and not sources:
            raise ValueError("neither data.path nor data.sources says where the rows are")
        if path is not None and sources:
            raise ValueError(f"data.path={path} says where the rows are too; leave that out, or set it to null")
        return sources

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "DataSection":
        faults = []
        own = [
            name for name in _PlaceSection.model_fields if getattr(self, name) != type(self).model_fields[name].default
        ]
        if self.sources and own:
            faults.append(f"{', '.join(own)}: say it in each of sources, where it belongs to a place")
        for number, source in enumerate(self.sources):
            if source.layout == "scienceqa":
                faults.append(f"sources.{number}.layout: scienceqa stands alone, as data.path; it is scored by itself")
        held = [place.eval_path for place in self.places if place.eval_path]
        if self.eval_share and held:
            faults.append(f"eval_share and eval_path ({held[0]}): one of them says what is asked")
        if self.sampling == "weights" and not any(source.weight for source in self.sources):
            faults.append("sampling: weights needs sources with a weight above 0")
        if self.streaming and not (self.train_limit and self.eval_limit):
            faults.append("streaming: brings the first rows only; say how many by train_limit and eval_limit")
        if faults:
            raise ValueError("\n".join(faults))
        return self


class TrainingSection(_Section):
    """How to train; names and meanings of ``transformers.TrainingArguments``.

    ``train_sampling_strategy: group_by_modality`` is ours: batches of like length, of pictures or of text alone.
    ``warmup_steps`` below 1 is a share of all steps. ``max_steps`` above 0 wins over ``num_train_epochs``.
    """

    num_train_epochs: float = Field(1.0, gt=0)
    max_steps: int = Field(-1, ge=-1)
    per_device_train_batch_size: int = Field(8, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_steps: float = Field(0.1, ge=0)
    lr_scheduler_type: Literal[
        "cosine", "linear", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial", "cosine_with_restarts"
    ] = "cosine"
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, ge=0)
    gradient_checkpointing: bool = False
    train_sampling_strategy: Literal["random", "sequential", "group_by_length", "group_by_modality"] = "random"
    dataloader_num_workers: int = Field(0, ge=0)
    logging_steps: int = Field(10, ge=1)
    save_steps: int = Field(500, ge=1)
    save_total_limit: int | None = Field(2, ge=1)
    report_to: Logger = "none"
    seed: int = Field(0, ge=0)


class EvaluationSection(_Section):
    """How to score.

    Attributes:
        metric: ``auto`` takes the one that fits the data: ``scienceqa`` for its own problems (the official columns),
            ``choice`` where every question has choices, ``yes_no`` where every answer is one of these (accuracy,
            precision, recall, F1 and share of yes, as POPE), ``vqa`` where every question has ten answers (VQAv2's
            formula), else ``exact`` (equal but for case, spaces, quotes around it and full stops behind it). To be
            named: ``contains`` (a right answer stands somewhere in what was written, as LLaVAR), ``mme`` (yes or no,
            two questions a picture) and ``caption`` (chrF and BLEU).
        answer: ``likelihood`` takes the choice whose answer the model finds likeliest; ``generate`` lets it write and
            reads that; ``auto`` is likelihood for metrics of choices, and generate for the others.
        likelihood: of a choice: the ``sum`` over its tokens, or the ``mean``, by which long ones lose nothing.
        max_new_tokens: of a generated answer.
        per_device_eval_batch_size: problems a forward.
        base: whether to score the frozen base as well.
    """

    metric: Literal["auto", "scienceqa", "choice", "exact", "vqa", "contains", "yes_no", "mme", "caption"] = "auto"
    answer: Literal["auto", "likelihood", "generate"] = "auto"
    likelihood: Literal["sum", "mean"] = "sum"
    max_new_tokens: int = Field(32, ge=1)
    per_device_eval_batch_size: int = Field(16, ge=1)
    base: bool = True


class Recipe(_Section):
    """One job, whole.

    Attributes:
        name, summary: for people.
        adapters: placements; a method's bare name takes its usual values.
        train: parts trained whole beside the adapters.
        save_dtype: of the tensors in the adapter's file. They train in float32; scores are those of what is saved.
        license: of the adapter, for its model card, as the Hub calls it (``apache-2.0``); ``other`` for none named.
    """

    name: str
    summary: str = ""
    license: str = "other"
    base: BaseSection
    adapters: list[Placement] = []
    train: list[Literal["connector", "head"]] = []
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    data: DataSection
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()

    @field_validator("adapters", mode="before")
    @classmethod
    def _method_names(cls, adapters: Any) -> Any:
        """A method's bare name is short for a placement with its usual values."""
        if not adapters:
            return []
        if isinstance(adapters, str):
            adapters = [adapters]
        if not isinstance(adapters, list):
            return adapters  # pydantic says what it should be
        return [{"method": item} if isinstance(item, str) else item for item in adapters]

    @model_validator(mode="after")
    def _something_trains(self) -> "Recipe":
        if not self.adapters and not self.train:
            raise ValueError("nothing to train: name at least one of `adapters` or one part in `train`")
        return self

    @model_validator(mode="after")
    def _an_expert_for_each_crop(self) -> "Recipe":
        if self.data.slicing is None:
            return self
        crops = self.data.slicing.rows * self.data.slicing.columns
        unlike = [f"adapters.{n}.experts" for n, item in enumerate(self.adapters)
                  if item.row.router == "crop" and item.experts != crops]  # fmt: skip
        if unlike:
            raise ValueError(
                f"{', '.join(unlike)}: data.slicing cuts a picture into {crops} crops; give {crops} experts"
            )
        return self

    def to_yaml(self) -> str:
        """The resolved recipe, every key spelled out; loading it again gives an equal recipe."""
        return to_yaml(self.model_dump(mode="json"))
