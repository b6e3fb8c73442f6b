"""Engines: they apply a plan to a live model and count what was spent."""
