"""The one exception a user may see: a single line that says what was wrong and what to do."""

from __future__ import annotations

from typing import Any

LONGEST = 2000


class AllocMoEError(Exception):
    """Bad input or an impossible request. The command line prints it without a traceback. Its length is bounded."""

    def __init__(self, message: object = "") -> None:
        text = str(message)
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST - 6]} [...]")


def shown(value: Any, most: int = 60) -> str:
    """A value of somebody's file as a message may quote it: its repr, cut short."""
    text = repr(value[: most + 1] if isinstance(value, str) else value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_line(error: BaseException, most: int = 200, *, kind: bool = False) -> str:
    """What somebody else's error says, as a message may quote it.

    Its first line that is not blank, else the name of its kind.

    Args:
        most: characters.
        kind: put the name of its kind before the line.
    """
    name = type(error).__name__
    line = next(filter(None, map(str.strip, str(error).splitlines())), "")
    return (f"{name}: {line}" if kind and line else line or name)[:most]
