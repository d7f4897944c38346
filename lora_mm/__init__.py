"""lora-mm: small trainable parts on a frozen open multimodal model, on one GPU. ``lora_mm.attach`` is the way in."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_mm.adapters.attach import attach

__all__ = ["attach"]


def __getattr__(name: str) -> Any:
    # torch is imported only by what needs it: `lora-mm --help` must not wait for it.
    if name == "attach":
        from lora_mm.adapters.attach import attach

        return attach
    raise AttributeError(f"module 'lora_mm' has no attribute '{name}'")
