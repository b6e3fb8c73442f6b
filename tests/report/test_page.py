"""The page: one file, every figure drawn, nothing hostile, nothing silently merged."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from allocmoe import report
from allocmoe.errors import AllocMoEError
from allocmoe.methods import METHODS
from allocmoe.records import Record
from allocmoe.report import page
from allocmoe.report.sections import SECTIONS
from allocmoe.report.style import name
from tests.report.made import ENVIRONMENT, Tags, drawn, embedded, plans, profile, quality, said, speed, unpacked

pytestmark = pytest.mark.whole


def test_the_page_is_one_file_that_loads_nothing(text: str):
    tags = Tags(text)
    assert not [t for t, a in tags.tags if "src" in a or t in ("link", "iframe", "object", "embed", "base")]
    assert not [a for _, a in tags.tags if "href" in a]
    assert "@import" not in text.split("</style>")[0]
    assert len(tags.ids) == len(set(tags.ids))
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text.split("<body>")[0] + text.split("<script>")[1])


def test_plotly_is_packed_whole_and_small(text: str):
    code = unpacked(text, "plotly")
    assert code == get_plotlyjs()
    assert f"plotly.js v{get_plotlyjs_version()}" in code
    assert len(page.packed(code)) < len(code) / 2


def test_the_same_records_make_the_same_page(text: str, records: list[Record]):
    assert page.render(records, "Alloc-MoE on mini-olmoe") == text


def test_sections_stand_in_order_and_records_are_embedded(text: str, records: list[Record]):
    wanted = ["plane", "paper", "verdicts", "quality", "speed", "layers", "sensitivity", "spent", "records", "measured"]
    assert [i for i in Tags(text).ids if i in wanted] == wanted
    places = [a for _, a in Tags(text).tags if "data-figure" in a]
    assert [int(a["data-figure"] or -1) for a in places] == list(range(len(embedded(text, "figures"))))
    assert embedded(text, "data") == [json.loads(json.dumps(r.to_dict())) for r in records]


def test_a_method_has_one_colour_throughout(text: str):
    colours: dict[str, set[str]] = {}
    for trace in drawn(text):
        if trace["type"] in ("scatter", "bar") and not re.search("the paper's|off the axis", trace["name"]):
            colours.setdefault(trace["name"], set()).add(trace["marker"]["color"])
    assert set(colours) == {name(m) for m in METHODS}
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == len(METHODS)


@pytest.mark.parametrize(
    ("make", "shown"), [(quality, "plane paper quality layers spent verdicts"), (speed, "speed layers")]
)
def test_a_page_of_one_kind_leaves_the_other_sections_out(make, shown: str):
    ids = Tags(page.render([make(*p) for p in plans("uniform", "alloc-moe")], "One kind")).ids
    own = {"plane", "paper", "verdicts", "quality", "speed", "layers", "sensitivity", "spent"}
    assert set(ids) & own == set(shown.split())


def test_records_without_samples_are_drawn_without_bars():
    text = page.render([replace(quality(*p), samples={}) for p in plans("uniform", "alloc-moe")], "Bare")
    assert "not comparable: an interval" in text
    assert all(not any(t["error_y"]["array"]) for t in drawn(text, "scatter") if "error_y" in t)


def test_hostile_names_stay_text(tmp_path: Path):
    evil = '</script><img src="http://x.example/a.png" onerror=alert(1)><!--'
    made_up = [replace(quality(*p, text=evil), model=evil) for p in plans()[:3]]
    made_up.append(replace(made_up[1], method='<a href="http://x.example">x</a>'))
    report.write(made_up, tmp_path / "deep" / "page.html", evil)
    text = (tmp_path / "deep" / "page.html").read_text("utf-8")
    assert not [t for t, a in Tags(text).tags if t == "img" or "src" in a or "onerror" in a]
    assert embedded(text, "data")[0]["model"] == evil
    assert not [t for t in drawn(text) if "<a" in (t.get("name") or "")]


def test_nothing_measured_is_no_report(tmp_path: Path):
    for nothing in ([], [profile()]):
        for refuse in (report.summary, lambda r: report.write(r, tmp_path / "report.html", "Empty")):
            with pytest.raises(AllocMoEError, match="no quality or speed record"):
                refuse(nothing)
    assert not list(tmp_path.iterdir())


def test_only_the_wanted_sections_are_drawn_and_an_unknown_one_is_refused(records: list[Record], tmp_path: Path):
    ids = set(Tags(page.render(records, "Some", ["speed", "spent"])).ids)
    assert ids & {section.key for section in SECTIONS} == {"speed", "spent"}
    with pytest.raises(
        AllocMoEError, match="unknown section 'speeed': expected one of front, plane, paper, verdicts, quality"
    ):
        report.write(records, tmp_path / "page.html", "None", ["speeed"])
    assert not list(tmp_path.iterdir())


def test_other_machines_stand_apart_on_the_page():
    here = [quality(*p) for p in plans("uniform")] + [speed(*p) for p in plans("uniform")]
    cards = [replace(r, environment=ENVIRONMENT | {"gpu": gpu}) for gpu in ("NVIDIA H100", "NVIDIA H200") for r in here]
    text = page.render(cards, "Two cards")
    words = said(text, "measured")
    assert (
        "mini-olmoe · transformers · gpu NVIDIA H100 and mini-olmoe · transformers · gpu NVIDIA H200 are the" in words
    )
    assert "neither merged nor compared: gpu NVIDIA H100 and NVIDIA H200." in words
    assert words.count("cores 8, gpu NVIDIA H200") == 2
    assert "neither merged" not in page.render(here, "One machine")


def test_a_page_says_whose_plans_were_timed(text: str):
    words = said(text, "measured")
    assert "olmoe-wide (random weights) · transformers was timed with the plans of mini-olmoe" in words
    assert "plans of mini-olmoe ( ffffffffffffffff ), transplanted layer by layer" in words


def test_scores_between_right_and_wrong_are_drawn():
    scored = []
    for made in (quality(*p) for p in plans("uniform", "alloc-moe")):
        tasks = dict(made.samples["tasks"])
        known = tasks.pop("mini_why")
        tasks["mini_why"] = {"ids": known["ids"], "score": [0.25 + 0.5 * c for c in known["correct"]]}
        scored.append(replace(made, samples=made.samples | {"tasks": tasks}))
    (mean,) = [t for t in drawn(page.render(scored, "Scores"), "scatter") if t["name"] == "original"][-1:]
    assert mean["y"] == [scored[0].metrics["group/mean"]]
