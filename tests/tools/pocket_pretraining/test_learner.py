"""The pocket base in training: samples as tensors, gradients, and the scores of the packaged base."""

from random import Random

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from lora_mm.pocket import BASE
from tools.pocket_pretraining.curriculum import make_held_out
from tools.pocket_pretraining.learner import Learner, encode_samples, load_pixels
from tools.pocket_pretraining.picture_corpus import picture


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(BASE)


@pytest.fixture
def model():
    return AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").eval()


def test_pretraining_prepares_samples_as_the_processor_does(processor) -> None:
    samples = [picture(Random(n)) for n in range(4)]
    expected = processor.image_processor([s.picture for s in samples], return_tensors="pt")["pixel_values"]
    assert torch.allclose(load_pixels(samples), expected, atol=1e-6)
    text = "".join(t for t, _ in samples[0].pieces)
    ids = processor(images=[samples[0].picture], text=[text], return_tensors="pt")["input_ids"][0].tolist()
    assert encode_samples(processor.tokenizer, samples)[0][0] == ids


@pytest.mark.slow
def test_the_base_binds_letters_and_reads_pictures(model, processor) -> None:
    # The seed is not that of the pretraining.
    asked = ("named", "kinds", "picture open", "picture choice")
    samples = {kind: samples for kind, samples in make_held_out(seed=99, size=24).items() if kind in asked}
    scores = Learner(model, processor.tokenizer).score(samples)
    # Chance is about 0.35 for choices and below 0.3 for open questions.
    assert scores["named"] >= 0.8
    assert scores["kinds"] >= 0.8
    assert scores["picture open"] >= 0.7
    assert scores["picture choice"] >= 0.55


def test_chunks_do_not_change_the_gradients(model, processor) -> None:
    learner = Learner(model, processor.tokenizer)
    samples = [sample for kind in make_held_out(seed=5, size=1).values() for sample in kind]
    losses, gradients = [], []
    for chunks in (1, 3):
        model.zero_grad()
        losses.append(learner.backward(samples, chunks))
        gradients.append(model.lm_head.weight.grad.clone())
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # bfloat16
    assert torch.nn.functional.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.99
