"""What a user says about the anatomy of a model. Knows no models and no torch."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from lora_mm.errors import InputError
from lora_mm.section import Section
from lora_mm.validation import explain_validation_error

Part = Literal["vision", "connector", "language", "head"]


class StackDescription(Section):
    """The layers of one part.

    Attributes:
        layers: Module paths of the part's lists of layers. Empty leaves them to lora-mm.
        roles: Role (``attn_norm``, ``q``, ``gate``, …) to module path inside a layer, for the roles that lora-mm does
            not find; see ``lora-mm models show``.
    """

    layers: list[str] = []
    roles: dict[str, str] = {}


class ModelDescription(Section):
    """The anatomy of a model, where lora-mm finds it wrongly or not at all. Keys that are not set stay as found.

    Attributes:
        like: Known model type whose facts are used for the keys that are not set.
        language: Layers of the language model.
        vision: Layers of the vision tower.
        parts: Part to the path prefixes of its modules; the longest matching prefix decides.
        placeholders: Modality to the config attribute that holds the id of its placeholder token.
        tower: Whether the model has a vision tower.
        visual_tokens: Whether image features replace placeholder tokens; false for models that use cross-attention.
        crops: Order of a picture's crops in the vision tower's batch. ``none`` means no crops, ``overview_first`` and
            ``overview_last`` mean tiles with the whole picture before or after them, and ``quarters`` means four tiles,
            then the whole picture.
        framed: Whether marker tokens surround the placeholders of each picture.
        packed: Whether one row of the vision tower's batch can hold several pictures or tiles.
    """

    like: str | None = None
    language: StackDescription | None = None
    vision: StackDescription | None = None
    parts: dict[Part, list[str]] | None = None
    placeholders: dict[str, str] | None = None
    tower: bool | None = None
    visual_tokens: bool | None = None
    crops: Literal["none", "overview_first", "overview_last", "quarters"] | None = None
    framed: bool | None = None
    packed: bool | None = None


def parse_description(said: Mapping[str, Any] | ModelDescription | None) -> ModelDescription | None:
    """Make a :class:`ModelDescription` from its keys.

    Raises:
        InputError: names every fault.
    """
    if said is None or isinstance(said, ModelDescription):
        return said
    try:
        return ModelDescription.model_validate(dict(said))
    except ValidationError as error:
        raise InputError(*(f"anatomy.{fault}" for fault in explain_validation_error(error, ModelDescription))) from None
