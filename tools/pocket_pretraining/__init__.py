"""The pretraining of the pocket base. Uses the drawings and words of ``lora_mm.pocket``, never its questions."""
