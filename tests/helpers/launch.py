"""Launches two processes, as ``torchrun`` starts them."""

import subprocess
import sys

LAUNCH_TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
"""The command line of the launcher; a script or ``-m`` module with arguments follows."""


def launch_two(*command: object) -> subprocess.CompletedProcess[str]:
    """Run ``command``, a script or ``-m`` module with arguments, in two processes until both end."""
    return subprocess.run([*LAUNCH_TWO, *map(str, command)], capture_output=True, text=True, timeout=120)
