"""Trains the pocket base that ships with the package, from nothing."""
