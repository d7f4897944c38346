"""Parses generated answers: normalizes texts, and finds yes, no or a choice in them. Knows no question and no score.

Nothing is guessed: an answer that says neither yes nor no, or names no choice, gives None.
"""

import re
import unicodedata
from collections.abc import Sequence

_QUOTES = "\"'“”‘’«»„"
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
            "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
_PUNCTUATION = re.compile(r"[;/\[\]\"{}()=+\\_><@`,?!-]")
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_FULL_STOP = re.compile(r"(?<!\d)\.|\.(?!\d)")
_CONTRACTED = (  # common contractions, which are also recognized without the apostrophe
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't oughtn't "
    "shan't shouldn't wasn't weren't won't wouldn't i'm i've you'd you'll you're you've we've they'd they'll "
    "they're they've he'd he's she's it'd it'll there'd there'll there's that'd that'll that's who'd who'll who's "
    "who've what'll what're what's what've where's when's why's how'd how'll how's could've might've must've should've "
    "would've o'clock ma'am y'all"
)  # without those that are other words without the apostrophe: ill, well, shell, wed, its, lets
_CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}
_WORD = re.compile(r"[^\W\d_]+")


def normalize(text: str) -> str:
    """Normalize a text: NFKC, case folded, single spaces, without surrounding quotes and final full stops.

    A text that consists only of quotes and full stops keeps them.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(_QUOTES + ". ").lstrip(_QUOTES + " ") or folded


def normalize_vqa(text: str) -> str:
    """Normalize a text as VQAv2's evaluation does (Antol et al. 2015, section 3.3).

    The published rules: lower case, full stops only in decimals, no punctuation, digits for zero to ten, no
    articles, contractions with apostrophe. A punctuation mark next to a space is deleted, one between letters becomes a
    space; a comma in a number is deleted.
    """
    words = " ".join(text.lower().split())
    words = _COMMA_IN_NUMBER.sub("", words)
    words = _PUNCTUATION.sub(lambda mark: _replace_mark(words, mark.start()), words)
    words = _FULL_STOP.sub("", words)
    numbered = (_NUMBERS.get(word, word) for word in words.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in numbered if word not in _ARTICLES)


def _replace_mark(text: str, index: int) -> str:
    """Return what replaces the punctuation mark at ``index``."""
    neighbours = text[max(0, index - 1) : index] + text[index + 1 : index + 2]
    return "" if " " in neighbours or len(neighbours) < 2 else " "


def read_yes_no(text: str) -> bool | None:
    """Read whether a text says yes (True) or no (False); None if it says neither.

    The text must begin with the word, or contain only one of the two words. (POPE's script counts everything but no as
    yes, so answers that are neither raise recall.)
    """
    words = [word.casefold() for word in _WORD.findall(unicodedata.normalize("NFKC", text))]
    if words and words[0] in ("yes", "no"):
        return words[0] == "yes"
    contained = {"yes", "no"}.intersection(words)
    return contained == {"yes"} if len(contained) == 1 else None


def read_choice(text: str, candidates: Sequence[str]) -> int | None:
    """Read which candidate a text names.

    The text must begin with the candidate, up to spelling. If several fit, the longest counts: ``10 m`` is not ``1``.

    Args:
        text: the answer.
        candidates: the choices.

    Returns:
        Index of the candidate; None if the text names none, or fits two of equal length.
    """
    normalized = normalize(text)
    names = [normalize(candidate) for candidate in candidates]
    matches = [(len(name), index) for index, name in enumerate(names) if _begins_with(normalized, name)]
    if not matches:
        return None
    longest = max(length for length, _ in matches)
    indices = [index for length, index in matches if length == longest]
    return indices[0] if len(indices) == 1 else None


def _begins_with(text: str, name: str) -> bool:
    """Whether ``text`` begins with ``name`` as a whole word."""
    rest = text[len(name) :]
    return bool(name) and text.startswith(name) and not (rest[:1].isalnum() and name[-1:].isalnum())
