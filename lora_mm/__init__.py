"""lora-mm: small trainable adapters on a frozen open multimodal model, on one GPU.

The names in ``__all__`` are the public interface. Each is imported when it is first used, because torch takes seconds
to import and ``lora-mm --help`` must not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lora_mm.adapters.register import register_with_peft

if TYPE_CHECKING:
    from lora_mm.adapters.attach import attach
    from lora_mm.artifact.load import load, load_processor
    from lora_mm.jobs.evaluate import evaluate
    from lora_mm.jobs.finetune import finetune
    from lora_mm.jobs.merge import merge
    from lora_mm.recipe.load import load_recipe

__version__ = "0.1.0"

__all__ = ["__version__", "attach", "evaluate", "finetune", "load", "load_processor", "load_recipe", "merge"]

_MODULES = {
    "attach": "lora_mm.adapters.attach",
    "evaluate": "lora_mm.jobs.evaluate",
    "finetune": "lora_mm.jobs.finetune",
    "load": "lora_mm.artifact.load",
    "load_processor": "lora_mm.artifact.load",
    "load_recipe": "lora_mm.recipe.load",
    "merge": "lora_mm.jobs.merge",
}
"""Public name → the module that defines it."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lora_mm' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_peft()  # so that peft.PeftModel.from_pretrained loads our adapters after `import lora_mm` alone
