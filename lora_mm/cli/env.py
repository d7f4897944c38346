"""``lora-mm env``: prints versions and devices, for bug reports. Holds no logic."""

from lora_mm.cli.options import JsonOption
from lora_mm.printable import echo


def env(as_json: JsonOption = False) -> None:
    """Print versions and devices, for bug reports."""
    from lora_mm.jobs.environment import describe_environment
    from lora_mm.json_text import to_json

    facts = describe_environment()
    if as_json:
        echo(to_json(facts))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            for package, installed in value.items():
                echo(f"{package}: {installed}")
        else:
            echo(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
