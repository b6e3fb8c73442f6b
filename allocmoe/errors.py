"""The one exception a user may see: a single line that says what was wrong and what to do."""

from __future__ import annotations


class AllocMoEError(Exception):
    """Bad input or an impossible request. The command line prints it without a traceback."""
