"""The history over commits; its figures are tested with the history itself."""

from __future__ import annotations

import pytest

from allocmoe.records import Record
from allocmoe.report import page
from allocmoe.report.results import results
from allocmoe.report.sections import history
from tests.report.made import committed, said

pytestmark = pytest.mark.whole


def test_a_figure_per_metric_of_what_two_commits_measured(records: list[Record]):
    blocks = list(history.blocks(results(committed())))
    assert blocks
    assert all(b.facts["commits"] == 2 for b in blocks)
    assert list(history.blocks(results(records))) == []


def test_the_caption_tells_commits_and_noise():
    words = said(page.render(committed(), "History"), "history")
    assert "2 commits in order of their dates" in words
    assert "Lower is better" in words
