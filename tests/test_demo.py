"""The demo on the embedded model: interrupted, resumed and repeated in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from allocmoe import demo as module
from allocmoe import records
from allocmoe.demo import Size, demo
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.quality import Measurer
from allocmoe.measure import shapes
from allocmoe.measure.protocol import Protocol
from allocmoe.methods import METHODS, allocate, for_windows
from allocmoe.mini import resolve
from allocmoe.plan import Plan
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.records import Record
from allocmoe.spec import MoESpec
from allocmoe.tune import size, timing

pytestmark = pytest.mark.whole
MODEL = "mini-olmoe"
SHORT = Protocol(batch=2, prompt=8, decode=2, warmups=0, runs=2)
TINY = Size(calibration=1, windows=2, items=6, protocol=SHORT)
SPEC = MoESpec.from_folder(resolve(MODEL))
WANTED = {("original", SPEC.original_budget)}
WANTED |= {(name, budget) for name in for_windows() if name != "original" for budget in SPEC.budgets()}
torch.set_num_threads(1)  # many small products: more threads only wait for each other


def run(out: Path) -> dict[str, Any]:
    """With the model's own wide shape, made thin: same layers, experts and plans, less to multiply."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(shapes.SHAPES, "olmoe-wide", lambda: shapes._olmoe(**shapes._SMALL, intermediate_size=16))
        patch.setattr(timing, "apart", lambda _what, start, *args: start(*args))
        patch.setattr(size, "SIZES", {0: size.Size(1, (8, 8, 8), SHORT, SHORT, rounds=1)})
        patch.setattr(module.tuning, "WINDOW", 16)
        patch.setattr(module, "TRIED", ("alloc-moe", "uniform"))
        return demo(MODEL, out, TINY, progress=False)


def of(found: list[Record], about: str) -> list[tuple[str | None, int | None]]:
    return [(r.method, r.budget) for r in found if r.about == about]


