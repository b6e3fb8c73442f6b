"""Faults put in on purpose: the texts that they change are there, and a clone is whole or is made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import injected
from bench.injected import FAULTS, HERE


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_fault_changes_is_there_once_and_stays_python(fault: str) -> None:
    path, has, gets, _ = FAULTS[fault]
    text = (HERE / path).read_text("utf-8")
    assert text.count(has) == 1
    compile(text.replace(has, gets), path, "exec")


def test_an_interrupted_clone_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone, commit, made = tmp_path / "clone", injected.commit, []

    def stopping(folder: Path, at: int, subject: str) -> str:
        made.append(subject)
        if len(made) == 3:
            raise KeyboardInterrupt
        return commit(folder, at, subject)

    monkeypatch.setattr(injected, "commit", stopping)
    with pytest.raises(KeyboardInterrupt):
        injected.build(clone, 2, 1)
    assert not clone.exists()
    injected.build(clone, 2, 1)
    for fault, (path, has, gets, _) in FAULTS.items():
        log = injected.git(clone, "log", "--reverse", "--format=%s", "-4", fault).split()
        assert log == ["sound", "sound", fault, "sound"]
        sound, faulty = (injected.git(clone, "show", f"{branch}:{path}") for branch in ("sound", fault))
        assert faulty == sound.replace(has, gets) != sound
    assert [p.name for p in tmp_path.iterdir()] == ["clone"]
