"""--json: one document on one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from calls import FIRST, MODEL, MOST, SECOND, SPEC, TINY, good
from calls import made as made

from allocmoe import records
from allocmoe.methods import METHODS, for_windows, needs
from allocmoe.mini import shipped
from allocmoe.mini.items import TASKS
from allocmoe.plan import Plan

pytestmark = pytest.mark.whole


def document(*args: object) -> dict[str, Any]:
    """The one line of stdout, which is one JSON document; a run for a program has no progress bar."""
    result = good(*args, "--json")
    assert len(result.out.splitlines()) == 1
    assert result.out.endswith("\n")
    assert "|" not in result.err
    found = json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(found, dict)
    return found


def test_json_of_models() -> None:
    found = document("models")
    assert [m["model"] for m in found["models"]] == shipped()
    assert found["methods"] == list(METHODS)
    assert document("models", MODEL)["models"][0]["budgets"] == SPEC.budgets()


def test_json_of_allocate(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    found = document("allocate", MODEL, "--profile", made / "profile.json", "--out", path)
    assert found["path"] == str(path)
    assert found["digest"] == Plan.load(path).digest
    assert found["budget"] == MOST // 2, "the default is half"
    assert document("allocate", MODEL, "--method", "original", "--out", path)["budget"] == MOST


def test_json_of_profile(tmp_path: Path) -> None:
    found = document("profile", MODEL, *TINY, "--out", tmp_path / "p.json")
    assert set(found["quantities"]) == set(needs(for_windows()))
    assert len(found["quantities"]["perplexity"]) == SPEC.layers
    assert found["measured"]["perplexity"] == {"evaluations": SPEC.layers * (SPEC.top_k - 1) + 1}
    assert json.loads((tmp_path / "p.json").read_text()).items() <= found.items()
    again = document(
        "profile", MODEL, *TINY, "--out", tmp_path / "p.json", "--quantity", "decode", "--decode-batch", 1,
    )  # fmt: skip
    assert again["quantities"]["decode"]["batch"] == 1
    assert again["quantities"].keys() == found["quantities"].keys() | {"decode"}


def test_json_of_eval(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    command = ["eval", MODEL, *TINY, "--plan", made / "plan.json", "--records", path]
    found = document(*command, "--items", 3, "--task", FIRST, "--task", SECOND)
    assert [r["method"] for r in found["results"]] == ["original", "uniform"]
    assert {"perplexity", f"acc/{FIRST}", f"acc/{SECOND}", f"group/{TASKS[FIRST].group}", "group/mean", "spent"} <= set(
        found["results"][0]
    )
    assert len(records.load(path)) == 2


def test_json_of_bench(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    short = ["--decode", 2, "--warmups", 0, "--runs", 2, "--batch", 1, "--prompt", 4]
    found = document("bench", "olmoe-small", "--method", "uniform", "--method", "alloc-t", "--records", path, *short)
    assert [r["method"] for r in found["results"]] == ["original", *["uniform", "alloc-t"] * 4]
    assert found["results"][0]["decode_speedup"] == [1.0, 1.0, 1.0]
    assert len(records.load(path)) == 9


def test_json_of_report(made: Path, tmp_path: Path) -> None:
    found = document("report", made / "records.jsonl", "--out", tmp_path / "page.html")
    assert found["page"] == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8").rstrip().endswith("</html>")
