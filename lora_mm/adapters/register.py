"""Registers the routed adapters with PEFT once PEFT is imported. Imports neither PEFT nor torch by itself.

PEFT has no plug-in mechanism: a method exists for ``peft.PeftModel.from_pretrained`` once ``register_peft_method`` was
called in the process. ``import lora_mm`` must be enough for that, in either order with ``import peft``, and must not
import torch. So :func:`register_with_peft` registers at once if PEFT is imported, and else watches for its import.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # and not importlib.abc, which takes 40 ms to import: a seventh of `lora-mm --help`
    from importlib.machinery import ModuleSpec

_TUNER = "lora_mm.adapters.tuner"
_ADAPTERS = "lora_mm.adapters."
"""Prefix of the modules that the tuner needs; one of them may be the first to import PEFT."""


def register_with_peft() -> None:
    """Register the tuner if PEFT is imported, else as soon as it is. Calling it again changes nothing."""
    if "peft" in sys.modules:
        _register()
    elif not any(isinstance(finder, _ImportWatcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ImportWatcher())


def _register() -> None:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import register_peft_method

    tuner = importlib.import_module(_TUNER)
    config = importlib.import_module("lora_mm.adapters.config")
    if config.ROUTED not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(
            name=config.ROUTED.value.lower(),
            config_cls=config.RoutedConfig,
            model_cls=tuner.RoutedModel,
            prefix=tuner.RoutedModel.prefix,
        )


class _ImportWatcher:
    """A finder that leaves the work to the others, and registers the tuner once PEFT has been imported.

    If a module of ours is the first to import PEFT, it is not complete yet when PEFT is, and the tuner cannot import
    from it. Registration then waits until the outermost module of ours is complete.
    """

    def __init__(self) -> None:
        self._running = 0  # modules of ours that are being executed now

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "peft" and not fullname.startswith(_ADAPTERS):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    execute = functools.partial(self._execute, spec.loader.exec_module)
                    spec.loader.exec_module = execute  # type: ignore[method-assign]  # of this module's loader alone
                return spec
        return None

    def _execute(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        is_ours = module.__name__ != "peft"
        self._running += is_ours
        try:
            exec_module(module)
        finally:
            self._running -= is_ours
        if not self._running and "peft" in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            _register()
