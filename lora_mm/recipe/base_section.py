"""The ``base`` section of a recipe: the frozen model and its anatomy. Loads no model."""

from typing import Literal

from lora_mm.models.description import ModelDescription, Part
from lora_mm.ops.kernel_choice import Kernels
from lora_mm.section import Section


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
        anatomy: What lora-mm does not find in the model by itself; see ``lora-mm models show``.
    """

    model: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "native"] = "bfloat16"
    quantization: Literal["none", "nf4", "int8"] = "none"
    full_precision: list[Part] = ["vision", "connector", "head"]
    attention: str | None = None
    kernels: Kernels = "auto"
    anatomy: ModelDescription | None = None
