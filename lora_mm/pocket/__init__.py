"""The pocket world and base: small drawn data sets and a small model, to run the real job anywhere in minutes.

Knows where the packaged base is; imports nothing heavy.
"""

from pathlib import Path

BASE = Path(__file__).parent / "base"
"""Folder of the pocket base. ``AutoModelForImageTextToText`` and ``AutoProcessor`` load it without lora-mm."""
