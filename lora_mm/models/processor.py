"""Loads the processor that prepares a base's inputs, for pictures and text. Knows no model and no data."""

from typing import Any

from transformers import PROCESSOR_MAPPING, AutoProcessor, PretrainedConfig
from transformers.utils import is_torchvision_available

from lora_mm.models.base_files import TRUSTED_ONLY
from lora_mm.models.families import FAMILIES


def load_processor(source: str, config: PretrainedConfig, revision: str | None = None) -> Any:
    """Load the processor of a base, with its family's chat template where the checkpoint has none.

    Args:
        source: Hub id or folder.
        config: of the base.
        revision: branch, tag or commit on the Hub.
    """
    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    if kind is not None and "video_processor" in kind.get_attributes() and not is_torchvision_available():
        kind = drop_video_processor(kind)
    else:
        kind = AutoProcessor
    processor = kind.from_pretrained(source, revision=revision, **TRUSTED_ONLY)
    row = FAMILIES.get(config.model_type)
    if row is not None and not getattr(processor, "chat_template", None):
        processor.chat_template = row.template
    if tokenizer := getattr(processor, "qformer_tokenizer", None):  # its files need not say how much its model reads
        positions = config.qformer_config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return processor


def drop_video_processor(kind: Any) -> Any:
    """Make a processor class without its video processor, which is not used here and needs torchvision."""

    class WithoutVideos(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            return [*super()._get_arguments_from_pretrained(*args, **kwargs), None]  # the third is for videos

    WithoutVideos.__name__ = kind.__name__
    return WithoutVideos
