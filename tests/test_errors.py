"""What a message quotes of somebody else's error: a line, whatever that error says, if it says anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from allocmoe import cli, mini
from allocmoe.data import text
from allocmoe.engines.hf import loading
from allocmoe.errors import AllocMoEError, first_line
from allocmoe.evaluate.tasks.loading import reason

ODD = [(AssertionError(), "AssertionError"), (ValueError("\n \n  no weights\nhere"), "no weights")]


@pytest.mark.parametrize(
    ("error", "line", "with_kind"),
    [
        (ValueError("one\ntwo"), "one", "ValueError: one"),
        (ValueError("\n\n  two \nthree"), "two", "ValueError: two"),
        (ValueError(), "ValueError", "ValueError"),
        (ValueError(" \n\t"), "ValueError", "ValueError"),
        (KeyError("a"), "'a'", "KeyError: 'a'"),
    ],
)
def test_the_first_line_that_says_something(error: Exception, line: str, with_kind: str) -> None:
    assert first_line(error) == line
    assert first_line(error, kind=True) == with_kind
    assert first_line(error, 3) == line[:3]


def fails(error: Exception) -> Any:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    return failing


@pytest.mark.parametrize(("error", "says"), ODD)
def test_what_others_raise_is_quoted(error: Exception, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", fails(error))
    monkeypatch.setattr("datasets.load_dataset", fails(error))

    def load() -> None:
        with loading("model", Path("folder")):
            raise error

    for call in (load, lambda: mini.resolve("nobody/nothing"), lambda: text._wikitext("test")):
        with pytest.raises(AllocMoEError, match=f": {says}(;|$)"):
            call()
    assert says in reason(error)


@pytest.mark.parametrize(("error", "says"), ODD)
def test_the_command_line_quotes_what_it_did_not_expect(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", fails(error))
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().err
    assert f"{says};" in shown
    assert shown.count(type(error).__name__) == 1
