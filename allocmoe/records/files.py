"""Record files: JSON Lines, only ever appended to.

A record is appended in one write and flushed to the disk, so an interruption can only cut off the last line:
reading then says so, and what is appended next sets the fragment aside and goes on. Several processes may append to
one file: who writes holds a lock on the file itself, so nobody takes half a line of a live writer for a cut-off one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import BinaryIO

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.records.record import Record

START = b'{"kind": "allocmoe.record"'
LOCKLESS = errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK  # of a file system that has no locks: one writer at a time there


def append(path: Path, *found: Record) -> None:
    """Add records to a file, all in one write; the file's earlier lines are never touched.

    A last line that was cut off is set aside first, as `resume` does.

    Raises AllocMoEError where it cannot be written; a line half written for want of space is taken
    back.
    """
    try:
        lines = b"".join(json.dumps(record.to_dict(), allow_nan=False).encode() + b"\n" for record in found)
    except ValueError:
        names = ", ".join(str(record.method) for record in found)
        raise AllocMoEError(f"a figure of {names} is not a number: the measurement failed") from None
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            _lock(file, fcntl.LOCK_EX)
            start = file.seek(0, os.SEEK_END)
            if start and os.pread(file.fileno(), 1, start - 1) != b"\n":
                _mended(file, path)
                start = file.seek(0, os.SEEK_END)
            try:
                written = file.write(lines)
                if written != len(lines):
                    raise OSError(28, "No space left on device")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise
    except OSError as error:
        raise AllocMoEError(f"cannot write {path}: {error.strerror}; its earlier records are safe") from None


def load(path: Path) -> list[Record]:
    """All records of a file, oldest first; AllocMoEError names the first line that is not whole."""
    try:
        data = _read(path)
    except OSError as error:
        raise AllocMoEError(f"cannot read the records {path}: {error.strerror}") from None
    return _parsed(data, path)


def _lock(file: BinaryIO, kind: int) -> None:
    """Take a lock of fcntl on an open file, once whoever holds another is done; closing the file gives it back."""
    try:
        fcntl.flock(file, kind)
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise


def _read(path: Path) -> bytes:
    """What a file holds while nobody writes to it."""
    with Path(path).open("rb") as file:
        _lock(file, fcntl.LOCK_SH)
        return file.read()


def _parsed(data: bytes, path: Path) -> list[Record]:
    records = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line:
            continue
        where = f"line {number} of {path}"
        try:
            records.append(Record.from_dict(documents.parse(line.decode("utf-8"), "record", where)))
        except UnicodeDecodeError:
            raise AllocMoEError(f"{where} is not UTF-8 text") from None
        except AllocMoEError as error:
            if number == data.count(b"\n") + 1:
                raise AllocMoEError(
                    f"{where} is cut off; the {len(records)} records before it are whole: "
                    "repeat the command that wrote it, and it goes on from there"
                ) from None
            raise AllocMoEError(f"{error}") from None
    return records


def resume(path: Path) -> list[Record]:
    """Records of an earlier, perhaps interrupted run; none if there was no run.

    A last line that was cut off moves to `<name>.cut`, so that the file can be appended to. A file of something
    else is refused and stays as it is.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        data = _read(path)
        if data[-1:] in (b"", b"\n"):
            return _parsed(data, path)
        with path.open("r+b") as file:
            _lock(file, fcntl.LOCK_EX)
            return _mended(file, path)
    except OSError as error:
        raise AllocMoEError(f"cannot resume the records {path}: {error.strerror}") from None


def _mended(file: BinaryIO, path: Path) -> list[Record]:
    """The whole records of an open file, after what follows them was moved to `<name>.cut`."""
    file.seek(0)
    data = file.read()
    whole = data.rfind(b"\n") + 1
    found, rest = _parsed(data[:whole], path), data[whole:]
    if rest and not found and rest[: len(START)] != START[: len(rest)]:
        raise AllocMoEError(f"{path} does not begin with a record: expected a records file, or a new name")
    if rest:
        path.with_name(path.name + ".cut").write_bytes(rest)
        file.truncate(whole)
    return found
