"""Versioned JSON documents: validated when read, whole or absent when written.

Every noun that crosses a border (sensitivity, plan, record) is a JSON object with a `kind` and a
`version`, described by a JSON Schema in `schemas/`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from allocmoe.errors import AllocMoEError, shown


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]} is out of range")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) >= 2**64:  # later arithmetic is in floating point, where such a number may overflow
        raise ValueError(f"{text[:20]} is out of range")
    return value


@cache
def _validator(kind: str, version: int | None = None) -> Any:
    """Of the present version, or of an earlier one; None where there is no such schema."""
    from jsonschema import Draft202012Validator

    name = kind if version is None else f"{kind}.v{version}"
    file = files("allocmoe").joinpath(f"schemas/{name}.json")
    return Draft202012Validator(json.loads(file.read_text("utf-8"))) if file.is_file() else None


def parse(text: str, kind: str, where: str) -> dict[str, Any]:
    """The document in `text`, checked against the schema of its version, which may be an earlier one.

    Raises AllocMoEError, in one sentence, if it is cut off, holds NaN or a number out of range, is
    of another kind, has a newer version than this program knows, or breaks its schema.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise AllocMoEError(f"{where} is not a whole JSON document ({error}): write it again") from None
    if not isinstance(document, dict) or document.get("kind") != f"allocmoe.{kind}":
        found = document.get("kind") if isinstance(document, dict) else type(document).__name__
        raise AllocMoEError(f"{where} holds {shown(found)}, expected a document of kind 'allocmoe.{kind}'")
    validator = _validator(kind)
    known, version = validator.schema["properties"]["version"]["const"], document.get("version")
    if isinstance(version, int) and version > known:
        raise AllocMoEError(f"{where} has version {version}, this program reads up to {known}: upgrade allocmoe")
    if isinstance(version, int) and not isinstance(version, bool) and 0 < version < known:
        validator = _validator(kind, version) or validator
    for fault in validator.iter_errors(document):
        path = ".".join(map(str, fault.absolute_path))[:100] or "the document"
        raise AllocMoEError(f"{where} is not a valid {kind}: {path}: {fault.message[:200]}")
    return document


def read(path: Path, kind: str) -> dict[str, Any]:
    """The document in a file; see `parse`. An unreadable file is an AllocMoEError too."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise AllocMoEError(f"cannot read the {kind} {path}: {reason}") from None
    return parse(text, kind, f"the {kind} {path}")


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that `path` holds either its old content or all of the new.

    A link stays, and its target is replaced. A device or a pipe is written to where it is.

    Raises AllocMoEError where the folder does not allow it or the disk is full; nothing is left
    behind in either case.
    """
    target = Path(os.path.realpath(path))
    part = ""
    try:
        if os.path.exists(path) and not target.is_file():  # behind /dev/stdout there may be a pipe without a path
            Path(path).write_text(text, "utf-8")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(part, 0o666 & ~mask)
        os.replace(part, target)
    except OSError as error:
        raise AllocMoEError(f"cannot write {path}: {error.strerror}; nothing was changed") from None
    finally:
        if part and os.path.exists(part):
            os.unlink(part)


def dump(document: dict[str, Any]) -> str:
    """The document as JSON text; NaN and infinity are refused."""
    try:
        return json.dumps(document, indent=1, allow_nan=False) + "\n"
    except ValueError:
        raise AllocMoEError("a figure to be written is not a number: the measurement failed") from None


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: what Python makes of a byte that is not UTF-8, in an argument or a file name, is
    spelled out as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def digest(document: Any) -> str:
    """A short hash of a JSON-able value that does not depend on the order of its keys."""
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
