"""The verbs of local data, as a person types them on a machine without a network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from calls import assert_refused, call, good

pytestmark = pytest.mark.whole


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)


def put(folder: Path, **splits: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_a_root_is_listed_and_measured_without_a_network(tmp_path: Path) -> None:
    rows = [{"question": f"is {n} even", "passage": f"{n} is a number.", "label": n % 2} for n in range(6)]
    put(tmp_path / "data" / "boolq", validation=rows, train=rows)
    listed = json.loads(good("data", "list", "data", "--task", "nlu", "--json").out.splitlines()[-1])
    found = {one["name"]: one for one in listed["sets"]}
    assert found["boolq"] == {"name": "boolq", "tasks": 1, "here": 1, "rows": 6, "missing": ""}
    assert found["race"]["missing"] == "race: no folder race or race/high in data"
    assert "1 of 7 data sets can be measured" in " ".join(good("data", "list", "data", "--task", "nlu").out.split())

    fetched = call("data", "fetch", "data", "--task", "rte")
    assert fetched.code == 1
    assert "not fetched: rte: the hub cannot be reached" in fetched.err

    measuring = ["eval", "mini-olmoe", "--windows", "2", "--window", "32", "--items", "3", "--data-root", "data"]
    measured = good(*measuring, "--suite", "nlu", "--json")
    document = json.loads(measured.out.splitlines()[-1])
    assert "acc/boolq" in document["results"][0]
    assert set(document["missing"]) == {"lambada_openai", "race", "sciq", "mnli", "qnli", "rte"}
    assert "left out: race: no folder race" in measured.err
    assert_refused(call(*measuring, "--task", "boolq", "--task", "rte"), "lacks rte")
    assert_refused(call(*measuring, "--suite", "everything"), "unknown suite 'everything'")
    assert_refused(call("data", "list", "nowhere"), "no data root nowhere")
