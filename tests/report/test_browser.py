"""The page in a browser: what a reader presses, slides, filters, downloads and sees."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from allocmoe.plan import Plan
from allocmoe.records import Record
from allocmoe.report import page
from allocmoe.report.compare import front
from allocmoe.report.results import results
from tests.report.browser import Browser
from tests.report.made import LAYERS, TOP_K, Tags, drawn, embedded, onto, plans, profile, quality, speed

pytestmark = [pytest.mark.whole, pytest.mark.chromium]

NAMES = ("uniform", "alloc-t", "alloc-moe", "seer")
WEIGHTS = {"mini-olmoe": "f" * 16, "mini-qwen": "9" * 16}
PHONE = (390, 844)
DESK = (1366, 768)


def planned(record: Record, model: str) -> Record:
    """Under the name of a model, with a plan that can be told from the record: the same k in every layer."""
    k, weights = (record.budget or 0) / LAYERS, WEIGHTS[model]
    made = Plan(record.method or "", record.budget or 0, (k,) * LAYERS, TOP_K, "top_k", weights, "olmoe", 64)
    details = {**record.details, **made.described()}
    return replace(record, model=model, fingerprint=weights, plan=made.digest, details=details)


def made() -> list[Record]:
    """Two models; the speed of the first one's plans, on its wide shape."""
    found = [planned(quality(*p), "mini-olmoe") for p in plans(*NAMES)]
    found += [planned(quality(*p), "mini-qwen") for p in plans("uniform", "alloc-moe")]
    return [*found, *(onto(planned(speed(*p), "mini-olmoe")) for p in plans(*NAMES[:3])), profile()]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return made()


@pytest.fixture(scope="module")
def path(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(page.render(records, "Alloc-MoE on two models"), "utf-8")
    return file


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser, path: Path) -> Iterator[Browser]:
    """At the page, which asks for nothing but itself and says nothing wrong."""
    chromium.errors.clear()
    chromium.requests.clear()
    chromium.open(path, *DESK)
    yield chromium
    assert chromium.errors == []
    assert {r for r in chromium.requests if not r.startswith(("data:", "blob:", "about:"))} == {path.as_uri()}


def state(browser: Browser) -> dict[str, str]:
    text = browser.js("location.hash.slice(1)")
    return dict(browser.js(f"[...new URLSearchParams({json.dumps(text)})]"))


def text(browser: Browser, part: str) -> str:
    """The words of a part of the answer in sight."""
    return browser.js(f"""[...document.querySelectorAll('.answer:not([hidden]) [data-part={part}]')]
        .map(e => e.innerText).join(" ")""")


def points(browser: Browser, place: str = "[data-plane]") -> list[str]:
    """Names of the traces that a figure in sight draws."""
    return browser.js(f"""(() => {{ const p = [...document.querySelectorAll('.plot{place}')].find(e => e.offsetParent);
        return p.data.filter(t => t.x && t.x.length).map(t => t.name); }})()""")


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_the_first_screen_answers_without_scrolling(browser: Browser, path: Path, size: tuple[int, int]):
    browser.open(path, *size)
    bottom = browser.js("document.querySelector('.answer:not([hidden])').getBoundingClientRect().bottom")
    assert bottom <= size[1]
    words = browser.js("document.querySelector('.answer:not([hidden])').innerText")
    assert "Alloc-MoE" in text(browser, "name")
    assert "budget 24 of 48 activations per token" in text(browser, "budget")
    for what in ("perplexity", "mean accuracy", "decode on olmoe-wide", "vllm serve", "Download this plan"):
        assert what in words
    assert words.index("does not win everywhere") < words.index("perplexity\n")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1366])
