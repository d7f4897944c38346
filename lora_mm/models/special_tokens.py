"""Lets texts spell some of a base's special tokens. Knows tokenizers and chat templates; knows no text and no model."""

import copy
import json
from collections.abc import Sequence
from typing import Any

from lora_mm.errors import InputError, suggest_name

_KEY = "data.special_tokens"


def allow_tokens(processor: Any, tokens: Sequence[str]) -> Any:
    """Make special tokens part of the vocabulary: a text may spell them, and a decoded answer keeps them.

    The ids of texts do not change.

    Args:
        processor: the base's processor; it stays as it is.
        tokens: the tokens as a text spells them, such as ``<|box_start|>``.

    Returns:
        A processor with a tokenizer of its own; ``processor`` itself without tokens.

    Raises:
        InputError: the tokenizer has no such special token, or the base needs the token for something else; names all.
    """
    if not tokens:
        return processor
    faults = [fault for token in tokens if (fault := _find_fault(processor, token))]
    if faults:
        raise InputError(*faults)
    allowing = copy.copy(processor)
    allowing.tokenizer = _make_ordinary(processor.tokenizer, tokens)
    return allowing


def list_special_tokens(tokenizer: Any) -> set[str]:
    """List every token that commands a base: those that the tokenizer names, and the added ones it calls special."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added.union(tokenizer.all_special_tokens)


def _find_fault(processor: Any, token: str) -> str | None:
    """Describe why a token cannot be allowed in texts; None if it can."""
    special = list_special_tokens(processor.tokenizer)
    if token not in special and token in processor.tokenizer.get_vocab():
        return f"{_KEY}: '{token}' is a plain token of the base, which texts may spell anyway. Leave it out."
    if token not in special:
        return f"{_KEY}: '{token}' is no special token of the base.{suggest_name(token, sorted(special))}"
    named = {**processor.tokenizer.special_tokens_map, **vars(processor)}  # `image_token` and the like are in either
    if use := next((name for name, value in named.items() if str(value) == token), None):
        return f"{_KEY}: '{token}' is the base's {use}; a text that spells it would be read as a command. Leave it out."
    if token in str(processor.chat_template):
        return f"{_KEY}: the base's chat template writes '{token}', so a text could forge a turn with it. Leave it out."
    if not hasattr(processor.tokenizer, "backend_tokenizer"):
        return (
            f"{_KEY}: the base's tokenizer is not of the `tokenizers` library, whose special tokens alone can change."
        )
    return None


def _make_ordinary(tokenizer: Any, tokens: Sequence[str]) -> Any:
    """Copy a tokenizer, with tokens that it does not call special any more."""
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    for added in facts["added_tokens"]:
        added["special"] = added["special"] and added["content"] not in tokens
    ordinary = copy.deepcopy(tokenizer)
    ordinary._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(facts))
    ordinary._extra_special_tokens = [token for token in tokenizer.extra_special_tokens if str(token) not in tokens]
    return ordinary
