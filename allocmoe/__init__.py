"""Serve mixture-of-experts models under an expert-activation budget, and know what it costs.

A plan file says how many experts each layer and token may use; engines obey it; measurements of
it become records; records become tables and a report. `allocmoe --help` lists the verbs.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("allocmoe")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
