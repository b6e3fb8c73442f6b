"""Profiling: what a layer's experts are worth (Algorithm 1), LExI's distances, threshold calibration."""
