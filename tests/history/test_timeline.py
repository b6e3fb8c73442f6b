"""The report's section on the history."""

from __future__ import annotations

from dataclasses import replace

import pytest
from past import MACHINE, commit, past, quality

from allocmoe import history
from allocmoe.metrics import METRICS
from allocmoe.records import Record
from allocmoe.report import page, timeline

pytestmark = pytest.mark.whole

BAD = 7


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return past(12, BAD)


def test_a_figure_per_metric_draws_the_series_and_rings_the_changes(records: list[Record]):
    found = {one: fig for one, fig, _ in timeline.blocks(records)}
    told = [m for m in METRICS.values() if any(m.told(r) for r in records)]
    assert list(found) == [m.title[0].upper() + m.title[1:] for m in told]
    known = {(s.method, s.metric): s.values for s in history.series(records)}
    fig = found["Decode time over the original's"]
    lines = {t.name: list(t.y) for t in fig.data}
    assert lines["uniform"] == known["uniform", "decode"]
    assert lines["Alloc-T"] == known["alloc-t", "decode"]
    (ring,) = [t for t in fig.data if t.name == "worse from here"]
    assert list(ring.x) == [BAD]
    assert list(ring.y) == [known["alloc-t", "decode"][BAD]]
    assert fig.layout.shapes[0].y0 == 1.0
    assert {t.name for t in found["Perplexity"].data} == {"original", "Alloc-MoE", "worse from here"}
    assert {t.name for t in found["Mean accuracy"].data} == {"original", "Alloc-MoE"}


def test_a_line_breaks_where_a_commit_was_not_measured(records: list[Record]):
    few = [r for r in records if not (r.method == "alloc-moe" and r.environment["commit"]["hash"][:2] == "03")]
    ((_, fig, _),) = [b for b in timeline.blocks(few) if b[0] == "Perplexity"]
    (line,) = [t for t in fig.data if t.name == "Alloc-MoE"]
    assert [x for x, y in zip(line.x, line.y, strict=True) if y is None] == [3]
    assert not line.connectgaps


def test_panels_are_those_of_label_and_budget():
    made = [quality(n, m, b) for n in range(2) for m, b in (("original", 128), ("uniform", 64), ("uniform", 96))]
    made += [replace(r, setup={"text": "Alice"}) for r in made]
    ((_, fig, _),) = [b for b in timeline.blocks(made) if b[0] == "Perplexity"]
    labels = [a.text for a in fig.layout.annotations]
    assert labels == [f"mini-olmoe · {t}, budget {b}" for t in ("Alice", "mini-test") for b in (96, 64)]
    assert sum(t.name == "original" for t in fig.data) == 4
    assert sum(bool(t.showlegend) for t in fig.data) == 2


def test_the_section_tells_of_changes_and_gaps(records: list[Record]):
    lost = [r for r in records if not (r.about == "speed" and r.environment["commit"]["hash"][:2] in ("0a", "0b"))]
    text = page.render(lost, "History")
    section = " ".join(text.split('<section id="history">')[1].split("</section>")[0].split())
    assert "<h2>History over commits</h2>" in section
    assert f'<code>{"07" * 5}</code> 2026-01-08 <span class="worse">worse</span> perplexity of alloc-moe' in section
    assert f"<code>{'0a' * 5}</code> 2026-01-11 not measured from here on: decode time" in section
    assert "more than 0.2%" in section
    assert section.count("data-figure") == 5


def test_no_section_for_one_commit_or_none():
    unnamed = [quality(n, environment=MACHINE) for n in range(3)]
    for made in (unnamed, [quality(0), *unnamed], [quality(0), quality(0, "uniform")]):
        assert timeline.blocks(made) == []
        assert 'id="history"' not in page.render(made, "One")


def test_hostile_names_stay_text():
    evil = "<img src=x onerror=alert(1)>"
    made = [quality(n, evil, 64, model=evil, metrics={"perplexity": 4.0 + n},
                    environment={**MACHINE, "commit": commit(n, hash=evil + str(n))}) for n in range(2)]  # fmt: skip
    made += [replace(r, budget=32) for r in made]
    text = page.render(made, "Evil")
    assert "<img" not in text.split("</head>")[1]
    for _, fig, _ in timeline.blocks(made):
        assert not [t for t in fig.data if "<img" in f"{t.name}{t.text}"]
        assert not [a for a in fig.layout.annotations if "<img" in a.text]
        assert "<img" not in str(fig.layout.xaxis.ticktext)
