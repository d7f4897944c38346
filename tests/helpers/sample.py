"""The sample of real ScienceQA problems beside the repository; tests that need it are skipped where it is absent."""

from pathlib import Path

import pytest

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "scienceqa-sample"

needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real ScienceQA problems is not here")
