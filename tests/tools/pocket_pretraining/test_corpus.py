"""The pretraining corpus: it shows every word of the pocket world and asks none of its questions."""

import re
from random import Random

from lora_mm.pocket.world import draw_problems
from tools.pocket_pretraining.binding_corpus import facts, kinds, named, topics
from tools.pocket_pretraining.picture_corpus import picture
from tools.pocket_pretraining.sentence_corpus import sentence
from tools.pocket_pretraining.vocabulary import WORDS

MAKERS = (named, facts, kinds, topics, sentence, picture)


def test_the_corpus_asks_no_question_of_the_world() -> None:
    asked = [draft.question.split("\n")[0] for _, _, draft in draw_problems(0, 2000)]
    words = {q.rstrip("?.") for q in asked}
    rng = Random(0)
    text = "\n".join("".join(t for t, _ in rng.choice(MAKERS)(rng).pieces) for _ in range(4000))
    assert not [q for q in words if q in text]


def test_the_corpus_shows_every_word_of_the_world() -> None:
    shown = {word.lower() for word in WORDS}
    rng = Random(0)
    for make in MAKERS:
        for _ in range(1500):
            shown |= {w.lower() for text, _ in make(rng).pieces for w in re.findall(r"[^\W\d_]+", text)}
    asked = {
        word.lower()
        for _, _, draft in draw_problems(0, 2000)
        for text in (draft.question, draft.hint, *draft.choices)
        for word in re.findall(r"[^\W\d_]+", text)
    }
    assert sorted(asked - shown) == []
