"""What a written answer says: texts made comparable, and yes, no or a choice read off. Knows no question and no score.

Nothing is guessed: an answer that does not say yes or no, or names no choice, is None, and counted as such.
"""

import re
import unicodedata
from collections.abc import Sequence

_QUOTES = "\"'“”‘’«»„"
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
            "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
_SPACED = re.compile(r"[;/\[\]\"{}()=+\\_><@`,?!-]")
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_STOP = re.compile(r"(?<!\d)\.|\.(?!\d)")
_SHORTENED = (  # the ordinary contractions; written without their apostrophe they are the same word
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't oughtn't "
    "shan't shouldn't wasn't weren't won't wouldn't i'm i've you'd you'll you're you've we've they'd they'll "
    "they're they've he'd he's she's it'd it'll there'd there'll there's that'd that'll that's who'd who'll who's "
    "who've what'll what're what's what've where's when's why's how'd how'll how's could've might've must've should've "
    "would've o'clock ma'am y'all"
)  # without those that are words of their own when the apostrophe is lost: ill, well, shell, wed, its, lets
_CONTRACTIONS = {word.replace("'", ""): word for word in _SHORTENED.split()}
_WORD = re.compile(r"[^\W\d_]+")


def normalize(text: str) -> str:
    """``text`` in one spelling: Unicode's compatibility form, no case, single spaces, without quotes around it or full
    stops behind, unless it is nothing else."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.rstrip(_QUOTES + ". ").lstrip(_QUOTES + " ") or folded


def normalize_vqa(text: str) -> str:
    """``text`` as VQAv2's evaluation compares it (Antol et al. 2015, section 3.3 and its published rules): lower case,
    no full stops but in decimals, no punctuation, digits for zero to ten, no articles, contractions with apostrophe.

    A mark that stands beside a space goes, one between letters parts them; a comma inside a number goes.
    """
    words = " ".join(text.lower().split())
    words = _COMMA_IN_NUMBER.sub("", words)
    words = _SPACED.sub(lambda mark: _gap(words, mark.start()), words)
    words = _STOP.sub("", words)
    found = (_NUMBERS.get(word, word) for word in words.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in found if word not in _ARTICLES)


def _gap(text: str, at: int) -> str:
    beside = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
    return "" if " " in beside or len(beside) < 2 else " "


def read_yes_no(text: str) -> bool | None:
    """Whether ``text`` says yes (True) or no (False); None where it says neither.

    It must begin with the word, or hold one of the two words and not the other. (POPE's script takes all that is not
    no for yes, and so raises recall by what was not understood.)
    """
    words = [word.casefold() for word in _WORD.findall(unicodedata.normalize("NFKC", text))]
    if words and words[0] in ("yes", "no"):
        return words[0] == "yes"
    said = {word for word in words if word in ("yes", "no")}
    return said == {"yes"} if len(said) == 1 else None


def read_choice(text: str, candidates: Sequence[str]) -> int | None:
    """Index of the candidate that ``text`` is, or begins with; None where it names none, or two alike.

    Of candidates that begin with each other the longest counts: ``10 m`` is not ``1``.
    """
    written = normalize(text)
    named = [normalize(candidate) for candidate in candidates]
    fitting = [(len(name), index) for index, name in enumerate(named) if _begins(written, name)]
    if not fitting:
        return None
    longest = max(length for length, _ in fitting)
    found = [index for length, index in fitting if length == longest]
    return found[0] if len(found) == 1 else None


def _begins(written: str, name: str) -> bool:
    rest = written[len(name) :]
    return bool(name) and written.startswith(name) and not (rest[:1].isalnum() and name[-1:].isalnum())
