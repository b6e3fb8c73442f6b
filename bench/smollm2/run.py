"""A command line whose errors are a line for a person."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from allocmoe.errors import AllocMoEError


def run(main: Callable[..., Any], again: str) -> None:
    """A typer command: what is wrong ends with a line and exit code 2, Ctrl-C with `again` and 130."""
    try:
        typer.run(main)
    except AllocMoEError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"interrupted: {again}", file=sys.stderr)
        sys.exit(130)
