"""The index of published pages, against the published pages and against records made up for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from allocmoe import records
from allocmoe.errors import AllocMoEError
from allocmoe.records import Record
from allocmoe.report.index import NAME, index, write

REPORTS = Path(__file__).parents[2] / "reports"
COMMIT = {"hash": "0123456789abcdef" + "0" * 24, "date": "2026-02-03T04:05:06+00:00", "dirty": False}


def made(about: str, method: str | None, budget: int | None, day: int, **environment: object) -> Record:
    setup = {"text": "held out"} if about == "quality" else {"engine": "vllm"}
    created = f"2026-02-{day:02d}T00:00:00+00:00"
    return Record(about, "m & m", "f" * 16, method, budget, None, setup, {}, environment=environment, created=created)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for stem, title in (("b", "Second &lt;page&gt;"), ("a", "First page")):
        (tmp_path / f"{stem}.html").write_text(f"<head><title>\n{title}</title></head><svg><title>x</title></svg>")
    found = [made("quality", "original", 128, 3), made("quality", "alloc-moe", 64, 4, commit=COMMIT)]
    found += [made("speed", m, b, 5, commit=COMMIT | {"dirty": True}) for m in ("naee", "original") for b in (64, 96)]
    for record in found:
        records.append(tmp_path / "records/b.jsonl", record)
    return tmp_path


def test_the_published_index_is_that_of_the_published_pages():
    said = "run `python -m allocmoe.report.index reports`"
    assert (REPORTS / NAME).read_text("utf-8") == index(REPORTS), said


def test_every_link_of_the_published_index_leads_somewhere():
    text = (REPORTS / NAME).read_text("utf-8")
    links = re.findall(r'href="([^"]*)"', text)
    assert {p.name for p in REPORTS.glob("*.html")} - {NAME} <= set(links)
    assert all((REPORTS / link).is_file() for link in links)
    assert "<script" not in text
    assert "://" not in text


def test_a_page_is_told_by_its_title_and_its_records(folder: Path):
    text = index(folder)
    first, second = text.split("<section")[1:]
    assert '<a href="a.html">First page</a>' in first
    assert "none beside the page" in first
    assert "<dt>models" not in first
    assert '<a href="b.html">Second &lt;page&gt;</a>' in second
    assert (
        "Quality of m &amp; m: 2 methods at 1 budget, held out. Speed of m &amp; m: 2 methods at 2 budgets, vllm."
        in (second)
    )
    assert "<dd>original, NAEE, Alloc-MoE</dd>" in second
    assert "not recorded, 0123456789ab of 2026-02-03, 0123456789ab of 2026-02-03, with changes" in second
    assert "<dd>2026-02-03 to 2026-02-05</dd>" in second
    assert '<a href="records/b.jsonl">records/b.jsonl</a> (6)' in second


def test_the_index_does_not_list_itself(folder: Path):
    before = index(folder)
    assert write(folder) == folder / NAME
    assert (folder / NAME).read_text("utf-8") == before == index(folder)


def test_a_folder_without_pages_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(AllocMoEError, match="holds no page: write one with"):
        index(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-m", "allocmoe.report.index", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(r"error: [^\n]*\n", ran.stderr)
    assert not list(tmp_path.iterdir())
