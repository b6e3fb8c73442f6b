"""The documents: as the records have it, without a dead link, and with commands that exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from allocmoe.cli import app
from allocmoe.report.picture import picture
from allocmoe.report.prose import Sources
from allocmoe.report.prose.__main__ import main

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "reports/README.md",
    ROOT / "bench/README.md", ROOT / "bench/smollm2/README.md", ROOT / "allocmoe/mini/README.md",
]  # fmt: skip
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def test_every_figure_is_as_the_records_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--check", *map(str, PAGES), "--reports", str(ROOT / "reports")])
    assert code == 0, "".join(capsys.readouterr())


def test_the_picture_is_as_the_records_have_it() -> None:
    drawn = picture(Sources(ROOT / "reports"), "embedded,contributions")
    assert drawn == (ROOT / "docs/picture.svg").read_text("utf-8"), "draw it: python -m allocmoe.report.picture"


def test_every_page_is_looked_at() -> None:
    folders = ("allocmoe", "bench", "docs", "reports", "tests")
    found = {*ROOT.glob("*.md"), *(path for name in folders for path in (ROOT / name).rglob("*.md"))}
    assert found - set(PAGES) == {ROOT / "CHANGELOG.md"}


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page's shell blocks, as words."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        lexer = shlex.shlex(block.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars="();|&")
        lexer.whitespace_split, lexer.commenters = True, ""
        words: list[str] = []
        comment = False
        for word in [*lexer, ";"]:
            comment = (comment or word.startswith("#")) and word != ";"
            if set(word) <= set("();|&"):
                yield words
                words = []
            elif not comment and (words or not (word in ("do", "then", "done") or re.match(r"\w+=", word))):
                words.append(word)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_exist(page: Path) -> None:
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in filter(None, commands(page)):
        if words[0] == "allocmoe" or words[:3] == ["python", "-m", "allocmoe.cli"]:
            verb, *arguments = words[1 if words[0] == "allocmoe" else 3 :]
            assert verb in verbs, words
            command = verbs[verb]
            command.make_parser(command.context_class(command)).parse_args(list(arguments))  # raises on what is unknown
        if words[0] == "make":
            assert words[1] in targets, words
        if words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), words


def test_commands_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nA=1 (cd b && make c)   # no, 'not this'\nfor m in a b; do\n    d $m \\\n  e\ndone\n```\n")
    found = [" ".join(words) for words in commands(page) if words]
    assert found == ["cd b", "make c", "for m in a b", "d $m e"]
