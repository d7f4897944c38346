"""Metrics, a row of :data:`METRICS` each: what an answer is worth, and the figures of many. Knows no model.

ScienceQA's official columns are in :mod:`.scienceqa`; its row here names how its answers are read.
"""

import hashlib
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_mm.data.example import Example, ImageCell, ImageSource
from lora_mm.errors import InputError, truncate_faults
from lora_mm.evaluation.answers import Answer
from lora_mm.evaluation.reading import normalize, normalize_vqa, read_choice, read_yes_no
from lora_mm.evaluation.score import (
    Figure,
    Measure,
    Score,
    Tally,
    bootstrap_interval,
    compute_wilson_interval,
    resample_counts,
)

if TYPE_CHECKING:
    import numpy as np

VQA_ANSWERS = 10
"""Answers to a question of VQAv2, TextVQA and VizWiz."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to score.

    Attributes:
        title: of its table.
        worth: of a written answer to an example: 0 to 1, None where it cannot be read.
        columns: the figures of all answers, in the order of their examples; the first is the headline.
        fault: what keeps an example from being scored so; None when nothing does.
        faults_together: what keeps examples from it that are fine one by one.
        reads: whether an answer can fail to be read, so that unparsed ones are counted.
        choice: whether answers name one of an example's candidates.
    """

    title: str
    worth: Callable[[Example, str], float | None]
    columns: Callable[[Sequence[Example], Sequence[Answer]], dict[str, Figure]]
    fault: Callable[[Example], str | None]
    faults_together: Callable[[Sequence[Example]], list[str]] = lambda examples: []
    reads: bool = False
    choice: bool = False


def list_references(example: Example) -> tuple[str, ...]:
    """The answers that count as right."""
    return example.references or (example.target,)


def judge(metric: Metric, example: Example, prediction: str, choice: int | None = None) -> Answer:
    """An answer and its worth. ``choice``, where it was taken by likelihood, is believed and not read off again."""
    if metric.choice:
        choice = read_choice(prediction, example.candidates) if choice is None else choice
        worth = None if choice is None else float(choice == example.answer)
    else:
        worth = metric.worth(example, prediction)
    return Answer(example.id, prediction, list_references(example), worth, choice)


def total_score(metric: Metric, examples: Sequence[Example], answers: Sequence[Answer]) -> Score:
    """The row of the metric's table."""
    unparsed = sum(answer.worth is None for answer in answers) if metric.reads else None
    return Score(metric.columns(examples, answers), unparsed)


def score_chance(metric: Metric, examples: Sequence[Example]) -> Score | None:
    """What choosing at random scores in expectation; None for answers that nobody chooses."""
    if not metric.choice:
        return None
    chances = [1 / len(example.candidates) for example in examples]
    return Score(_by_modality(examples, chances, lambda picked: Tally(math.fsum(picked), len(picked), expected=True)))


def choose_metric(name: str, examples: Sequence[Example], *, scienceqa: bool) -> str:
    """The name of the metric: ``name``, or for ``auto`` the one that fits the data.

    ``auto`` is ``scienceqa`` for ScienceQA's own problems; ``choice`` where every question has choices; ``yes_no``
    where every answer is yes or no; ``vqa`` where every question has ten answers; and ``exact`` for the rest.

    Raises:
        InputError: for questions that the metric cannot score.
    """
    if name == "auto":
        return "scienceqa" if scienceqa else _fitting(examples)
    if name == "scienceqa":
        if not scienceqa:
            raise InputError(
                "evaluation.metric: scienceqa scores ScienceQA's problems, and this data is none of them; "
                "--set evaluation.metric=auto takes the one that fits."
            )
        return name
    metric = METRICS[name]
    faults = [f"{item.id}: {fault}" for item in examples if (fault := metric.fault(item))]
    faults = faults or metric.faults_together(examples)
    if faults:
        raise InputError(f"evaluation.metric: {name} cannot score this data.", *truncate_faults(faults, 5))
    return name


def _fitting(examples: Sequence[Example]) -> str:
    if not any(_no_choices(item) for item in examples):
        return "choice"
    given = [list_references(item) for item in examples]
    if all({normalize(text) for text in references} in ({"yes"}, {"no"}) for references in given):
        return "yes_no"
    return "vqa" if all(len(references) >= VQA_ANSWERS for references in given) else "exact"


