"""Trains the pocket base from nothing on the pretraining corpus; knows nothing of the pocket world's questions.

    python -m tools.pocket_pretraining.pretrain --output DIR [--seed 0] [--steps N] [--threads 2]

Letters first: a model of this size learns to name the letter before an option only while little else pulls at it
(binding from the barest form takes some hundred steps; begun together with pictures it never appears). Pictures join
when letters are bound, and letters stay in the mixture to the end. Curves go to ``DIR.curves.csv``: one row an
evaluation, one column a skill.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lora_mm.pocket.drawing import SCENES
from tools.pocket_pretraining import corpus, picture_corpus
from tools.pocket_pretraining.corpus import Sample
from tools.pocket_pretraining.lessons import Fields
from tools.pocket_pretraining.shape import PATCH, PICTURE, make_model, make_processor, make_tokenizer

STEPS = 3400
EARLY, EARLY_WEIGHT = (2, 3), 0.4
"""Layers of the language model whose output must already name a recited answer, and what that weighs.

Comparing options with an answer takes layers after the one that finds it: left alone, the last layer finds it, open
questions come out right and choices stay at chance.
"""
FIELDS_WEIGHT = 1.0  # of the tower's own lessons, which go on while the language model learns to read it
IMAGE_TOKENS = (PICTURE // PATCH) ** 2
CURVES = ("bare", "named", "facts", "kinds", "picture open", "picture choice", "caption", "sentences")


@dataclass(frozen=True)
class Stage:
    """A stretch of the curriculum: its share of all steps, samples a step, and how often each kind of sample comes."""

    name: str
    share: float
    batch: int
    mixture: dict[Callable[[Random], Sample], float]


def _captions(rng: Random) -> Sample:
    return picture_corpus.picture(rng, "caption")


def _open(rng: Random) -> Sample:
    return picture_corpus.picture(rng, "open")


STAGES = (
    Stage("letters", 0.06, 160, {corpus.bare: 1.0}),
    Stage("bridge", 0.07, 128, {corpus.bare: 0.3, corpus.bridge: 0.65, corpus.recall: 0.05}),
    Stage(
        "exam form", 0.13, 80,
        {corpus.bridge: 0.1, corpus.named: 0.3, corpus.recall: 0.15, corpus.facts: 0.15, corpus.kinds: 0.1,
         corpus.topics: 0.1, corpus.sentence: 0.1},
    ),
    Stage(
        "eyes", 0.14, 64,
        {corpus.bridge: 0.02, corpus.named: 0.06, corpus.recall: 0.03, corpus.facts: 0.08, corpus.kinds: 0.04,
         corpus.topics: 0.03, corpus.sentence: 0.04, _captions: 0.04, _open: 0.66},
    ),
    Stage(
        "all", 0.60, 64,
        {corpus.bridge: 0.01, corpus.named: 0.06, corpus.recall: 0.02, corpus.facts: 0.12, corpus.kinds: 0.05,
         corpus.topics: 0.04, corpus.sentence: 0.08, picture_corpus.picture: 0.62},
    ),
)  # fmt: skip


def tower_first(
    model: LlavaForConditionalGeneration,
    fields: Fields,
    seed: int,
    *,
    steps: int = 1400,
    rate: float = 3e-3,
    taught: bool = False,
) -> None:
    """Teaches tower and projector the fields of pictures before any language; of a ``taught`` tower, fits the heads."""
    rng = Random(f"tower {seed}")
    seeing = [model.model.vision_tower, model.model.multi_modal_projector]
    parts = nn.ModuleList([fields] if taught else [*seeing, fields])
    tools = optimisers(parts, rate)
    for step in range(1, steps + 1):
        scenes = [rng.choice(SCENES).random(rng) for _ in range(128)]
        with torch.autocast("cpu", torch.bfloat16):
            pictures = pixels([Sample("tower", [], scene.draw()) for scene in scenes])
            with torch.set_grad_enabled(not taught):
                tokens = model.model.get_image_features(pixel_values=pictures).pooler_output
            loss, right = fields(torch.stack(list(tokens)), scenes)
        (loss / len(scenes)).backward()
        _step(parts, tools, rate * rate_at(step - 1, steps))
        if step % 100 == 0:
            print("tower", step, f"{sum(right) / len(right):.3f}", sep="\t", flush=True)


def _step(model: nn.Module, tools: list[torch.optim.Optimizer], rate: float) -> None:
    """One step of every optimiser at this rate."""
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for tool in tools:
        for group in tool.param_groups:
            group["lr"] = rate
        tool.step()
        tool.zero_grad()


def encode(tokenizer: PreTrainedTokenizerFast, samples: Sequence[Sample]) -> list[tuple[list[int], list[float]]]:
    """Token ids and loss weights of each sample; ``<image>`` takes as many tokens as the tower gives."""
    texts = [text.replace("<image>", "<image>" * IMAGE_TOKENS) for s in samples for text, _ in s.pieces]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    rows = []
    for sample in samples:
        row: tuple[list[int], list[float]] = ([], [])
        for _, weight in sample.pieces:
            piece = next(ids)
            row[0].extend(piece)
            row[1].extend([weight] * len(piece))
        rows.append(row)
    return rows


def pixels(samples: Sequence[Sample]) -> Tensor | None:
    """The samples' pictures as the processor gives them."""
    arrays = [np.asarray(s.picture.resize((PICTURE, PICTURE), 4)) for s in samples if s.picture is not None]
    if not arrays:
        return None
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Learner:
    """The model with its tokenizer: one forward over samples, scores of held-out samples."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        fields: Fields | None = None,
    ) -> None:
        self.model, self.tokenizer, self.fields = model, tokenizer, fields
        self.aside = torch.zeros(())  # the losses of a forward beside that of its tokens

    def logits(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, targets and weights at every position that counts, and the row each one stands in."""
        rows = encode(self.tokenizer, samples)
        width = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        weights = torch.zeros(len(rows), width)
        for n, (i, w) in enumerate(rows):
            ids[n, : len(i)], weights[n, : len(i)] = torch.tensor(i), torch.tensor(w)
        with torch.autocast("cpu", torch.bfloat16):
            out = self.model.model(
                input_ids=ids, pixel_values=pixels(samples), use_cache=False, output_hidden_states=True
            )
            row, column = weights[:, 1:].nonzero(as_tuple=True)
            targets, weights = ids[row, column + 1], weights[row, column + 1]
            logits = self.model.lm_head(out.last_hidden_state[row, column])
            recited = (weights - corpus.RECITED).abs() < 0.01
            self.aside = torch.zeros(())
            for layer in EARLY if bool(recited.any()) else ():
                hidden = self.model.model.language_model.norm(out.hidden_states[layer][row[recited], column[recited]])
                guess = self.model.lm_head(hidden).float()
                self.aside = self.aside + EARLY_WEIGHT * nn.functional.cross_entropy(
                    guess, targets[recited], reduction="sum"
                )
            scenes = [s.scene for s in samples if s.scene is not None]
            if self.fields is not None and self.model.training and scenes:
                tokens = out.image_hidden_states.view(len(scenes), IMAGE_TOKENS, -1)
                loss, _ = self.fields(tokens, scenes)
                self.aside = self.aside + FIELDS_WEIGHT * loss
        return logits.float(), targets, weights, row

    def backward(self, samples: Sequence[Sample], chunks: int = 3) -> float:
        """Gradients of the weighted loss over ``samples``, computed in chunks of like length."""
        order = sorted(samples, key=lambda s: sum(len(t) for t, _ in s.pieces) + 120 * (s.picture is not None))
        size = math.ceil(len(order) / chunks)
        parts = [order[n : n + size] for n in range(0, len(order), size)]
        whole = sum(sum(weights[1:]) for _, weights in encode(self.tokenizer, samples))
        total = 0.0
        for part in parts:
            logits, targets, weights, _ = self.logits(part)
            loss = (nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()
            loss = (loss + self.aside) / whole
            loss.backward()
            total += float(loss.detach())
        return total

    @torch.no_grad()
    def scores(self, held_out: dict[str, list[Sample]]) -> dict[str, float]:
        """Share of answers right (letters, open answers); for captions and sentences the loss a token."""
        self.model.eval()
        result = {}
        for kind, samples in held_out.items():
            right: list[float] = []
            for n in range(0, len(samples), 64):
                part = samples[n : n + 64]
                logits, targets, weights, row = self.logits(part)
                counted = weights > 2 * corpus.FORM
                if kind in ("caption", "sentences"):
                    right += nn.functional.cross_entropy(logits, targets, reduction="none")[counted].tolist()
                    continue
                hit = logits.argmax(-1) == targets
                right += _answers(hit.tolist(), counted.tolist(), row.tolist())
            result[kind] = sum(right) / len(right)
        self.model.train()
        return result


def _answers(hits: list[bool], counted: list[bool], rows: list[int]) -> list[float]:
    """1 or 0 for each answer, a run of counted tokens that a fixed one or the row ends: 1 when every token is right."""
    answers: list[float] = []
    open_row = -1
    for hit, counts, row in zip(hits, counted, rows, strict=True):
        if counts and open_row == row:
            answers[-1] = min(answers[-1], float(hit))
        elif counts:
            answers.append(float(hit))
        open_row = row if counts else -1
    return answers


def held_out(seed: int, size: int = 128) -> dict[str, list[Sample]]:
    """Fixed samples of every kind from a stream of their own."""
    rng = Random(f"held-out {seed}")
    makers = {
        "bare": corpus.bare,
        "named": lambda r: corpus.named(r, said=0.0),
        "facts": lambda r: corpus.facts(r, told=0.0, said=0.0),
        "kinds": lambda r: corpus.kinds(r, said=0.0),
        "picture open": _open,
        "picture choice": lambda r: picture_corpus.picture(r, "choice"),
        "caption": _captions,
        "sentences": corpus.sentence,
    }
    return {kind: [make(rng) for _ in range(size)] for kind, make in makers.items()}


def batches(seed: int, steps: int) -> Iterator[tuple[str, list[Sample]]]:
    """The curriculum: a stage's name and one step's samples, ``steps`` times."""
    rng = Random(f"train {seed}")
    for stage in STAGES:
        makers, weights = list(stage.mixture), list(stage.mixture.values())
        for _ in range(round(stage.share * steps)):
            yield stage.name, [make(rng) for make in rng.choices(makers, weights, k=stage.batch)]


def texts(seed: int, size: int = 12000) -> list[str]:
    """Text to learn the vocabulary from."""
    rng = Random(f"texts {seed}")
    makers: tuple[Callable[[Random], Sample], ...] = (
        *[corpus.named] * 2, corpus.facts, corpus.kinds, corpus.topics, *[corpus.sentence] * 4, picture_corpus.picture,
    )  # fmt: skip
    words = [" " + " ".join(rng.sample(corpus.WORDS, 40)) for _ in range(size // 20)]
    return words + [
        "".join(t for t, _ in rng.choice(makers)(rng).pieces).replace("<image>", "").replace("</s>", "")
        for _ in range(size)
    ]


def optimisers(model: nn.Module, rate: float, decay: float = 0.02) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (inner if parameter.ndim == 2 and ".layers." in name else outer).append(parameter)
    tools: list[torch.optim.Optimizer] = [torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]
    if inner:
        tools.append(torch.optim.Muon(inner, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return tools


def rate_at(step: int, steps: int, first: int = 0, warmup: int = 40) -> float:
    """Factor of the learning rate: linear warm-up, flat, then linear to a twentieth over the last quarter."""
    return min(1.0, (step - first + 1) / warmup, 0.05 + 0.95 * (steps - step) / (0.25 * steps))


def save(learner: Learner, output: Path) -> None:
    """Writes the base in bfloat16, in one move."""
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    twin = make_model(learner.tokenizer)
    twin.load_state_dict(learner.model.state_dict())
    twin.to(torch.bfloat16).save_pretrained(fresh)
    make_processor(learner.tokenizer).save_pretrained(fresh)
    for file in fresh.iterdir():
        file.chmod(0o644)
    if output.exists():
        old = output.with_name(output.name + ".old")
        os.rename(output, old)
        os.rename(fresh, output)
        shutil.rmtree(old)
    else:
        os.rename(fresh, output)


def pretrain(
    output: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    rate: float = 2e-3,
    resume: tuple[Path, int] | None = None,
    every: int = 50,
    keep: int = 100,
) -> None:
    """Trains and saves the base; saves on the way every ``keep`` steps, so that an early base can be looked at.

    ``resume`` names a base saved on the way and its step; its weights are taken up, the optimisers' memory is not.
    """
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(resume[0]) if resume else make_tokenizer(texts(seed))
    model = make_model(tokenizer)
    fields = Fields(model.config.text_config.hidden_size, seed)
    learner = Learner(model, tokenizer, fields)
    if resume:
        learner.model.load_state_dict(LlavaForConditionalGeneration.from_pretrained(resume[0]).state_dict())
    first = resume[1] if resume else 0
    learner.model.set_attn_implementation("eager")  # the fused kernel's backward is twice as slow on CPU
    learner.model.train()
    if resume:
        tower_first(learner.model, fields, seed, steps=200, rate=1e-2, taught=True)
    else:
        tower_first(learner.model, fields, seed)
    parts = nn.ModuleList([learner.model, fields])
    tools = optimisers(parts, rate)
    tests = held_out(seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    start, losses = time.monotonic(), []
    with output.with_name(output.name + ".curves.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("step", "minutes", "stage", "loss", *CURVES))
        for step, (stage, samples) in enumerate(batches(seed, steps), start=1):
            if step <= first:
                continue
            losses.append(learner.backward(samples))
            _step(parts, tools, rate * rate_at(step - 1, steps, first))
            if step % every == 0 or step == steps:
                scores = learner.scores(tests)
                minutes = (time.monotonic() - start) / 60
                numbers = (float(np.mean(losses[-every:])), *(scores[curve] for curve in CURVES))
                row = (step, f"{minutes:.1f}", stage, *(f"{number:.3f}" for number in numbers))
                table.writerow(row)
                file.flush()
                print(*row, sep="\t", flush=True)
            if step % keep == 0:
                save(learner, output)
    save(learner, output)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pocket_pretraining.pretrain", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the new base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", type=Path, help="a base saved on the way; needs --from-step")
    parser.add_argument("--from-step", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    resume = (options.resume, options.from_step) if options.resume else None
    pretrain(options.output, seed=options.seed, steps=options.steps, rate=options.rate, resume=resume)


if __name__ == "__main__":
    main()
