"""A run, or a score, as one HTML file that needs nothing else: no network, no script, no font."""
