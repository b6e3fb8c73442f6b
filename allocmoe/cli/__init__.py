"""The verbs. Each one's --help has an example that runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from allocmoe import __version__
from allocmoe.cli import analysing, data, gating, history, measuring, planning, showing, tuning
from allocmoe.cli.common import INTERRUPTED, notes
from allocmoe.errors import AllocMoEError, first_line

TRACEBACK = "ALLOCMOE_TRACEBACK"
app = typer.Typer(
    name="allocmoe",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serve mixture-of-experts models under an expert-activation budget, and know what it costs.",
)
for verb in (
    planning.models, planning.profile, planning.allocate, measuring.eval, measuring.bench, measuring.measure,
    analysing.analyse, tuning.fit, tuning.tune,
    gating.baseline, gating.gate, history.history, showing.report, showing.demo,
):  # fmt: skip
    app.command()(verb)
app.add_typer(data.app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Serve mixture-of-experts models under an expert-activation budget, and know what it costs."""


def main() -> None:
    """Entry point."""
    run(app)


def script(function: Callable[..., Any]) -> None:
    """A function as a command line of its own, whose errors are told as those of the verbs."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(function)
    run(alone)


def run(command: typer.Typer) -> None:
    """An expected error is one line on stderr and exit code 2; Ctrl-C is 130; a gate has its own."""
    try:
        code = command(standalone_mode=False)
        if code == INTERRUPTED:  # typer turns Ctrl-C, and a verb's typer.Exit, into a returned exit code
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
    except AllocMoEError as error:
        sys.exit(_fail(f"error: {' '.join(str(error).split())}", 2))
    except ModuleNotFoundError as error:
        extra = "report" if error.name in ("plotly", "pandas", "jinja2", "scipy", "statsmodels") else "eval"
        sys.exit(_fail(f"error: this needs {error.name}: pip install 'allocmoe[{extra}]'", 2))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_fail("interrupted: run the same command again to go on", INTERRUPTED))
    except OSError as error:
        sys.exit(_fail(f"error: {error.strerror or error}: {error.filename or ''}", 2))
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # click's usage errors
            message = " ".join(error.format_message().split())
            if not message:  # no verb at all: the help was printed
                sys.exit(int(error.exit_code))
            sys.exit(_fail(f"error: {message}", int(error.exit_code)))
        if os.environ.get(TRACEBACK):
            raise
        said = first_line(error, 300, kind=True).encode("ascii", "backslashreplace").decode()
        sys.exit(_fail(f"error: unexpected {said}; a bug in allocmoe, or in a file: {TRACEBACK}=1 shows where", 2))


def _fail(message: str, code: int) -> int:
    notes.print(message, style="red" if code == 2 else None, markup=False, highlight=False, soft_wrap=True)
    return code