def test_nothing_is_wider_than_the_screen(browser: Browser, path: Path, width: int, theme: str):
    browser.theme(theme)
    browser.open(path, width, 800)
    browser.js("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.settled()
    assert browser.js("document.documentElement.scrollWidth") == width
    for tab in browser.js("[...document.querySelectorAll('[data-tab]')].map(t => t.dataset.tab)"):
        browser.click(f'[data-tab="{tab}"]')
        assert browser.js("document.documentElement.scrollWidth") == width
    browser.theme("light")


def test_every_figure_is_drawn_once_its_section_is_opened(browser: Browser, path: Path):
    for tab in ("mini-olmoe", "mini-qwen"):
        browser.click(f'[data-tab="{tab}"]')
        browser.js("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        browser.settled()
    # the wide shape stands on mini-olmoe's tab, the history of one commit nowhere
    undrawn = browser.js("[...document.querySelectorAll('.plot')].filter(p => !p.querySelector('.main-svg')).length")
    assert undrawn == 0
    figures = embedded(path.read_text("utf-8"), "figures")
    assert browser.js("document.querySelectorAll('.plot[data-figure]').length") == len(figures)
    assert drawn(path.read_text("utf-8"))


def test_a_tab_shows_one_model_and_the_back_button_returns(browser: Browser):
    assert browser.js("document.querySelectorAll('.answer:not([hidden])').length") == 1
    browser.click('[data-tab="mini-qwen"]')
    assert state(browser) == {"model": "mini-qwen"}
    shown = browser.js(
        "[...document.querySelectorAll('[data-model]')].filter(e => !e.hidden).map(e => e.dataset.model)"
    )
    assert set(shown) == {"mini-qwen"}
    assert browser.js("document.getElementById('speed').hidden"), "nothing of mini-qwen was timed"
    browser.js("history.back()")
    browser.until("document.querySelector('.answer:not([hidden])').dataset.model === 'mini-olmoe'")
    assert not browser.js("document.getElementById('speed').hidden")


def test_tabs_work_with_the_keyboard(browser: Browser):
    browser.js("document.querySelector('[data-tab]').focus()")
    browser.key("ArrowRight")
    assert state(browser)["model"] == "mini-qwen"
    assert browser.js("document.activeElement.dataset.tab") == "mini-qwen"
    browser.key("ArrowRight")
    assert state(browser)["model"] == "mini-olmoe"


def test_filters_stand_in_the_address_and_leave_the_original(browser: Browser, path: Path):
    assert "Alloc-T" in points(browser)
    for method in ("uniform", "alloc-moe"):
        browser.click(f'[data-choose=method][data-value="{method}"]')
    browser.click('[data-choose=budget][data-value="32"]')
    assert state(browser) == {"method": "uniform,alloc-moe", "budget": "32"}
    assert set(points(browser)) <= {"original", "uniform", "Alloc-MoE", "front", "chosen"}
    rows = "[...document.querySelectorAll('#paper figure:not([hidden]) tbody tr')].filter(r => !r.hidden)"
    assert set(browser.js(f"{rows}.map(r => r.dataset.method + r.dataset.budget)")) == {
        "original48", "uniform32", "alloc-moe32",
    }  # fmt: skip
    # the address alone brings it back
    address = browser.js("location.hash")
    browser.open(path, *DESK, fragment=address)
    assert set(points(browser)) <= {"original", "uniform", "Alloc-MoE", "front", "chosen"}
    assert browser.js("[...document.querySelectorAll('[aria-pressed=true]')].filter(e => e.offsetParent).length") == 3
    browser.click("#all")
    assert state(browser) == {}
    assert "Alloc-T" in points(browser)


def test_quality_and_cost_can_be_chosen(browser: Browser):
    browser.js("""(() => { const s = [...document.querySelectorAll('[data-pick=group]')].find(e => e.offsetParent);
        s.value = 'math'; s.dispatchEvent(new Event('change')); })()""")
    browser.settled()
    assert state(browser) == {"group": "math"}
    plot = "[...document.querySelectorAll('[data-plane]')].find(e => e.offsetParent)"
    assert browser.js(f"{plot}.layout.yaxis.title.text") == "accuracy, Math, %"
    browser.js("""(() => { const s = [...document.querySelectorAll('[data-pick=cost]')].find(e => e.offsetParent);
        s.value = 'activations'; s.dispatchEvent(new Event('change')); })()""")
    browser.settled()
    assert "activations per token" in browser.js(f"{plot}.layout.xaxis.title.text")


def test_the_slider_walks_along_the_front_and_names_the_plan(browser: Browser, records: list[Record]):
    found = results(records)
    (choice,) = [c for c in found.choices if c.q.group.model == "mini-olmoe"]
    timed = [p for p in choice.about["points"] if "decode:0" in p["costs"]]
    costs = [(p["costs"]["decode:0"]["estimate"], p["losses"]["perplexity"]["estimate"]) for p in timed]
    wanted = [timed[i] for i in front(costs)][::-1]
    slider = "document.querySelector('.answer:not([hidden]) [data-part=slider]')"
    assert browser.js(f"Number({slider}.max) + 1") == len(wanted) > 3
    browser.js(f"{slider}.focus()")
    browser.key("Home")
    seen = []
    for p in wanted:
        assert state(browser)["at"] == p["key"]
        assert text(browser, "name") == p["name"]
        assert p["tiles"]["perplexity"][0] in text(browser, "tiles")
        assert p["tiles"]["decode:0"][0] in text(browser, "tiles")
        assert p["file"] in text(browser, "serve")
        ringed = browser.js("[...document.querySelectorAll('[data-plane]')].find(e => e.offsetParent).data.at(-1).x")
        assert ringed == [p["costs"]["decode:0"]["estimate"]]
        seen.append(p["key"])
        browser.key("ArrowRight")
    assert len(set(seen)) == len(wanted)
    browser.js("history.back()")
    browser.until(f"location.hash.includes({json.dumps(wanted[-2]['key'].replace('@', '%40'))})")
    browser.click(".answer:not([hidden]) [data-part=back]")
    assert "at" not in state(browser)
    assert text(browser, "name") == "Alloc-MoE"


def test_the_plan_downloads_as_a_file_that_loads(browser: Browser, records: list[Record], tmp_path: Path):
    (record,) = [
        r for r in records if (r.about, r.model, r.method, r.budget) == ("quality", "mini-olmoe", "alloc-moe", 24)
    ]
    browser.click(".answer:not([hidden]) [data-part=download]")
    file = tmp_path / "plan.json"
    file.write_text(browser.downloaded("mini-olmoe-alloc-moe-24.json"))
    assert Plan.load(file).digest == record.plan == text(browser, "plan")


def test_tables_download_as_they_are_filtered(browser: Browser):
    browser.click('[data-choose=method][data-value="uniform"]')
    figure = "#paper figure:not([hidden])"
    browser.click(f"{figure} [data-save=csv]")
    rows = list(csv.reader(io.StringIO(browser.downloaded("mini-olmoe-paper.csv"))))
    assert rows[0][:2] == ["budget", "method"]
    assert {row[1] for row in rows[1:]} == {"original", "uniform"}
    browser.click(f"{figure} [data-save=json]")
    found = json.loads(browser.downloaded("mini-olmoe-paper.json"))
    assert [str(r["budget"]) for r in found] == [row[0] for row in rows[1:]]
    assert isinstance(found[0]["perplexity"], float)


def test_light_and_dark_follow_the_system_until_a_reader_says(browser: Browser, path: Path):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = browser.js(ground)
    browser.theme("dark")
    assert (dark := browser.js(ground)) != light
    browser.click("#theme")
    assert browser.js(ground) == light
    browser.theme("light")
    browser.click("#theme")
    assert browser.js(ground) == dark
    browser.js("localStorage.clear()")
    browser.open(path, *DESK)
    assert browser.js(ground) == light


def test_without_a_way_to_unpack_the_words_and_tables_stay(chromium: Browser, path: Path, tmp_path: Path):
    lacking = tmp_path / "old.html"
    old = path.read_text("utf-8").replace("</head>", "<script>delete window.DecompressionStream;</script></head>", 1)
    lacking.write_text(old, "utf-8")
    chromium("Page.navigate", url=lacking.as_uri())
    chromium.until("document.readyState === 'complete' && !document.getElementById('old').hidden")
    assert chromium.js("document.querySelectorAll('.main-svg').length") == 0
    chromium.js("location.hash = 'model=mini-qwen'")
    chromium.settled()
    assert chromium.js(
        "[...document.querySelectorAll('.answer')].filter(e => !e.hidden).map(e => e.dataset.model)"
    ) == ["mini-qwen"]
    assert chromium.js("document.querySelector('#paper figure:not([hidden]) tbody tr').innerText.length") > 10


def test_every_control_has_a_name(path: Path):
    """For those who hear the page: buttons have words or a label, inputs a label."""
    text = path.read_text("utf-8")
    tags = Tags(text)
    labelled = {a.get("for") for tag, a in tags.tags if tag == "label"}
    for tag, attributes in tags.tags:
        if tag == "input":
            assert attributes.get("aria-label") or attributes.get("id") in labelled
    assert not re.findall(r"<button[^>]*>\s*</button>", text)
