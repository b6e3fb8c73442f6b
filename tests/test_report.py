"""The report, on records made up to look like a sweep of ten methods over four budgets."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from allocmoe import report
from allocmoe.errors import AllocMoEError
from allocmoe.methods import METHODS
from allocmoe.records import Record
from allocmoe.report import figures, page, tables
from allocmoe.stats import Interval

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LAYERS, TOP_K, BUDGETS = 8, 6, (40, 32, 24, 16)
WHOLE = LAYERS * TOP_K
GROUPS = {g: [f"mini_{t}" for t in ts.split()] for g, ts in
          {"nlu": "entail agree cloze", "reasoning": "where why order", "math": "add count max"}.items()}  # fmt: skip
CHANCE = {"mini_entail": 0.5, "mini_agree": 0.5, "mini_max": 0.5}
LOSS = dict(zip(METHODS, (0.0, 1.0, 1.5, 0.9, 0.85, 0.6, 0.8, 0.7, 0.45, 0.3), strict=True))
ENVIRONMENT = {"versions": {"python": "3.11.9", "allocmoe": "0.1.0"}, "system": "Linux x86_64", "cores": 8}


def plans(*among: str) -> list[tuple[str, int]]:
    return [("original", WHOLE)] + [(m, b) for m in among or METHODS if m != "original" for b in BUDGETS]


def made(about: str, method: str | None, budget: int | None, **parts: object) -> Record:
    values = {"model": "mini-olmoe", "fingerprint": "f" * 16, "plan": f"{method}-{budget}", "environment": ENVIRONMENT}
    values |= {"command": f"allocmoe sweep --method {method}", "created": "2025-01-01T00:00:00+00:00", "metrics": {}}
    return Record(about=about, method=method, budget=budget, **(values | parts))


def quality(method: str, budget: int, text: str = "generated stories", windows: int = 32, items: int = 200) -> Record:
    share = budget / WHOLE
    harm = LOSS[method] * (1 / share - 1) ** 1.3 * 0.3
    common, own = np.random.default_rng(0), np.random.default_rng([list(METHODS).index(method), budget])
    nll = 2.2 + common.normal(0, 0.3, windows) + harm + own.normal(0, 0.01, windows)
    tasks, metrics = {}, {"perplexity": math.exp(nll.mean())}
    levels = {task: CHANCE.get(task, 0.25) for names in GROUPS.values() for task in names}
    for group, names in GROUPS.items():
        for number, task in enumerate(names):
            best, hard = 0.95 - 0.1 * number, common.uniform(size=items)
            right = best - (best - levels[task]) * min(1.0, harm + 0.02)
            correct = np.where(own.uniform(size=items) < 0.15, own.uniform(size=items), hard) < right
            tasks[task] = {"ids": [f"{task}/{i}" for i in range(items)], "correct": correct.astype(int).tolist()}
            metrics[f"acc/{task}"] = float(correct.mean())
        metrics[f"group/{group}"] = float(np.mean([metrics[f"acc/{t}"] for t in names]))
    metrics["group/mean"] = float(np.mean([metrics[f"group/{g}"] for g in GROUPS]))
    off = {"naee": 1.06, "dynamic-moe": 0.97}.get(method, 1.0)
    slope = {"ascending": 1.0, "descending": -1.0, "lexi": -0.4, "alloc-l": -0.7, "alloc-moe": -0.7}.get(method, 0.0)
    layers = np.clip(budget / LAYERS + slope * (np.arange(LAYERS) - (LAYERS - 1) / 2), 1, TOP_K).round().tolist()
    return made(
        "quality", method, budget,
        setup={"tasks": dict.fromkeys(levels, items), "task_batch": 64, "text": text, "windows": windows, "seed": 0},
        metrics=metrics, spent={"per_token": budget * off},
        samples={"nll": nll.tolist(), "window_tokens": [255] * windows, "tasks": tasks},
        details={"layers": layers, "groups": GROUPS, "chance": levels, "original_budget": WHOLE, "share": share},
    )  # fmt: skip


def speed(method: str, budget: int, runs: int = 10) -> Record:
    share, rng = budget / WHOLE, np.random.default_rng([7, list(METHODS).index(method), budget])
    rounds = np.random.default_rng(5).normal(0, 0.05, runs)
    token_cost = 0.06 if METHODS[method].token_rule != "top_k" else 0.0
    prefill = 0.05 * (0.9 + 0.1 * share + token_cost) * np.exp(rounds + rng.normal(0, 0.02, runs))
    decode = 1.5 * (0.45 + 0.55 * share + token_cost) * np.exp(rounds + rng.normal(0, 0.01, runs))
    medians = {"prefill_ms": 1e3 * float(np.median(prefill)), "decode_ms": 1e3 * float(np.median(decode))}
    return made(
        "speed", method, budget * 2, model="olmoe-small (random weights)", fingerprint="a" * 16, metrics=medians,
        setup={"engine": "transformers", "batch": 8, "decode": 128, "runs": runs, "session": "one", "seed": 0},
        samples={"prefill_s": prefill.tolist(), "decode_s": decode.tolist()},
        details={"original_budget": 2 * WHOLE, "share": share},
    )  # fmt: skip


def profile() -> Record:
    drop = np.linspace(1.2, 0, TOP_K)[None, :] ** 2 * np.linspace(1, 0.1, LAYERS)[:, None]
    details = {"perplexity": (9 * (1 + drop)).tolist(), "distances": (drop * 5).tolist()}
    return made("profile", None, None, setup={"text": "mini-train"}, metrics={"evaluations": 41}, details=details)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [quality(*p) for p in plans()] + [speed(*p) for p in plans()] + [profile()]


@pytest.fixture(scope="module")
def text(records: list[Record]) -> str:
    return page.render(records, "Alloc-MoE on mini-olmoe")


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.ids = [a["id"] for _, a in self.tags if a.get("id")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def unpacked(text: str, name: str) -> str:
    (found,) = re.findall(rf'<script type="text/plain" id="{name}">(.*?)</script>', text, re.DOTALL)
    return gzip.decompress(base64.b64decode(found, validate=True)).decode()


def embedded(text: str, name: str) -> list[dict]:
    return json.loads(unpacked(text, name))


def one(rows: list, method: str, budget: int):
    return next(r for r in rows if (r.method, r.budget) == (method, budget))


def drawn(text: str, kind: str | None = None) -> list[dict]:
    return [trace for figure in embedded(text, "figures") for trace in figure["data"] if kind in (None, trace["type"])]


def test_the_page_is_one_file_that_loads_nothing(text: str):
    tags = Tags(text)
    assert not [t for t, a in tags.tags if "src" in a or t in ("link", "iframe", "object", "embed", "base")]
    assert all((a["href"] or "").startswith("#") for _, a in tags.tags if "href" in a)
    assert "@import" not in text.split("</style>")[0]
    assert len(tags.ids) == len(set(tags.ids))
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text.split("<body>")[0] + text.split("<script>")[1])


def test_plotly_is_packed_whole_and_small(text: str):
    code = unpacked(text, "plotly")
    assert code == get_plotlyjs()
    assert f"plotly.js v{get_plotlyjs_version()}" in code
    assert len(text) < len(code) / 2


def test_the_same_records_make_the_same_page(text: str, records: list[Record]):
    assert page.render(records, "Alloc-MoE on mini-olmoe") == text


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
@pytest.mark.parametrize("able", [True, False])
def test_a_browser_draws_every_figure_or_says_why_not(text: str, able: bool, tmp_path: Path):
    path = tmp_path / "page.html"
    lacking = "<script>delete window.DecompressionStream;</script></head>"
    path.write_text(text if able else text.replace("</head>", lacking, 1), "utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={tmp_path}/user",
    ]
    command += ["--virtual-time-budget=20000", "--dump-dom", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    figures_drawn = re.findall(r'<div class="plot js-plotly-plot"', shown)
    assert len(figures_drawn) == (len(embedded(text, "figures")) if able else 0)
    (hidden,) = [a for t, a in Tags(shown).tags if a.get("id") == "old"]
    assert ("hidden" in hidden) == able


def test_sections_stand_in_order_and_records_are_embedded(text: str, records: list[Record]):
    wanted = ["quality", "speed", "plane", "layers", "sensitivity", "spent", "verdicts", "records", "measured"]
    assert [i for i in Tags(text).ids if i in wanted] == wanted
    places = [a for _, a in Tags(text).tags if "data-figure" in a]
    assert [int(a["data-figure"] or -1) for a in places] == list(range(len(embedded(text, "figures"))))
    assert embedded(text, "data") == [json.loads(json.dumps(r.to_dict())) for r in records]


def test_perplexities_and_their_bars_are_those_of_the_records(records: list[Record]):
    (group,) = tables.groups(records, "quality")
    fig = figures.perplexity(tables.quality_rows(group))
    by_name, original = {trace.name: trace for trace in fig.data}, group.originals[""]
    assert set(by_name) == {figures.name(m) for m in METHODS}
    for method in ("uniform", "alloc-moe"):
        mine = [r for r in group.records if r.method == method]
        assert list(by_name[figures.name(method)].y) == [r.metrics["perplexity"] for r in mine]
        last = mine[-1]
        nll = [r.samples["nll"] for r in (last, original)]
        known = tables.stats.perplexity_ratio(*nll, last.samples["window_tokens"])
        bar = by_name[figures.name(method)].error_y.array[-1]
        assert bar == pytest.approx(original.metrics["perplexity"] * (known.high - known.estimate))
    assert fig.layout.shapes[0].y0 == original.metrics["perplexity"]


def test_accuracies_come_with_chance(records: list[Record]):
    (group,) = tables.groups(records, "quality")
    fig = figures.accuracies(tables.quality_rows(group), tables.chance(group))
    assert [shape.y0 for shape in fig.layout.shapes] == pytest.approx([5 / 12, 1 / 4, 1 / 3, 1 / 3])
    assert [a.text for a in fig.layout.annotations] == ["NLU", "Reasoning", "Math", "Mean of the groups"]
    star = [trace for trace in fig.data if trace.name == "original"]
    assert [trace.y[0] for trace in star] == [group.originals[""].metrics[f"group/{g}"] for g in (*GROUPS, "mean")]


def test_a_method_has_one_colour_throughout(text: str):
    colours: dict[str, set[str]] = {}
    for trace in drawn(text):
        if trace["type"] in ("scatter", "bar") and trace["name"] != "Pareto front":
            colours.setdefault(trace["name"], set()).add(trace["marker"]["color"])
    assert set(colours) == {figures.name(m) for m in METHODS}
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == len(METHODS)


def test_speedups_are_paired_within_their_session(records: list[Record]):
    timed = [r for r in records if r.about == "speed"]
    slow = [replace(r, setup=r.setup | {"session": "two"}) for r in timed if r.method == "naee"]
    other = replace(timed[0], setup=slow[0].setup, samples={"prefill_s": [1.0] * 10, "decode_s": [30.0] * 10})
    rows = tables.speed_rows(tables.groups([*timed, *slow, other], "speed")[0])
    known = tables.stats.log_ratio([30.0] * 10, one(slow, "naee", 64).samples["decode_s"])
    assert one(rows, "naee", 64).decode == known
    assert 1 < one(rows, "uniform", 64).decode.low < one(rows, "uniform", 64).decode.high < 2
    assert all(math.isnan(r.decode.estimate) for r in tables.speed_rows(tables.groups(slow, "speed")[0]))


def test_the_front_holds_exactly_the_points_that_nothing_beats():
    rng = np.random.default_rng(0)
    points = [tuple(map(float, p)) for p in rng.integers(0, 8, (40, 2))]
    found = {points[i] for i in tables.front(points)}
    beaten = {p for p in points if any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in points)}
    assert found == set(points) - beaten


def test_the_plane_joins_by_share_of_the_original(records: list[Record]):
    (q,), (s,) = (tables.groups(records, about) for about in ("quality", "speed"))
    pairs = tables.join(tables.quality_rows(q), tables.speed_rows(s))
    assert len(pairs) == len(plans())
    assert all(a.method == b.method and b.budget == 2 * a.budget for a, b in pairs)


def test_plans_profile_and_spending_are_those_of_the_records(text: str, records: list[Record]):
    maps = drawn(text, "heatmap")
    assert len(maps) == len(BUDGETS) + 2
    assert maps[0]["y"][0] == "Alloc-MoE"
    assert maps[0]["z"][0] == one(records, "alloc-moe", 40).details["layers"]
    table = np.array(records[-1].details["perplexity"])
    assert np.array(maps[-2]["z"]) == pytest.approx(table / table[:, -1:] - 1)
    assert maps[-1]["z"] == records[-1].details["distances"]
    bars = {trace["name"]: trace for trace in drawn(text, "bar")}
    assert bars["NAEE"]["y"] == pytest.approx([0.06] * 4)
    assert bars["uniform"]["y"] == [0] * 4


def test_verdicts_state_a_difference_only_beyond_noise(records: list[Record]):
    (group,) = tables.groups(records, "quality")
    verdicts = tables.comparisons(group, "alloc-moe")
    assert len(verdicts) == len(BUDGETS) * (len(METHODS) - 1)
    worst = [c for c in verdicts if c.other == "uniform"][-1]
    assert (worst.perplexity, worst.accuracy) == ("better", "better")
    assert all(c.p_holm >= c.p for c in verdicts)
    assert tables.groups([*records, records[0]], "quality")[0].repeats == 1
    twin = [replace(group.find("alloc-moe", b), method="naee") for b in BUDGETS]
    (same,) = tables.groups([*twin, *(r for r in records if r.method == "alloc-moe")], "quality")
    even = [c for c in tables.comparisons(same, "alloc-moe") if c.other == "naee"]
    assert [(c.perplexity, c.accuracy) for c in even] == [("~", "~")] * len(BUDGETS)


def test_different_items_are_not_compared():
    changed = [quality(*p, items=150 if p[0] == "uniform" else 200) for p in plans("uniform", "lexi", "alloc-moe")]
    changed = [replace(r, setup=changed[0].setup) for r in changed]
    verdicts = tables.comparisons(tables.groups(changed, "quality")[0], "alloc-moe")
    assert all(c.accuracy == "" and "different items" in c.notes[0] for c in verdicts if c.other == "uniform")


def test_the_reading_is_computed_from_the_records(text: str, records: list[Record]):
    (group,) = tables.groups(records, "quality")
    row = one(tables.quality_rows(group), "alloc-moe", 24)
    said = text.split('aria-label="Reading"')[1].split("</section>")[0]
    assert "at 50% of the original&#39;s activations (24 per token)" in said
    assert page.times(row.ratio) in said
    assert "no difference shown" in said


def test_the_summary_can_be_written_as_json():
    few = plans("uniform", "alloc-moe")
    found = report.summary([quality(*p) for p in few] + [speed(*p) for p in few])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    (entry,) = found["quality"]
    row = next(r for r in entry["results"] if (r["method"], r["budget"]) == ("alloc-moe", 16))
    assert row["accuracy"]["mean"]["low"] < row["accuracy"]["mean"]["estimate"] < row["accuracy"]["mean"]["high"]
    assert {v["verdict"]["perplexity"] for v in entry["verdicts"]} <= {"better", "worse", "~"}
    assert found["speed"][0]["results"][0]["decode"] == {"estimate": 1, "low": 1, "high": 1}


def test_two_texts_are_two_series(records: list[Record]):
    both = [*records, *(quality(*p, text="Alice") for p in plans("uniform"))]
    assert [g.label for g in tables.groups(both, "quality")] == ["mini-olmoe · generated stories", "mini-olmoe · Alice"]
    other = [replace(r, setup=r.setup | {"task_batch": 1}) for r in records if r.about == "quality"]
    labels = [g.label for g in tables.groups([*records, *other], "quality")]
    assert [label.split(" · ")[-1] for label in labels] == ["task_batch 64", "task_batch 1"]


@pytest.mark.parametrize(("make", "shown"), [(quality, "quality layers spent verdicts"), (speed, "speed")])
def test_a_page_of_one_kind_leaves_the_other_sections_out(make, shown: str):
    ids = Tags(page.render([make(*p) for p in plans("uniform", "alloc-moe")], "One kind")).ids
    assert set(ids) & {"quality", "speed", "plane", "layers", "sensitivity", "spent", "verdicts"} == set(shown.split())


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


def test_numbers_are_worded_for_people():
    assert page.times(Interval(1.5, 1.4, 1.6)) == "1.50\u00d7 (1.40\u20131.60)"
    assert page.times(Interval(1.01, 0.99, 1.03)) == "1.010\u00d7 (0.990\u20131.030)"
    assert page.points(Interval(-0.0001, -0.01, 0.01)) == "+0.0 (-1.0 to +1.0)"
