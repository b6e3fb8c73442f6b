"""A page per commit, linked with asv's site in both directions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from allocmoe import records
from allocmoe.records import Record
from allocmoe.report import commits
from tests.report.made import Tags, committed, profile

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for record in committed():
        records.append(tmp_path / "records/one" / f"{record.environment['commit']['hash']}.jsonl", record)
    return tmp_path


def changed(record: Record) -> Record:
    return replace(
        record, environment={**record.environment, "commit": {**record.environment["commit"], "dirty": True}}
    )


def test_every_commit_has_a_page_that_leads_back_to_the_site(folder: Path, capsys: pytest.CaptureFixture[str]):
    site = folder / "site"
    assert commits.main([str(folder / "records"), str(site)]) == 0
    assert "wrote 2 pages" in capsys.readouterr().out
    (site / "index.html").write_text("asv")
    listed = Tags((site / "commits/index.html").read_text("utf-8"))
    links = [a["href"] for _, a in listed.tags if "href" in a]
    assert links == ["../index.html", f"{'2' * 40}/index.html", f"{'1' * 40}/index.html"]
    assert all((site / "commits" / str(link)).is_file() for link in links)
    for n in (1, 2):
        page = site / "commits" / (str(n) * 40) / "index.html"
        text = page.read_text("utf-8")
        assert f"Measured at {str(n) * 10} of 2026-01-0{n}" in text
        assert {(page.parent / str(a["href"])).resolve() for _, a in Tags(text).tags if "href" in a} == {
            site / "index.html", site / "commits/index.html",
        }  # fmt: skip


def test_asvs_site_leads_to_the_pages(folder: Path):
    address = json.loads((ROOT / "asv.conf.json").read_text("utf-8"))["show_commit_url"]
    made = commits.write(folder / "records", folder / "site")
    assert folder / "site" / f"{address}{'1' * 40}" / "index.html" in made


def test_only_the_newest_and_only_what_is_a_commits(folder: Path):
    assert len(commits.write(folder / "records", folder / "site", newest=1)) == 2
    assert [c.hash[0] for c in commits.measured(folder / "records")] == ["2", "1"]
    records.append(folder / "records/two/x.jsonl", *(changed(r) for r in committed()), profile())
    assert sum(len(c.records) for c in commits.measured(folder / "records")) == len(committed())


def test_nothing_measured_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert commits.main([str(tmp_path), str(tmp_path / "site")]) == 2
    assert "holds no records of a commit" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
