"""Plans for a shape, and a suite that times a wide one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from allocmoe import mini, records
from allocmoe.errors import AllocMoEError
from allocmoe.measure import run as running
from allocmoe.measure import shapes
from allocmoe.measure.planning import plans_for
from allocmoe.measure.protocol import Protocol
from allocmoe.measure.run import run
from allocmoe.measure.starts import timed
from allocmoe.measure.suite import Suite
from allocmoe.methods import allocate
from allocmoe.plan import Plan
from allocmoe.profile.sensitivity import Sensitivity
from allocmoe.records import Record
from allocmoe.spec import MoESpec, fingerprint

pytestmark = pytest.mark.whole

PROFILES = Path(__file__).parents[1] / "goldens/profiles"
SUITE = Suite(
    models=(), timed=(("transformers", "olmoe-wide"),), methods=("uniform",), windows=2, items=0,
    calibration_windows=1, protocol=Protocol(2, 4, 2, 0, 2), starts=1,
)  # fmt: skip
torch.set_num_threads(1)


def engine_of(shape: str) -> Any:
    spec = MoESpec.from_config(shapes.SHAPES[shape]())
    return SimpleNamespace(spec=spec, fingerprint="random-123456789", name=f"{shape} (random weights)")


def test_a_wide_shape_gets_its_embedded_models_plans(tmp_path: Path) -> None:
    given = PROFILES / "mini-qwen.json"
    known = Sensitivity.load(given)
    engine = engine_of("qwen-wide")
    plans = plans_for("qwen-wide", engine, ["uniform", "alloc-moe"], [48], given=given, beside=tmp_path / "r.jsonl")
    mine = [allocate("original", known.spec, known.fingerprint, 96)]
    mine += [allocate(name, known.spec, known.fingerprint, 48, known) for name in ("uniform", "alloc-moe")]
    assert [p.origin["transplanted"]["plan"] for p in plans] == [p.digest for p in mine]
    assert [p.layers for p in plans] == [p.layers for p in mine]
    assert {p.fingerprint for p in plans} == {engine.fingerprint}
    assert list(tmp_path.iterdir()) == [], "nothing was profiled"


def test_another_models_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AllocMoEError, match="another model"):
        plans_for(
            "qwen-wide", engine_of("qwen-wide"), ["alloc-l"], [48],
            given=PROFILES / "mini-olmoe.json", beside=tmp_path / "r.jsonl",
        )  # fmt: skip


def pretended(_engine: str, model: str, *rest: Any) -> list[dict[str, Any]]:
    """What `timed` would return for a wide shape, without its weights. At module level: it runs in a process."""
    assert model == "olmoe-wide"
    plans = rest[3]
    setup = {"batch": 2, "prompt": 4, "decode": 2, "warmups": 0, "runs": 2, "engine": "transformers",
             "dtype": "float32", "seed": 0, "session": "one"}  # fmt: skip
    found = []
    for plan in map(Plan.from_dict, plans):
        source = {"model": "mini-olmoe", "fingerprint": plan.fingerprint, "plan": plan.digest}
        name, details = "olmoe-wide (random weights)", {"transplanted": source}
        found.append(Record("speed", name, "random", plan.method, plan.budget, "other", setup, {}, details=details))
    return [record.to_dict() for record in found]


def test_a_suite_times_a_wide_shape_under_its_embedded_models_plans_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "head.jsonl"
    monkeypatch.setattr(running, "timed", pretended)
    run(SUITE, path, progress=False)
    found = records.load(path)
    home = mini.resolve("mini-olmoe")
    spec, mark = MoESpec.from_folder(home), fingerprint(home)
    mine = [allocate("original", spec, mark, 128).digest, allocate("uniform", spec, mark, 64).digest]
    assert [r.details["transplanted"]["plan"] for r in found] == mine
    run(SUITE, path, progress=False)
    assert records.load(path) == found, "the session is known again by its plans' source"


@pytest.mark.slow
def test_a_wide_session_in_transformers() -> None:
    """The real width: whole records, experts' load as planted, each plan's source named."""
    home = mini.resolve("mini-olmoe")
    spec, mark = MoESpec.from_folder(home), fingerprint(home)
    plans = [allocate("original", spec, mark, 128), allocate("alloc-t", spec, mark, 64)]
    documents = timed(
        "transformers", "olmoe-wide", SUITE.dtype, SUITE.device, SUITE.seed, [p.to_dict() for p in plans],
        Protocol(8, 8, 2, 0, 2), False,
    )  # fmt: skip
    found = [Record.from_dict(document) for document in documents]
    assert [r.details["transplanted"]["plan"] for r in found] == [p.digest for p in plans]
    assert [r.spent["per_token"] for r in found] == [128, 64]
    distinct = found[0].spent["decode"]["distinct_per_layer"]
    assert 38 < sum(distinct) / len(distinct) < 43
