"""Several processes on one file of records: none takes half a line of another for a cut-off one."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from allocmoe.records import Record, append, load, resume


def record(number: int) -> Record:
    same: dict[str, Any] = {"environment": {}, "command": "c", "created": "2026"}
    return Record("speed", "tiny", "f", None, None, None, {"n": number}, {"ms": 1.0}, **same)


def numbers(path: Path) -> list[int]:
    return [one.setup["n"] for one in load(path)]


@pytest.mark.parametrize("call", [load, resume, lambda path: append(path, record(2))], ids=["load", "resume", "append"])
def test_everyone_waits_for_a_writer_in_the_middle_of_a_line(call: Any, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append(path, record(0), record(1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(call(path)), daemon=True)
    with path.open("ab") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        writer.write(whole[-20:])
    waiting.join(10)
    assert found in ([[record(0), record(1)]], [None])
    assert numbers(path) == [0, 1, *([2] if found == [None] else [])]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("call", [load, resume])
def test_readers_do_not_wait_for_each_other(call: Any, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append(path, record(0))
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert call(path) == [record(0)]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    path = tmp_path / "records.jsonl"
    append(path, record(0))
    assert resume(path) == load(path) == [record(0)]
