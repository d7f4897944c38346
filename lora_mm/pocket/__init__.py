"""The pocket: a small world of drawn problems and a small base model, so that the real job runs in minutes anywhere.

Knows where the shipped base lies; imports nothing heavy.
"""

from pathlib import Path

BASE = Path(__file__).parent / "base"
"""The folder of the shipped pocket base, loadable by plain ``AutoModelForImageTextToText`` and ``AutoProcessor``."""