# --- worth of one answer ---------------------------------------------------------------------------------------------


def _exact(example: Example, prediction: str) -> float:
    return float(normalize(prediction) in {normalize(text) for text in list_references(example)})


def _contains(example: Example, prediction: str) -> float:
    written = normalize(prediction)
    return float(any(normalize(text) in written for text in list_references(example)))


def _vqa(example: Example, prediction: str) -> float:
    """min(#/3, 1), averaged over every subset that leaves one out (Antol et al. 2015); of one answer, equality."""
    given = [normalize_vqa(text) for text in list_references(example)]
    same = sum(text == normalize_vqa(prediction) for text in given)
    if len(given) == 1:
        return float(same)
    without_one = same * min((same - 1) / 3, 1) + (len(given) - same) * min(same / 3, 1)
    return without_one / len(given)


def _yes_no(example: Example, prediction: str) -> float | None:
    said = read_yes_no(prediction)
    return None if said is None else float(said == read_yes_no(list_references(example)[0]))


def _caption(example: Example, prediction: str) -> float:
    return float(_sacrebleu().sentence_chrf(prediction, list(list_references(example))).score) / 100


def _unread(example: Example, prediction: str) -> None:
    """Choices are read off by :func:`judge`."""


# --- figures of many -------------------------------------------------------------------------------------------------


def _by_modality(
    examples: Sequence[Example], points: Sequence[float], figure: Callable[[list[float]], Figure]
) -> dict[str, Figure]:
    """The figure of all, and where some examples have pictures and some have none, of each kind."""
    columns = {"accuracy": figure(list(points))}
    pictured = [bool(example.pictures) for example in examples]
    if len(set(pictured)) > 1:
        for name, kind in (("image", True), ("text", False)):
            columns[name] = figure([value for value, is_so in zip(points, pictured, strict=True) if is_so is kind])
    return columns


def _counted(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Figure]:
    return _by_modality(examples, [answer.points for answer in answers], lambda p: Tally(sum(p), len(p)))


def _averaged(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Figure]:
    return _by_modality(examples, [answer.points for answer in answers], _mean)


def _mean(values: list[float]) -> Measure:
    interval = bootstrap_interval([100 * value for value in values])
    return Measure(100 * statistics.fmean(values) if values else None, len(values), interval)


def _confusion(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Figure]:
    """POPE's figures (Li et al. 2023), yes being what is looked for. What could not be read is neither yes nor no."""
    kinds = [(read_yes_no(list_references(item)[0]), read_yes_no(answer.prediction))
             for item, answer in zip(examples, answers, strict=True)]  # fmt: skip
    hit, false_alarm = kinds.count((True, True)), kinds.count((False, True))
    missed, rest = sum(truth is True for truth, _ in kinds) - hit, kinds.count((False, False))
    f1 = 2 * hit / (2 * hit + false_alarm + missed) * 100 if hit + false_alarm + missed else None
    counts = (hit, false_alarm, missed, len(kinds) - hit - false_alarm - missed)
    return {
        "accuracy": Tally(hit + rest, len(kinds)),
        "precision": _share(hit, hit + false_alarm, len(kinds)),
        "recall": _share(hit, hit + missed, len(kinds)),
        "F1": Measure(f1, len(kinds), resample_counts(counts, _f1)),
        "yes share": _share(hit + false_alarm, len(kinds), len(kinds)),
    }


def _share(part: int, whole: int, questions: int) -> Measure:
    """A share of some of the questions, which ones being up to the model."""
    return (
        Measure(100 * part / whole, questions, compute_wilson_interval(part, whole))
        if whole
        else Measure(None, questions)
    )


def _f1(counts: "np.ndarray") -> "np.ndarray":
    hit, false_alarm, missed = counts[:, 0], counts[:, 1], counts[:, 2]
    below = 2.0 * hit + false_alarm + missed
    below[below == 0] = math.nan
    values: np.ndarray = 100 * 2 * hit / below
    return values


