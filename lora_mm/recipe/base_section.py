"""The ``base`` section of a recipe: the frozen model and its anatomy. Loads no model."""

from typing import Literal

from pydantic import Field

from lora_mm.ops.kernel_choice import Kernels
from lora_mm.recipe.section import Section

Part = Literal["vision", "connector", "language", "head"]


class StackSection(Section):
    """The layers of one part.

    Attributes:
        layers: Module paths of the part's lists of layers.
        roles: Role (``attn_norm``, ``q``, ``gate``, …) to module path inside a layer; see ``lora-mm models show``.
    """

    layers: list[str] = Field(min_length=1)
    roles: dict[str, str]


class AnatomySection(Section):
    """The anatomy of a model: where its parts are, for a model type that lora-mm does not know.

    Attributes:
        like: Known model type whose values are used for the keys that are not set.
        language: Layers of the language model.
        vision: Layers of the vision tower.
        parts: Part to the path prefixes of its modules; the longest matching prefix decides.
        placeholders: Modality to the config attribute that holds the id of its placeholder token.
        visual_tokens: Whether image features replace placeholder tokens; false for models that use cross-attention.
        crops: Order of a picture's crops in the vision tower's batch. ``none`` means no crops, ``overview_first`` and
            ``overview_last`` mean tiles with the whole picture before or after them, and ``quarters`` means four tiles,
            then the whole picture.
        framed: Whether marker tokens surround the placeholders of each picture.
        packed: Whether one row of the vision tower's batch can hold several pictures or tiles.
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


class BaseSection(Section):
    """The frozen base model.

    Attributes:
        model: Hub id or folder of the base, or ``pocket`` for the base that ships with lora-mm.
        revision: Branch, tag or commit on the Hub.
        dtype: Data type of the weights that are not quantized, and of the computation. ``native`` is bfloat16 where the
            device has instructions for it, else float32.
        quantization: ``nf4`` for 4 bits with double quantization, ``int8`` for 8 bits, ``none`` for no quantization.
        full_precision: Parts that are not quantized.
        attention: Attention implementation, as in transformers' ``attn_implementation``.
        kernels: Implementation of the adapters' operations. ``torch`` is PyTorch, ``triton`` is Triton where it is
            available, and ``auto`` is Triton where it was measured to be faster.
        anatomy: Where the parts of the model are, for a model type that ``lora-mm models list`` does not show.
    """

    model: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "native"] = "bfloat16"
    quantization: Literal["none", "nf4", "int8"] = "none"
    full_precision: list[Part] = ["vision", "connector", "head"]
    attention: str | None = None
    kernels: Kernels = "auto"
    anatomy: AnatomySection | None = None
