"""The Triton kernels, their launchers, and whether Triton can run here."""
