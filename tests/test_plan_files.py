"""Plan files: whole or not at all, whatever happens while one is written."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
from tests.test_plan import path as path
from tests.test_plan import plan


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_plan(step: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, step, no_space)
    with pytest.raises(AllocMoEError, match="No space left on device") as caught:
        plan(layers=(2, 3, 4, 5)).save(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_an_interruption_leaves_the_old_plan(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    plan().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan(layers=(2, 3, 4, 5)).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_content_is_on_the_disk_before_it_gets_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.replace

    def log(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def logged(*args: Any) -> Any:
            steps.append(name)
            return call(*args)

        return logged

    monkeypatch.setattr(os, "fsync", log("fsync", fsync))
    monkeypatch.setattr(os, "replace", log("replace", rename))
    plan().save(path)
    assert steps[:2] == ["fsync", "replace"]


def test_nowhere_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "plan.json", tmp_path / "file" / "deeper" / "plan.json", tmp_path / "folder"):
        with pytest.raises(AllocMoEError, match="cannot write") as caught:
            plan().save(target)
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_link_stays_and_its_target_is_replaced(path: Path) -> None:
    link, ahead = path.with_name("link.json"), path.with_name("ahead.json")
    plan().save(path)
    link.symlink_to(path.name)
    ahead.symlink_to(path.parent / "deeper" / "plan.json")
    for written, to in ((link, path), (ahead, path.parent / "deeper" / "plan.json")):
        plan(layers=(2, 3, 4, 5)).save(written)
        assert written.is_symlink()
        assert not to.is_symlink()
        assert Plan.load(to).layers == (2, 3, 4, 5)
    assert sorted(os.listdir(path.parent)) == sorted(["deeper", ahead.name, link.name, path.name])


def test_a_pipe_stays_a_pipe(path: Path) -> None:
    pipe, link = path.with_name("pipe"), path.with_name("link")
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    plan().save(path)
    for written in (pipe, link):
        read: list[str] = []
        reader = threading.Thread(target=lambda read=read: read.append(pipe.read_text()), daemon=True)
        reader.start()
        plan().save(written)
        reader.join(10)
        assert read == [path.read_text()]
        assert pipe.is_fifo()
    assert link.is_symlink()


def test_a_pipe_without_a_path(path: Path) -> None:
    """What `--out /dev/stdout` names when another program reads it."""
    source, target = os.pipe()
    with open(source) as reading:
        with open(target, "w"):
            plan().save(Path(f"/proc/self/fd/{target}"))
        plan().save(path)
        assert reading.read() == path.read_text()
