"""Renders HTML pages from Jinja templates and embeds pictures in them. Knows no content."""