@pytest.fixture(scope="module")
def counted() -> list[Plan]:
    """Plans in the order in which they were measured."""
    return []


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, counted: list[Plan]) -> tuple[Path, list[Record]]:
    """Folder of a demo that Ctrl-C ended in the fourth plan, and the records it had by then."""
    out, join = tmp_path_factory.mktemp("demo"), Measurer.join

    def stopping(measurer: Measurer, plan: Plan, parts: Any) -> Record:
        if len(counted) == 3:
            raise KeyboardInterrupt
        counted.append(plan)
        return join(measurer, plan, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measurer, "join", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(out)
    return out, records.load(out / "records.jsonl")


@pytest.fixture(scope="module")
def resumed(interrupted: tuple[Path, list[Record]], counted: list[Plan]) -> tuple[Path, dict[str, Any]]:
    """The same folder after the same command again, and what that returned."""
    out, join, save = interrupted[0], Measurer.join, Sensitivity.save

    def saving(profile: Sensitivity, path: Path) -> None:
        assert path.parent != out, "the profile was whole"
        save(profile, path)

    def counting(measurer: Measurer, plan: Plan, parts: Any) -> Record:
        if len(measurer.text.ids) == TINY.windows:  # else it is a candidate's for the wish
            counted.append(plan)
        return join(measurer, plan, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measurer, "join", counting)
        patch.setattr(Sensitivity, "save", saving)
        return out, run(out)


def test_an_interrupted_demo_keeps_what_it_measured(interrupted: tuple[Path, list[Record]]) -> None:
    out, found = interrupted
    assert len(of(found, "profile")) == 1
    assert len(of(found, "quality")) == 3
    assert of(found, "speed") == []
    assert not (out / "report.html").exists()
    assert not (out / "profile.json.partial").exists()


def test_the_resumed_demo_measures_what_was_missing(
    interrupted: tuple[Path, list[Record]], resumed: tuple[Path, dict[str, Any]], counted: list[Plan]
) -> None:
    out, _ = resumed
    found = records.load(out / "records.jsonl")
    assert found[: len(interrupted[1])] == interrupted[1]
    assert len(of(found, "quality")) == len(WANTED) == len(counted)
    assert set(of(found, "quality")) == WANTED == {(p.method, p.budget) for p in counted}
    assert len(of(found, "profile")) == 1


def test_there_is_a_plan_of_every_method_at_every_budget(resumed: tuple[Path, dict[str, Any]]) -> None:
    out, _ = resumed
    plans = [Plan.load(path) for path in (out / "plans").iterdir()]
    assert {(p.method, p.budget) for p in plans} == WANTED
    assert len(plans) == len(WANTED)
    measured = {r.plan for r in records.load(out / "records.jsonl") if r.about == "quality"}
    assert {p.digest for p in plans} == measured
    profile = Sensitivity.load(out / "profile.json")
    assert all(p.fingerprint == profile.fingerprint for p in plans)


def test_records_hold_quality_speed_and_what_was_spent(resumed: tuple[Path, dict[str, Any]]) -> None:
    found = records.load(resumed[0] / "records.jsonl")
    for record in found:
        if record.about == "quality":
            assert {"perplexity", "group/nlu", "group/reasoning", "group/math", "group/mean"} <= set(record.metrics)
            assert len(record.samples["nll"]) == TINY.windows
            assert all(len(task["ids"]) == TINY.items for task in record.samples["tasks"].values())
            if METHODS[str(record.method)].token_rule in ("top_k", "alloc_t"):
                # Alloc-L may leave budget unspent where its profile says that more experts do harm
                assert record.spent["per_token"] == pytest.approx(sum(record.details["layers"]))
                assert record.spent["per_token"] <= record.budget + 1e-6
    speed = [r for r in found if r.about == "speed"]
    assert len({r.setup["session"] for r in speed}) == 1
    assert {r.method for r in speed} == set(for_windows())
    assert all(len(r.samples["decode_s"]) == TINY.protocol.runs for r in speed)
    assert {r.model for r in speed} == {"olmoe-wide (random weights)"}
    assert {r.budget for r in speed} == {SPEC.original_budget, SPEC.original_budget // 2}
    for record in speed:  # each speed belongs to the quality of the very same plan
        source = record.details["transplanted"]
        (pair,) = [r for r in found if r.about == "quality" and r.plan == source["plan"]]
        assert (pair.model, pair.fingerprint) == (source["model"], source["fingerprint"])
        assert (pair.method, pair.budget) == (record.method, record.budget)
        assert pair.details["layers"] == record.details["layers"]


def test_without_a_wide_shape_the_model_itself_is_timed() -> None:
    engine = HFEngine.load(resolve(MODEL))
    plans = [allocate("uniform", SPEC, engine.fingerprint, budget) for budget in SPEC.budgets()]
    plans.insert(0, allocate("original", SPEC, engine.fingerprint, SPEC.original_budget))
    timed, chosen = module._timed(engine, plans, None, for_windows(), 0)
    assert timed is engine
    assert [(p.method, p.budget) for p in chosen] == [("original", 128), ("uniform", 64)]


def test_the_page_is_there(resumed: tuple[Path, dict[str, Any]]) -> None:
    out, found = resumed
    assert found["page"] == str(out / "report.html")
    assert found["records"] == str(out / "records.jsonl")
    page = Path(found["page"]).read_text("utf-8")
    assert page.rstrip().endswith("</html>")
    assert MODEL in page


def test_it_ends_with_a_plan_for_a_wish(resumed: tuple[Path, dict[str, Any]]) -> None:
    out, found = resumed
    wish = found["tune"]
    assert wish["asked"] == str(module.WISH)
    assert wish["method"] in ("alloc-moe", "uniform")
    assert Plan.load(out / "tune" / "plan.json").method == wish["method"]
    assert "What the wish costs" in Path(found["page"]).read_text("utf-8")


def test_a_demo_run_again_adds_nothing(resumed: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    out, first = resumed
    before = (out / "records.jsonl").read_bytes()
    monkeypatch.setattr(Measurer, "measure", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(module.speed, "session", lambda *_: pytest.fail("timed again"))
    assert run(out) == first
    assert (out / "records.jsonl").read_bytes() == before


def test_a_folder_of_another_model_is_refused(
    resumed: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "profile.json"
    profile = Sensitivity.load(resumed[0] / "profile.json")
    path.write_text((resumed[0] / "profile.json").read_text().replace(profile.fingerprint, "0" * 16))
    with pytest.raises(AllocMoEError, match="profile of another model: give another folder or file"):
        run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["profile.json"]
