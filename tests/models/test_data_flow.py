"""What reads the output of a norm, in every family and where names mislead."""

import pytest
import torch
import transformers as hf

import lora_mm
from lora_mm.errors import InputError
from lora_mm.models.anatomy import find_role_modules, get_anatomy
from lora_mm.models.data_flow import check_norms
from lora_mm.models.families import FAMILIES
from tests.helpers.families import FAMILY, family_batch, family_model
from tests.helpers.family_inputs import TEXT


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_norms_feed_attention_and_feed_forward(family: str) -> None:
    model = family_model(family)
    before = get_anatomy(model)
    assert check_norms(model, family_batch(family)) == []
    after = get_anatomy(model)
    assert (after.language, after.vision) == (before.language, before.vision)
    assert after.other_readers == {}


def test_a_norm_that_feeds_the_residual_sum_is_no_place_for_an_adapter() -> None:
    """OPT in its post-norm form: the norms have the same names and come after the sum."""
    config = FAMILY["blip-2"].config()
    config.text_config.do_layer_norm_before = False
    torch.manual_seed(0)
    model = hf.Blip2ForConditionalGeneration(config).eval()
    assert find_role_modules(model, "language", "attn_norm")
    notes = check_norms(model, family_batch("blip-2"))
    assert len(notes) == 1
    assert "does not feed attention or feed-forward" in notes[0]
    with pytest.raises(InputError, match="its language layers have none of attn_norm, ffn_norm"):
        lora_mm.attach(model, [{"method": "mma", "at": "block"}])
    assert lora_mm.attach(model, ["lora"])


def test_norms_after_attention_and_feed_forward_are_known_by_name() -> None:
    """OLMo 2 has post_attention_layernorm too, but there it feeds the residual sum."""
    config = FAMILY["llava"].config()
    config.text_config = hf.Olmo2Config(**TEXT)
    torch.manual_seed(0)
    model = hf.LlavaForConditionalGeneration(config).eval()
    language = get_anatomy(model).language
    assert language is not None
    assert not {"attn_norm", "ffn_norm"} & set(language.known_roles)
    assert check_norms(model, family_batch("llava")) == []
