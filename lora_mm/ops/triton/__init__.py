"""The Triton kernels, and whether and how they run."""
