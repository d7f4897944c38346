"""Adapters merged into weights, or written out as stock LoRA, and verified."""