def _pairs(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Figure]:
    """MME's figures (Fu et al. 2023): accuracy, and accuracy+, the pictures of which both questions were answered."""
    groups: dict[str, list[float]] = {}
    for item, answer in zip(examples, answers, strict=True):
        groups.setdefault(_picture_key(item.pictures), []).append(answer.points)
    single = Tally(sum(answer.points for answer in answers), len(answers))
    both = Tally(sum(all(pair) for pair in groups.values()), len(groups))
    score = None if single.accuracy is None or both.accuracy is None else single.accuracy + both.accuracy
    return {"score": Measure(score, len(answers)), "accuracy": single, "accuracy+": both}


def _picture_key(images: Sequence[ImageSource]) -> str:
    """The same for the same pictures, be they files or bytes."""
    return " ".join(
        hashlib.sha256(source if isinstance(source, bytes) else source.read()).hexdigest()
        if isinstance(source, bytes | ImageCell)
        else str(source.resolve())
        for source in images
    )


def _captions(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Figure]:
    """chrF (Popović 2015) and BLEU-4 (Papineni et al. 2002) of all captions together, by sacrebleu."""
    library = _sacrebleu()
    most = max(len(answer.references) for answer in answers)
    # Columns of references, as sacrebleu has them; None where a caption has fewer than the most.
    references = [[a.references[n] if n < len(a.references) else None for a in answers] for n in range(most)]
    written = [answer.prediction for answer in answers]
    resamples = max(100, min(1000, 2_000_000 // len(answers)))  # they are held side by side: some 150 MB
    figures: dict[str, Figure] = {}
    for name, metric in (("chrF", library.CHRF()), ("BLEU", library.BLEU(lowercase=True))):
        found = metric.corpus_score(written, references, n_bootstrap=resamples if len(answers) > 1 else 1)
        told = json.loads(found.format(width=4, is_json=True, signature=str(metric.get_signature())))
        middle, half = told.get("confidence_mean"), told.get("confidence_var")
        interval = None if middle is None else (middle - half, middle + half)
        figures[name] = Measure(found.score, len(answers), interval)
    return figures


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise InputError(
            "evaluation.metric: caption needs sacrebleu; `pip install 'lora-mm[captions]'`, "
            "or --set evaluation.metric=exact."
        ) from None
    return sacrebleu


# --- what keeps an example from being scored -------------------------------------------------------------------------


def _no_choices(example: Example) -> str | None:
    if not example.candidates:
        return "has no choices"
    return None if example.answer is not None else "does not say which choice is right"


def _empty(example: Example) -> str | None:
    return None if all(normalize(text) for text in list_references(example)) else "an answer is empty"


def _few_answers(example: Example) -> str | None:
    count = len(list_references(example))
    if 1 < count < 4:  # no answer at all could be worth a whole point
        return f"has {count} answers; the formula needs one, or four and more"
    return _empty(example)


def _neither(example: Example) -> str | None:
    given = {read_yes_no(text) for text in list_references(example)}
    return None if len(given) == 1 and None not in given else "its answer is neither yes nor no"


def _no_picture(example: Example) -> str | None:
    return _neither(example) if example.pictures else "has no picture, whose questions go together"


def _no_pairs(examples: Sequence[Example]) -> list[str]:
    counts = Counter(_picture_key(example.pictures) for example in examples)
    uneven = sum(count != 2 for count in counts.values())
    if not uneven:
        return []
    return [
        f"It asks two questions of every picture, and {uneven:,} of {len(counts):,} pictures have another number; take "
        "a split that keeps pairs together, whole, or --set evaluation.metric=yes_no."
    ]


def _caption_fault(example: Example) -> str | None:
    _sacrebleu()
    return _empty(example)


METRICS: Mapping[str, Metric] = {
    "scienceqa": Metric("ScienceQA", _unread, _counted, _no_choices, reads=True, choice=True),
    "choice": Metric("multiple choice", _unread, _counted, _no_choices, reads=True, choice=True),
    "exact": Metric("exact match", _exact, _counted, _empty),
    "vqa": Metric("VQA accuracy", _vqa, _averaged, _few_answers),
    "contains": Metric("answer contained", _contains, _counted, _empty),
    "yes_no": Metric("yes or no", _yes_no, _confusion, _neither, reads=True),
    "mme": Metric("MME pairs", _yes_no, _pairs, _no_picture, _no_pairs, reads=True),
    "caption": Metric("captions", _caption, _captions, _caption_fault),
}
"""Name in ``evaluation.metric`` → the metric."""
