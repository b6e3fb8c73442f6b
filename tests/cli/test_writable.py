"""The look ahead at where a verb will write: it says what is wrong, and changes nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from allocmoe.cli.common import check_writable
from allocmoe.errors import AllocMoEError


def test_a_new_file_is_not_made_but_its_folder_is(tmp_path: Path) -> None:
    check_writable(tmp_path / "deeper" / "records.jsonl")
    assert os.listdir(tmp_path / "deeper") == []


def test_a_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("kept")
    check_writable(path)
    assert path.read_text() == "kept"


def test_a_file_that_another_process_makes_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    exists = Path.exists

    def made(one: Path) -> bool:
        before = exists(one)
        if one == path:
            path.write_text("of another")
        return before

    monkeypatch.setattr(Path, "exists", made)
    check_writable(path)
    assert path.read_text() == "of another"


def test_a_link_that_leads_nowhere_stays(tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "deeper" / "records.jsonl")
    check_writable(link)
    assert link.is_symlink()
    assert os.listdir(tmp_path / "deeper") == []


def test_nobody_needs_to_read_a_pipe_yet(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_what_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(os, "access", lambda *_: False)  # a superuser may write anywhere
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "records.jsonl", "(Not a directory|File exists)"),
        (tmp_path / "pipe", "Permission denied"),
    ):
        with pytest.raises(AllocMoEError, match=f"cannot write {path}: {why}"):
            check_writable(path)


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(AllocMoEError, match="No space left on device"):
        check_writable(tmp_path / "records.jsonl")
    assert os.listdir(tmp_path) == []
