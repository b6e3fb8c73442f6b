"""k_base of Alloc-T."""

from __future__ import annotations

import pytest

from allocmoe.report.results import results
from allocmoe.report.sections import k_base
from tests.report import analysed
from tests.report.made import said

pytestmark = pytest.mark.whole


def test_it_draws_a_line_per_k_base() -> None:
    (block,) = k_base.blocks(results([*analysed.methods(), *analysed.k_base()]))
    assert block.title == f"Experts for every token first: {analysed.LABEL}"
    assert [t.name for t in block.figure.data if t.xaxis == "x"] == ["0", "1", "5"]
    assert not list(k_base.blocks(results(analysed.methods())))


def test_the_page_marks_the_paper_s_numbers_as_theirs() -> None:
    from allocmoe.report import page

    words = said(page.render([*analysed.methods(), *analysed.k_base()], "k_base", ["k_base"]), "k_base")
    assert "the paper&#39;s, 78" in words or "the paper's, 78" in words
    assert "45.36" in words
    assert "its own mean accuracies in % on DeepSeek-V2-Lite (Tables 2, 5 and 6)" in words
