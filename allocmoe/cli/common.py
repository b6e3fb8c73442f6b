"""What the verbs share: options, and checks of the machine and of paths."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from allocmoe.engines import ENGINES, known
from allocmoe.errors import AllocMoEError
from allocmoe.methods import METHODS

out = Console()
notes = Console(stderr=True)
INTERRUPTED = 130

Model = Annotated[str, typer.Argument(help="A checkpoint folder, a name on the hub, or an embedded model.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, as the last line of stdout.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="cpu or cuda; vLLM takes the one it was built for.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
Text = Annotated[
    str,
    typer.Option(
        help="A text file (plain or .xz); mini-train or mini-test, generated for the embedded models; "
        "wikitext2-train or wikitext2-test, from the hub."
    ),
]
Engine = Annotated[str, typer.Option(help=f"{' or '.join(ENGINES)}.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(envvar="ALLOCMOE_DATA_ROOT", help="Local data of lm-eval's tasks, see `allocmoe data`; else the hub."),
]
Workers = Annotated[
    int, typer.Option(min=1, help="Engines at once, through Ray: a device each, or processes of this machine.")
]
Method = Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")]


def load_engine(model: str, dtype: str, device: str) -> Any:
    from allocmoe.engines.hf import HFEngine
    from allocmoe.mini import resolve

    check_machine(dtype, device)
    return HFEngine.load(resolve(model), dtype, device)


def check_machine(dtype: str, device: str) -> None:
    import torch

    from allocmoe.engines.hf import DTYPES

    if dtype not in DTYPES:
        raise AllocMoEError(f"unknown dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if device not in devices:
        raise AllocMoEError(f"no device {device!r} here: expected {' or '.join(devices)}")


def note_made_up(model: str, texts: Mapping[str, str], tasks: bool = False) -> None:
    """A word where a model that does not ship is judged by what was generated for those that do.

    Args:
        model: as the verbs take it.
        texts: option -> the text that it has.
        tasks: whether it is asked the embedded tasks.
    """
    from allocmoe.data.text import EMBEDDED
    from allocmoe.mini import embedded

    found = {option: f"{text} was generated" for option, text in texts.items() if text in EMBEDDED}
    found |= {"--suite, --task or --items 0": "the embedded tasks were made up"} if tasks else {}
    if not embedded(model):
        for option, what in found.items():
            notes.print(
                f"note: {what} for the embedded models and says little of another: give {option}",
                style="yellow", highlight=False, soft_wrap=True,
            )  # fmt: skip


def check_engine(engine: str) -> None:
    known(engine)


def check_writable(path: Path) -> None:
    """Better now than after the measurement. What is there stays as it is; of a new file, its folder is made."""
    try:
        if path.is_file() or path.is_dir():  # of a folder, opening says so
            path.open("ab").close()
        elif not path.exists():
            folder = Path(os.path.realpath(path)).parent  # of a link that leads nowhere yet, where it leads
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        elif not os.access(path, os.W_OK):  # a pipe or a device, which opening may disturb
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise AllocMoEError(f"cannot write {path}: {error.strerror}") from None


def print_json(document: Any) -> None:
    print(json.dumps(document, allow_nan=False))
