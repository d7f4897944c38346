"""``python -m lora_mm`` is ``lora-mm``."""

from lora_mm.cli.main import run

if __name__ == "__main__":
    run()
