"""The recipe, and its sections for training and evaluation. Needs no torch and runs nothing."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lora_mm.adapters.placement import Placement
from lora_mm.recipe.base_section import BaseSection
from lora_mm.recipe.data_section import MAX_COUNT, MAX_SEED, DataSection
from lora_mm.section import Section
from lora_mm.yaml_text import to_yaml

Logger = Literal["none", "tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "swanlab", "clearml", "dvclive"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class TrainingSection(Section):
    """How to train. Keys have the names and meanings of ``transformers.TrainingArguments``; ``stratified`` and
    ``loss_weight`` are ours.

    Attributes:
        num_train_epochs: Number of passes over the training data.
        max_steps: Number of optimizer steps, in place of ``num_train_epochs``; -1 means whole epochs.
        per_device_train_batch_size: Examples in a forward pass, on each GPU.
        gradient_accumulation_steps: Forward passes in an optimizer step.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Steps of linear warm-up. A value below 1 is a share of all steps.
        lr_scheduler_type: Schedule of the learning rate after the warm-up.
        weight_decay: Weight decay of AdamW.
        adam_beta1: Decay of AdamW's average of gradients.
        adam_beta2: Decay of AdamW's average of squared gradients.
        max_grad_norm: Norm that gradients are clipped to. 0 turns clipping off.
        gradient_checkpointing: Whether to recompute activations in the backward pass, which takes less memory and more
            time.
        loss_weight: What counts equally in the loss: every supervised ``token``, or every ``example``, whatever the
            length of its answer.
        train_sampling_strategy: Order of the training examples. ``stratified`` is random order in which each optimizer
            step has short and long examples in proportion, in batches of similar length, so it needs accumulated
            batches to be as mixed as ``random``. ``group_by_length`` is transformers' order: least padding, but steps
            in a row have similar lengths, which learns less.
        dataloader_num_workers: Processes that load and encode examples. 0 means the main process does.
        logging_steps: Optimizer steps between logged values.
        save_steps: Optimizer steps between checkpoints.
        save_total_limit: Number of latest checkpoints to keep. null keeps all.
        report_to: Experiment logger.
        seed: Random seed for initialization, data order and dropout.
    """

    num_train_epochs: float = Field(1.0, gt=0, le=1e6)
    max_steps: int = Field(-1, ge=-1, le=MAX_COUNT)
    per_device_train_batch_size: int = Field(8, ge=1, le=65_536)
    gradient_accumulation_steps: int = Field(1, ge=1, le=65_536)
    learning_rate: float = Field(1e-3, gt=0, le=100)
    warmup_steps: float = Field(0.1, ge=0, le=MAX_COUNT)
    lr_scheduler_type: Literal[
        "cosine", "linear", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial", "cosine_with_restarts"
    ] = "cosine"
    weight_decay: float = Field(0.0, ge=0, le=100)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, ge=0, le=1e9)
    gradient_checkpointing: bool = False
    loss_weight: Literal["token", "example"] = "token"
    train_sampling_strategy: Literal["stratified", "random", "sequential", "group_by_length"] = "stratified"
    dataloader_num_workers: int = Field(0, ge=0, le=256)
    logging_steps: int = Field(10, ge=1, le=MAX_COUNT)
    save_steps: int = Field(500, ge=1, le=MAX_COUNT)
    save_total_limit: int | None = Field(2, ge=1, le=MAX_COUNT)
    report_to: Logger = "none"
    seed: int = Field(0, ge=0, le=MAX_SEED)

    @field_validator("max_steps")
    @classmethod
    def _check_that_it_steps(cls, steps: int) -> int:
        if steps == 0:
            raise ValueError("0 steps train nothing; set 1 or more, or -1 for num_train_epochs")
        return steps


class EvaluationSection(Section):
    """How to evaluate.

    Attributes:
        metric: Metric to compute. ``scienceqa`` is the official ScienceQA table, ``choice`` is accuracy over choices,
            ``yes_no`` is accuracy, precision, recall, F1 and share of yes as in POPE, ``vqa`` is VQAv2's accuracy, and
            ``exact`` compares text up to case, spaces, surrounding quotes and final full stops. ``contains`` checks
            whether the output contains a right answer (LLaVAR), ``mme`` scores two yes-or-no questions a picture, and
            ``caption`` is chrF and BLEU. ``auto`` takes one of the first five that fits the data: ``scienceqa`` for
            ScienceQA, ``choice`` if every question has choices, ``yes_no`` if every answer is yes or no, ``vqa`` if
            every question has ten answers, else ``exact``.
        answer: How the model answers. ``likelihood`` takes the choice with the highest likelihood, ``generate``
            generates text and parses it, and ``auto`` is ``likelihood`` for metrics over choices, else ``generate``.
        likelihood: Log-likelihood of a choice: the ``sum`` over its tokens, or the ``mean``, which does not penalize
            long choices.
        max_new_tokens: Maximum number of tokens of a generated answer.
        per_device_eval_batch_size: Problems in a forward pass.
        base: Whether to evaluate the frozen base as well.
    """

    metric: Literal["auto", "scienceqa", "choice", "exact", "vqa", "contains", "yes_no", "mme", "caption"] = "auto"
    answer: Literal["auto", "likelihood", "generate"] = "auto"
    likelihood: Literal["sum", "mean"] = "sum"
    max_new_tokens: int = Field(32, ge=1, le=1_000_000)
    per_device_eval_batch_size: int = Field(16, ge=1, le=65_536)
    base: bool = True


class Recipe(Section):
    """One fine-tuning job.

    Attributes:
        name: Name of the recipe, and of its folder in ``runs/``: letters, digits, ``-``, ``_`` and ``.``.
        summary: One line that says what the recipe does.
        license: License of the adapter for its model card, as the Hub names it (``apache-2.0``); ``other`` if none.
        base: The frozen base model.
        adapters: Placements of adapters. The name of a method alone stands for a placement with its default values.
        train: Parts to train in full, besides the adapters.
        save_dtype: Data type of the tensors in the adapter file. Training uses float32; scores are those of the saved
            adapter.
        data: What to train on and what to evaluate on.
        training: How to train.
        evaluation: How to evaluate.
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

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name[:100]!r} cannot be the name of a folder; use at most 100 letters (a to z), digits, '-', '_' "
                "and '.', and begin with a letter or digit"
            )
        return name

    @field_validator("adapters", mode="before")
    @classmethod
    def _expand_method_names(cls, adapters: Any) -> Any:
        """Turn a method's name into a placement with its default values, and one adapter into a list."""
        if not adapters:
            return []
        if isinstance(adapters, str):
            adapters = [adapters]
        if not isinstance(adapters, list):
            return adapters  # pydantic reports the type
        return [{"method": item} if isinstance(item, str) else item for item in adapters]

    @model_validator(mode="after")
    def _check_that_something_trains(self) -> "Recipe":
        if not self.adapters and not self.train:
            raise ValueError("nothing to train; set at least one of `adapters` or one part in `train`")
        return self

    @model_validator(mode="after")
    def _check_experts_of_crops(self) -> "Recipe":
        if self.data.slicing is None:
            return self
        crops = self.data.slicing.rows * self.data.slicing.columns
        mismatched = [f"adapters.{n}.experts" for n, item in enumerate(self.adapters)
                      if item.row.router == "crop" and item.experts != crops]  # fmt: skip
        if mismatched:
            raise ValueError(
                f"{', '.join(mismatched)}: data.slicing cuts a picture into {crops} crops; use {crops} experts"
            )
        return self

    def to_yaml(self) -> str:
        """Write the complete recipe as YAML, with every key. Loading it gives an equal recipe."""
        return to_yaml(self.model_dump(mode="json"))
