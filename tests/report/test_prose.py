"""Marks in documents: what is filled, what stays, what is refused; and the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.report.prose import Sources, fill
from allocmoe.report.prose.__main__ import main


def test_all_else_stays_and_filling_again_changes_nothing(sources: Sources) -> None:
    text = "A <!--note--> and `<!--` stay.\r\nOf <!--fig settings\n  made words-->x\ny<!--/fig-->: tail\n\n"
    once = fill(text, sources)
    assert once == text.replace("x\ny", "eight")
    assert fill(once, sources) == once


WRONG = {
    "A <!--fig dice made-->x<!--/fig-->": "unknown fig 'dice': expected one of accuracy, ",
    "<!--table dice-->x<!--/table-->": "unknown table 'dice': expected one of ",
    "A <!--fig settings-->x<!--/fig-->": "fig settings takes FILE [FORM], not ''",
    "A <!--fig settings made words more-->x<!--/fig-->": "fig settings takes FILE [FORM]",
    "A <!--fig settings none-->x<!--/fig-->": "there are no records 'none': expected one of ",
    "A <!--fig settings ../records/made-->x<!--/fig-->": "there are no records '../records/made'",
    "A <!--fig settings made roman-->x<!--/fig-->": "unknown form 'roman'",
    "A <!--fig settings 'made-->x<!--/fig-->": "cannot be read: No closing quotation",
    "A <!--fig loss made mini-x uniform 24-->x<!--/fig-->": "made has no quality of 'mini-x': expected one of",
    "A <!--fig loss made mini-qwen dice 24-->x<!--/fig-->": "there is no quality of mini-qwen under 'dice' at '24'",
    "A <!--fig loss made mini-qwen uniform 23-->x<!--/fig-->": "under 'uniform' at '23'",
    "A <!--fig loss made mini-qwen uniform half-->x<!--/fig-->": "a budget is a number or a fraction such as 1/2",
    "A <!--fig loss made mini-qwen uniform 1/0-->x<!--/fig-->": "a budget is a number or a fraction such as 1/2",
    "A <!--fig loss made mini-qwen uniform 24 bars-->x<!--/fig-->": "unknown word 'bars': expected interval",
    "A <!--fig winners made luck-->x<!--/fig-->": "unknown metric 'luck'",
    "A <!--fig shown made alloc-moe uniform accuracy great-->x<!--/fig-->": "expected perplexity, divergence, accuracy",
    "A <!--fig compared made alloc-moe dice-->x<!--/fig-->": "made does not compare 'alloc-moe' with 'dice'",
    "A <!--fig speedup timed olmoe-wide uniform 24 lunch-->x<!--/fig-->": "unknown phase 'lunch'",
    "A <!--fig accuracy made mini-qwen uniform 24 dice-->x<!--/fig-->": "made has no accuracy of mini-qwen on 'dice'",
    "A <!--fig sensitivity made mini-qwen 99 1-->x<!--/fig-->": "the profile of mini-qwen has no layer '99' at '1'",
    "A <!--fig field gate 7 metrics whole-->x<!--/fig-->": "gate has 2 records, counted from 0, and none at '7'",
    "A <!--fig field gate 0 metrics.dice whole-->x<!--/fig-->": "record 0 of gate has no 'metrics.dice': 'dice' is not",
    "A <!--fig field gate 0 about one-->x<!--/fig-->": "'gate' cannot be written as one",
    "A <!--fig field gate 0 about roman-->x<!--/fig-->": "unknown format 'roman': expected one of text, whole",
    "<!--table gate 9-->x<!--/table-->": "gate has 2 records",
    "<!--table tasks made uniform 1/2-->x<!--/table-->": "the records do not have what table tasks needs",
    "<!--table speed made 1/2 uniform-->x<!--/table-->": "made has no speed of 'uniform'",
    "<!--table code none.py a-->x<!--/table-->": "cannot read the code 'none.py'",
    "<!--table code some.py a-->x<!--/table-->": "some.py has no 'a': expected some of TABLE, TABLE.a",
    "A <!--fig methods-->x<!--/table-->": "this mark opens a fig and closes a table",
    "A <!--fig methods-->x": "this mark has no other end of its own",
    "<!--fig methods-->x<!--/fig-->": "this figure begins a line, where Markdown reads a comment",
    "- <!--fig methods-->x<!--/fig-->": "this figure begins a line",
    "  1. <!--fig methods-->x<!--/fig-->": "this figure begins a line",
    "x<!--/fig-->": "this mark has no other end of its own",
    "A <!--fig methods-->x <!--fig methods-->y<!--/fig-->": "this mark has no other end of its own",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_filled_is_one_line_with_its_place(text: str, sources: Sources) -> None:
    with pytest.raises(AllocMoEError) as caught:
        fill(f"One line.\n\n{text}", sources, "page.md")
    assert str(caught.value).startswith("page.md:3: ")
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_fills_and_checks(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, folder = tmp_path / "page.md", ["--reports", str(sources.folder)]
    text = "One.\nOf <!--fig settings made-->7<!--/fig-->\n"
    page.write_text(text)
    assert main(["--check", str(page), *folder]) == 1
    assert page.read_text() == text
    assert f"{page}:2: not as the records have it" in capsys.readouterr().out
    assert main([str(page), *folder]) == 0
    assert page.read_text() == text.replace("7", "8")
    assert main(["--check", str(page), *folder]) == 0
    page.write_text("A <!--fig dice-->")
    assert main([str(page), *folder]) == 2
    assert main([str(tmp_path / "none.md"), *folder]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"error: {page}:1: ")
    assert said[1].startswith("error: cannot read ")
