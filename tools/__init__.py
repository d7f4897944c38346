"""Developer tools, run from a checkout. They are not in the wheel; lora_mm never imports them."""
