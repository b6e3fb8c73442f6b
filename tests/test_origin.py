"""Where a record was made: this machine, the commit of the checkout, the command."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocmoe.records import Record, commit, environment
from allocmoe.records.origin import typed


def test_defaults_say_what_machine_and_command_without_a_path() -> None:
    one = Record("speed", "tiny", "f", None, None, None, {}, {"ms": 1.0})
    assert one.environment["versions"]["python"].startswith(f"{sys.version_info.major}.")
    assert {"allocmoe", "torch"} <= set(one.environment["versions"])
    assert os.sep not in one.command.split()[0]
    assert one.created.endswith("+00:00")


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["allocmoe", "eval", "my model", "it's", "", "$HOME", "a;b"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/allocmoe", *words[1:]])
    assert shlex.split(typed()) == words


def test_an_argument_that_is_not_utf_8_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["allocmoe", "--text", os.fsdecode(b"se\xf1ora.txt")])
    assert typed() == r"allocmoe --text 'se\udcf1ora.txt'"
    typed().encode("utf-8")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository of one commit that holds a copy of this package's records module."""
    from allocmoe.records import origin

    folder = tmp_path / "project"
    (folder / "allocmoe/records").mkdir(parents=True)
    shutil.copy(origin.__file__, folder / "allocmoe/records/origin.py")
    for name in ("ASV_COMMIT", "ASV_CONF_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2026-02-03T04:05:06+00:00")
    git(folder, "init", "-q")
    git(folder, "add", "allocmoe")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one")
    monkeypatch.setattr(origin, "__file__", str(folder / "allocmoe/records/origin.py"))
    commit.cache_clear()
    yield folder
    commit.cache_clear()


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_checkout(checkout: Path) -> None:
    head = {"hash": git(checkout, "rev-parse", "HEAD"), "date": "2026-02-03T04:05:06+00:00", "ancestors": 1}
    (checkout / "new").write_text("untracked files do not count")
    assert commit() == {**head, "dirty": False}
    assert environment()["commit"] == commit()
    digests = set()
    for _ in range(2):
        commit.cache_clear()
        with (checkout / "allocmoe/records/origin.py").open("a") as file:
            file.write("# changed")
        found = commit()
        assert found
        digests.add(found.pop("changes"))
        assert found == {**head, "dirty": True}
    assert len(digests) == 2, "other changes"


def test_asv_names_the_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = git(checkout, "rev-parse", "HEAD")
    git(checkout, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "two")
    monkeypatch.setenv("ASV_COMMIT", first)
    monkeypatch.setenv("ASV_CONF_DIR", str(checkout))
    assert commit() == {"hash": first, "date": "2026-02-03T04:05:06+00:00", "ancestors": 1, "dirty": False}


def test_a_copy_inside_of_somebodys_repository_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from allocmoe.records import origin

    (checkout / "installed/records").mkdir(parents=True)
    shutil.copy(checkout / "allocmoe/records/origin.py", checkout / "installed/records/origin.py")
    monkeypatch.setattr(origin, "__file__", str(checkout / "installed/records/origin.py"))
    assert commit() is None
    assert "commit" not in environment()
