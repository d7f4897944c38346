"""Developer tools: nothing here is in the wheel."""
