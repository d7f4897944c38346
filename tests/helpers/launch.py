"""Two processes, as ``torchrun`` starts them."""

import subprocess
import sys

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def two(*what: object) -> subprocess.CompletedProcess[str]:
    """The end of two processes that both run ``what``: a script or ``-m`` module, with arguments."""
    return subprocess.run([*TWO, *map(str, what)], capture_output=True, text=True, timeout=120)
