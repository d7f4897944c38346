"""Answers conversations with one loaded base and several adapters, at most one of them active.

Knows recipes, adapters and models; knows no terminal and no data set.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, TextStreamer

from lora_mm.artifact.files import CONFIG, read_json_object
from lora_mm.artifact.folder import load_adapter
from lora_mm.artifact.hub import LocatedAdapter, locate_adapter
from lora_mm.artifact.preprocessing import Mismatch
from lora_mm.data.collate import Collator
from lora_mm.data.example import Turn
from lora_mm.errors import InputError, suggest_name
from lora_mm.jobs.session import find_adapter_recipe, load_recipe_base, make_base_collator
from lora_mm.models.forward import move_batch
from lora_mm.models.loading import Base
from lora_mm.out_of_memory import explain_out_of_memory
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe

_SHARED_KEYS = ("dtype", "quantization", "full_precision", "attention")
"""Keys of ``base`` that must be equal for adapters on one loaded base; otherwise answers would change."""


class AdaptedModel:
    """A base with adapters on it.

    Args:
        base: the loaded base.
        model: the base itself, or the PEFT model with the adapters.
        adapters: name → (PEFT's name of the adapter, collator of its recipe). The first adapter is active.
        base_collator: collator for the frozen base.

    Attributes:
        names: names of the adapters, in the given order.
        active: name of the adapter that answers; None for the frozen base.
    """

    def __init__(
        self,
        base: Base,
        model: PreTrainedModel | peft.PeftModel,
        adapters: dict[str, tuple[str, Collator]],
        base_collator: Collator,
    ) -> None:
        self.base, self.model = base, model
        self.names = list(adapters)
        self._adapters, self._base_collator = adapters, base_collator
        self.active: str | None = None
        self.activate(self.names[0] if self.names else None)

    def activate(self, name: str | None) -> None:
        """Make the adapter ``name`` answer from now on; None makes the frozen base answer.

        Raises:
            InputError: no adapter has this name.
        """
        if name is not None:
            _check_known(name, self.names)
            assert isinstance(self.model, peft.PeftModel)
            self.model.set_adapter(self._adapters[name][0])
        self.active = name

    def reply(
        self,
        turns: Sequence[Turn],
        *,
        max_new_tokens: int,
        write: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """Generate the active adapter's next turn, greedily.

        Args:
            turns: the conversation so far; the last turn is the user's.
            max_new_tokens: maximum number of tokens of the answer.
            write: called with each piece of the answer as it is generated.
            stop: called after each token; the answer ends when it returns True.

        Returns:
            The answer, without special tokens but those of ``data.special_tokens``.

        Raises:
            InputError: the base cannot read the conversation, or it is too long for the base.
        """
        collator = self._base_collator if self.active is None else self._adapters[self.active][1]
        batch = move_batch(self.model, collator.conversation(turns))
        length = batch["input_ids"].shape[1]
        self._check_length(length, max_new_tokens)
        model: Any = self.model  # PEFT passes `generate` on to the base
        with torch.inference_mode(), self._select_adapter(), explain_out_of_memory():
            tokens = model.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=collator.tokenizer.pad_token_id,
                streamer=_PieceStreamer(collator.tokenizer, write),
                stopping_criteria=[_StopWhen(stop)],
            )
        answer: str = collator.tokenizer.decode(tokens[0, length:], skip_special_tokens=True)
        return answer.strip()

    @contextmanager
    def _select_adapter(self) -> Iterator[None]:
        if self.active is None and isinstance(self.model, peft.PeftModel):
            with self.model.disable_adapter():
                yield
        else:
            yield

    def _check_length(self, length: int, max_new_tokens: int) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and length + max_new_tokens > limit:
            raise InputError(
                f"The conversation has {length:,} tokens and the answer up to {max_new_tokens:,}; the base's limit "
                f"is {limit:,}. Start a new conversation, or lower --max-new-tokens."
            )


def load_adapted(
    adapters: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    accept: Collection[Mismatch] = (),
    only: Collection[str] = (),
    base_only: bool = False,
) -> AdaptedModel:
    """Load the base of ``adapters`` once, with all adapters on it; the first is active.

    Args:
        adapters: folders, packed files or Hub ids (see :func:`~lora_mm.artifact.hub.locate_adapter`), all of one base
            and one PEFT type.
        overrides: ``key=value`` settings for their recipes.
        accept: mismatches of base or inputs to warn about instead of refusing.
        only: names of the adapters to load; by default all.
        base_only: load the base of the first adapter, and no adapter.

    Returns:
        The base with its adapters.

    Raises:
        InputError: an adapter cannot be loaded, or the adapters cannot share one base.
    """
    folders = _name_folders([locate_adapter(text) for text in adapters])
    for name in only:
        _check_known(name, list(folders))
    folders = {name: folder for name, folder in folders.items() if name in (only or folders)}
    recipes = {name: load_recipe(find_adapter_recipe(folder), overrides) for name, folder in folders.items()}
    first = next(iter(recipes.values()))
    if not base_only:
        _check_shareable(folders, recipes)
    base = load_recipe_base(first)
    base_collator = make_base_collator(first, base)
    if base_only:
        assert isinstance(base.model, PreTrainedModel)
        return AdaptedModel(base, base.model.eval(), {}, base_collator)
    model: peft.PeftModel | None = None
    loaded: dict[str, tuple[str, Collator]] = {}
    for number, (name, folder) in enumerate(folders.items()):
        peft_name = f"adapter{number:03}"  # PEFT refuses a dot in a name, and a name that is the prefix of another
        data = recipes[name].data
        model = load_adapter(
            base,
            folder,
            peft_name,
            onto=model,
            accept=accept,
            fit=data.pictures.fit,
            special_tokens=data.special_tokens,
            kernels=first.base.kernels,
        )
        loaded[name] = peft_name, make_base_collator(recipes[name], base)
    assert model is not None
    return AdaptedModel(base, model, loaded, base_collator)


def _name_folders(located: Sequence[LocatedAdapter]) -> dict[str, Path]:
    """Map names to folders; a duplicate name gets a number."""
    folders: dict[str, Path] = {}
    for item in located:
        name, count = item.name, 1
        while name in folders:
            count += 1
            name = f"{item.name}-{count}"
        folders[name] = item.folder
    return folders


def _check_known(name: str, names: list[str]) -> None:
    if name not in names:
        raise InputError(f"Unknown adapter '{name}'. Known: {', '.join(names) or 'none'}.{suggest_name(name, names)}")


def _check_shareable(folders: dict[str, Path], recipes: dict[str, Recipe]) -> None:
    """Raise InputError for adapters that cannot share one loaded base, before the base is loaded."""
    types = {name: read_json_object(folder / CONFIG).get("peft_type") for name, folder in folders.items()}
    if len(set(types.values())) > 1:
        listed = ", ".join(f"{name} is {kind}" for name, kind in types.items())
        raise InputError(
            f"Adapters on one base must have one PEFT type, but {listed}. "
            "Load them separately (plain LoRA is LORA, all other methods are ROUTED)."
        )
    faults = []
    for key in _SHARED_KEYS:
        values = {name: getattr(recipe.base, key) for name, recipe in recipes.items()}
        if len({str(value) for value in values.values()}) > 1:
            listed = ", ".join(f"{name} has {value}" for name, value in values.items())
            faults.append(f"base.{key} differs: {listed}. Choose one for all with --set base.{key}=VALUE.")
    if faults:
        raise InputError(*faults)


class _PieceStreamer(TextStreamer):
    """Calls ``write`` with the answer as it is generated, whole words at a time."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass on a piece of the answer. transformers calls this; the last piece may be empty."""
        if text:
            self._write(text)


class _StopWhen(StoppingCriteria):
    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self._stop(), dtype=torch.bool, device=input_ids.device)
