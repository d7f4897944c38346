"""Loads the processor that prepares a base's inputs, for pictures and text. Knows no model and no data."""

from typing import Any

import transformers
from transformers import PROCESSOR_MAPPING, AutoProcessor, PretrainedConfig, ProcessorMixin
from transformers.utils import is_torchvision_available

from lora_mm.models.base_files import TRUSTED_ONLY
from lora_mm.models.description import ModelDescription
from lora_mm.models.families import find_family


def load_processor(
    source: str, config: PretrainedConfig, revision: str | None = None, description: ModelDescription | None = None
) -> Any:
    """Load the processor of a base, with its family's chat template where the checkpoint has none.

    Args:
        source: Hub id or folder.
        config: of the base.
        revision: branch, tag or commit on the Hub.
        description: the user's description of the model, which can name a family to be like.
    """
    kind: Any = PROCESSOR_MAPPING.get(type(config), None) or _find_named_class(source, revision)
    if kind is not None and "video_processor" in kind.get_attributes() and not is_torchvision_available():
        kind = drop_video_processor(kind)
    else:
        kind = AutoProcessor
    processor = kind.from_pretrained(source, revision=revision, **TRUSTED_ONLY)
    if not getattr(processor, "chat_template", None):
        processor.chat_template = find_family(config.model_type, description).template
    if tokenizer := getattr(processor, "qformer_tokenizer", None):  # its files need not say how much its model reads
        positions = config.qformer_config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return processor


def _find_named_class(source: str, revision: str | None) -> Any:
    """Find the class that the processor's own config names; None if it names none of transformers."""
    try:
        settings, _ = ProcessorMixin.get_processor_dict(source, revision=revision)
    except OSError:  # many checkpoints have no such file
        return None
    return getattr(transformers, str(settings.get("processor_class")), None)


def drop_video_processor(kind: Any) -> Any:
    """Make a processor class without its video processor, which is not used here and needs torchvision."""

    class IgnoresVideos(ProcessorMixin):  # stands between the class and its base, to which the class hands None
        def __init__(self, *args: Any, video_processor: None = None, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    class WithoutVideos(kind, IgnoresVideos):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            arguments: list[Any] = super()._get_arguments_from_pretrained(*args, **kwargs)
            arguments.insert(kind.get_attributes().index("video_processor"), None)
            return arguments

    WithoutVideos.__name__ = kind.__name__
    return WithoutVideos
