"""Recipes: what a run does, as validated data. Reads files and runs nothing else."""
