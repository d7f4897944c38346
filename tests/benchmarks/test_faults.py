"""The short form of ``benchmarks/faults.py``: a few runs are killed where files are written, and resumed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no processes that fork there")
def test_killed_runs_end_bit_equal() -> None:
    command = [sys.executable, "benchmarks/faults.py", "--runs", "3", "--kinds", "kill_at_file_operations"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "3 of 3" in done.stdout
