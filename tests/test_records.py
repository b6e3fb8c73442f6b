"""Record files: append-only, and readable after whatever interrupted the writing."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.records import Record, append, load, resume


def record(number: int = 0, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "about": "quality",
        "model": "tiny",
        "fingerprint": "0123456789abcdef",
        "method": "alloc-l",
        "budget": 14,
        "plan": "fedcba9876543210",
        "setup": {"task": "wikitext", "seed": number},
        "metrics": {"perplexity": 10.5 + number},
        "samples": {"nll": [0.1, 1 / 3]},
        "environment": {"versions": {"python": "3"}},
        "command": "allocmoe eval tiny \u2192 caf\u00e9\nsecond line",
    }
    return Record(**(values | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


def refused(call: Any, path: Path, *says: str) -> None:
    with pytest.raises(AllocMoEError) as caught:
        call(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in says:
        assert word in message


def test_round_trip_in_order(path: Path) -> None:
    written = [record(i) for i in range(3)] + [
        record(about=a, method=None, budget=None, plan=None) for a in ("profile", "gate")
    ]
    for one in written:
        append(path, one)
    assert load(path) == written
    assert resume(path) == written
    assert path.read_bytes().count(b"\n") == len(written)
    assert os.listdir(path.parent) == [path.name]


def test_append_makes_the_folder_and_keeps_the_earlier_lines(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "records.jsonl"
    append(path, record(0))
    before = path.read_bytes()
    append(path, record(1))
    assert path.read_bytes().startswith(before)


def test_key_is_what_was_measured_not_what_came_out() -> None:
    same = replace(record(), metrics={"perplexity": 99.0}, created="2020", command="x", environment={}, samples={})
    assert record().key == same.key
    changes = ({"setup": {}}, {"budget": 15}, {"plan": "p"}, {"fingerprint": "f"}, {"method": "m"}, {"about": "speed"})
    assert len({record(**change).key for change in changes} | {record().key}) == len(changes) + 1


def test_a_cut_off_last_line_at_every_length(path: Path) -> None:
    """`load` says so in one line; `resume` sets the fragment aside, and appending goes on."""
    first, last = record(0), record(1)
    append(path, first)
    start = path.stat().st_size
    append(path, last)
    whole = path.read_bytes()
    for size in range(start + 1, len(whole) - 1, 7):
        path.write_bytes(whole[:size])
        refused(load, path, "line 2", "cut off", "1 records before it are whole")
        assert resume(path) == [first]
        assert path.with_name("records.jsonl.cut").read_bytes() == whole[start:size]
        append(path, last)
        assert load(path) == [first, last]
        assert path.read_bytes() == whole


def test_a_cut_off_only_line(path: Path) -> None:
    path.write_bytes(b'{"kind": "allocmoe.rec')
    refused(load, path, "line 1", "cut off")
    assert resume(path) == []
    assert load(path) == []


def test_appending_sets_a_cut_off_last_line_aside(path: Path) -> None:
    append(path, record(0), record(1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    append(path, record(2))
    assert load(path) == [record(0), record(2)]
    assert path.with_name("records.jsonl.cut").read_bytes() == whole[len(whole) // 2 : -20]


@pytest.mark.parametrize("call", [resume, lambda path: append(path, record())], ids=["resume", "append"])
@pytest.mark.parametrize(
    "foreign",
    [b'{"model": 1}', b"\x00\x01\n\x02weights", b"# notes\nand more", b"{ ", b'{"kind": "allocmoe.plan"}', b"\n\n["],
)
def test_a_file_of_something_else_stays_as_it_is(path: Path, foreign: bytes, call: Any) -> None:
    path.write_bytes(foreign)
    with pytest.raises(AllocMoEError) as caught:
        call(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == foreign
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nothing_yet(path: Path) -> None:
    assert resume(path) == []
    assert not path.exists()
    refused(load, path, "No such file")


@pytest.mark.parametrize("call", [load, resume])
@pytest.mark.parametrize(
    "garbage",
    [b"{", b"\xff\xfe", b"[1]", b'{"kind": "allocmoe.plan"}', b'{"a": NaN}', b"[" * 50_000, b"\0" * 40],
)
def test_a_garbled_middle_line_is_named(path: Path, garbage: bytes, call: Any) -> None:
    for i in range(3):
        append(path, record(i))
    lines = path.read_bytes().split(b"\n")
    lines[1] = garbage
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()
    refused(call, path, "line 2")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"metrics": {"a": "fast"}},
        {"metrics": {"a": None}},
        {"about": "weather"},
        {"extra": 1},
        {"spent": {"per_token": 0}},
        {"spent": {"per_token": "x"}},
        {"environment": {"commit": "abc"}},
        {"environment": {"commit": {}}},
        {"environment": {"versions": None}},
    ],
)
def test_a_record_against_the_schema_is_refused(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(record().to_dict() | change) + "\n")
    refused(load, path, "line 1")


@pytest.mark.parametrize("call", [load, resume])
def test_unreadable_paths(tmp_path: Path, call: Any) -> None:
    refused(call, tmp_path, "directory")


def test_nowhere_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for target in (tmp_path / "file" / "r.jsonl", tmp_path):
        refused(lambda p: append(p, record()), target, "cannot write")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["metrics", "samples", "spent"])
def test_what_is_not_a_number_is_refused(path: Path, value: float, where: str) -> None:
    append(path, record())
    before = path.read_bytes()
    with pytest.raises(AllocMoEError, match="not a number") as caught:
        append(path, record(**{where: {"perplexity": value}}))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_disk_that_fails_to_flush_takes_the_line_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    append(path, record(0))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        refused(lambda p: append(p, record(1)), path, "No space left on device", "earlier records are safe")
    assert path.read_bytes() == before
    append(path, record(1))
    assert [r.setup["seed"] for r in load(path)] == [0, 1]


FULL = """
import resource, sys
from pathlib import Path
from allocmoe.errors import AllocMoEError
from allocmoe.records import Record, append
path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for number in range(100):
    one = Record("speed", "tiny", "f", None, None, None, {"n": number}, {"ms": 1.0}, environment={}, command="c")
    try:
        append(path, one)
    except AllocMoEError as error:
        print(number)
        print(error)
        break
