"""Builds the documentation site: reference pages from the code, and mkdocs hooks that put them in place."""