"""


def test_a_line_half_written_for_want_of_space_is_taken_back(path: Path) -> None:
    """A real partial write: the file may not grow beyond a limit that falls inside a line."""
    limit = 2000
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(limit)], capture_output=True, text=True, check=True
    )
    number, message = ran.stdout.splitlines()
    assert "cannot write" in message
    assert "earlier records are safe" in message
    assert [r.setup["n"] for r in load(path)] == list(range(int(number)))
    assert int(number) > 1
    assert path.stat().st_size < limit


APPEND = """
import sys
from pathlib import Path
from allocmoe.records import Record, append, resume
path = Path(sys.argv[1])
number = len(resume(path))
while True:
    samples = {"x": [number] * 50_000}  # some 300 KB, so that a kill may fall inside a write
    one = Record(
        "speed", "tiny", "f", None, None, None, {"n": number}, {"ms": 1.0}, samples=samples, environment={}, command="c"
    )
    append(path, one)
    number += 1
    print(number, flush=True)
"""


@pytest.mark.whole
def test_kill_9_while_appending_always_leaves_records_to_resume(path: Path) -> None:
    rng = random.Random(0)
    confirmed = 0
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", APPEND, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        confirmed = int(child.stdout.readline())
        time.sleep(rng.random() * 0.05)
        child.send_signal(signal.SIGKILL)
        confirmed = max([confirmed, *map(int, child.stdout.read().split())])
        child.wait()
        child.stdout.close()
        data = path.read_bytes()
        assert data[: data.rfind(b"\n") + 1].count(b"\n") >= confirmed, "a confirmed record was lost"
    found = resume(path)
    assert [r.setup["n"] for r in found] == list(range(len(found)))
    assert len(found) >= max(confirmed, 8)
    append(path, record())
    assert len(load(path)) == len(found) + 1
