"""lm-eval's own tasks on local files: the stock definitions, rows of our own, and no network at all."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from local_tasks import STOCK

from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.tasks import fetching, roots
from allocmoe.evaluate.tasks.roots import Root
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.mini import resolve

pytestmark = pytest.mark.whole
torch.set_num_threads(1)
BOOLQ = [{"question": f"is {n} even", "passage": f"{n} is a number.", "label": (n + 1) % 2} for n in range(9)]
RTE = [{"sentence1": f"{n} is seven.", "sentence2": "It is seven.", "label": int(n != 7)} for n in range(6)]
MC2 = [
    {"question": f"What is {n} + 1?", "mc1_targets": {"choices": [" 1"], "labels": [1]},
     "mc2_targets": {"choices": [str(n + 1), "four"], "labels": [1, 0]}}
    for n in range(3, 8)
]  # fmt: skip
SUMS = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(1, 9)]
FOLDERS = ["super_glue/boolq", "glue/rte", "truthfulqa", "gsm8k", "sciq"]
ALL = ["boolq", "rte", "truthfulqa_mc2", "gsm8k"]


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return HFEngine.load(resolve("mini-olmoe"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Every way in which a task's folder may be named."""
    put(tmp_path / "root" / "boolq", validation=BOOLQ, train=BOOLQ[:2])
    put(tmp_path / "root" / "GLUE" / "rte", validation=RTE)
    put(tmp_path / "root" / "truthfulqa", validation=MC2)
    put(tmp_path / "root" / "gsm8k" / "main", test=SUMS, train=SUMS[3:])
    return tmp_path / "root"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("somebody asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def put(folder: Path, **splits: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def suite(engine: HFEngine, root: Path | None, *names: str, **options: Any) -> TaskSuite:
    include = [STOCK / folder for folder in FOLDERS]
    return TaskSuite(engine, names, 8, include=include, stock=False, data_root=root, **options)


def test_tasks_keep_their_definition_and_read_the_local_rows(engine: HFEngine, root: Path, offline: None) -> None:
    asked = suite(engine, root, *ALL, cap=6)
    assert not asked.missing
    assert asked.units == [[name] for name in ALL]
    texts = {n: [t.doc_to_text(d) for d in t.eval_docs] for n in ALL for t in [asked._members(n)[0].task]}
    assert texts["boolq"][4] == "4 is a number.\nQuestion: is 4 even?\nAnswer:"
    assert texts["rte"][0] == "0 is seven.\nQuestion: It is seven. True or False?\nAnswer:"
    assert len(texts["truthfulqa_mc2"]) == 5
    assert "Q: What is 3 + 1?\nA:" in texts["truthfulqa_mc2"][0]
    found = asked.run(99)
    assert {name: len(one["ids"]) for name, one in found.items()} == dict(zip(ALL, (9, 6, 5, 8), strict=True))
    boolq = [
        likelier(engine, text, [" no", " yes"]) == row["label"] for text, row in zip(texts["boolq"], BOOLQ, strict=True)
    ]
    assert found["boolq"]["correct"] == [int(right) for right in boolq]
    (requested,) = {r.args[0].count("Question:") for r in asked._members("gsm8k")[0].task.instances}
    assert requested == 6, "five examples, from the local training split"


def test_a_root_of_any_name(engine: HFEngine, tmp_path: Path, offline: None) -> None:
    put(tmp_path / "a: b #c \U0001f600" / "boolq", validation=BOOLQ, train=BOOLQ[:2])
    assert len(suite(engine, tmp_path / "a: b #c \U0001f600", "boolq").run(99)["boolq"]["ids"]) == len(BOOLQ)


def likelier(engine: HFEngine, text: str, choices: list[str]) -> int:
    """Which choice the model finds likelier, each alone in its batch."""
    found = []
    for choice in choices:
        context, whole = engine.tokenizer(text)["input_ids"], engine.tokenizer(text + choice)["input_ids"]
        with torch.no_grad():
            logits = engine.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        found.append(sum(float(logits[p - 1, whole[p]]) for p in range(len(context), len(whole))))
    return found.index(max(found))


def test_what_is_missing_is_listed_and_left_out(engine: HFEngine, root: Path, offline: None) -> None:
    (root / "gsm8k" / "main" / "train.jsonl").unlink()  # five examples come from it
    (root / "GLUE" / "rte" / "validation.jsonl").rename(root / "GLUE" / "rte" / "dev.jsonl")
    asked = suite(engine, root, "sciq", *ALL, partial=True)
    assert list(asked.specs) == ["boolq", "truthfulqa_mc2"]
    assert asked.groups == {"nlu": ["boolq"], "reasoning": ["truthfulqa_mc2"]}
    assert asked.missing == {
        "sciq": "no folder sciq in root",
        "rte": "no file validation.jsonl in GLUE/rte, which has dev",
        "gsm8k": "no file train.jsonl in gsm8k/main, which has test",
    }
    assert list(asked.run(2)) == ["boolq", "truthfulqa_mc2"]
    with pytest.raises(AllocMoEError, match=r"^the data root lacks sciq \(no folder sciq in root\); rte \("):
        suite(engine, root, "sciq", *ALL)
    with pytest.raises(AllocMoEError, match="none of the data sets can be had here: sciq"):
        suite(engine, root, "sciq", partial=True)
    with pytest.raises(AllocMoEError, match=r"no data root .*nowhere: expected a folder"):
        suite(engine, root / "nowhere", "boolq")


def test_examples_are_asked_only_of_who_has_shots(engine: HFEngine, root: Path, offline: None) -> None:
    (root / "boolq" / "train.jsonl").unlink()
    before = suite(engine, root, "boolq").run(9)
    put(root / "boolq", train=BOOLQ[:2])
    assert suite(engine, root, "boolq").run(9) == before


def test_a_changed_field_is_one_line(engine: HFEngine, root: Path, offline: None) -> None:
    renamed = [{"text": row["passage"], "question": row["question"], "label": row["label"]} for row in BOOLQ]
    put(root / "boolq", validation=renamed, train=renamed)
    said = r"rows are not as its definition expects \('passage' is undefined\)"
    with pytest.raises(AllocMoEError, match=f"cannot load boolq: its {said}"):
        suite(engine, root, "boolq").describe(3)
    assert re.search(said, suite(engine, root, "boolq", "rte", partial=True).missing["boolq"])
    (root / "GLUE" / "rte" / "validation.jsonl").write_text("not JSON\n")
    with pytest.raises(AllocMoEError, match="cannot load rte: ") as refused:
        suite(engine, root, "rte").describe(3)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("names", [["boolq"], ["rte"]])
def test_without_a_root_or_network_a_data_set_is_left_out(
    engine: HFEngine, names: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: None
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(AllocMoEError, match=f"none of the data sets can be had here: {names[0]} .*cannot load"):
        suite(engine, None, *names, partial=True)


def test_a_gated_data_set_says_what_to_do() -> None:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError

    from allocmoe.evaluate.tasks.loading import reason

    gated = DatasetNotFoundError(
        "Dataset 'a/b' is a gated dataset on the Hub. Visit the dataset page to ask for access."
    )
    assert "hf auth login" in reason(gated)
    assert "data root" in reason(ConnectionError("Couldn't reach 'a/b' on the Hub"))
    assert issubclass(GatedRepoError, Exception)


def test_names_of_folders() -> None:
    places = roots.places
    assert places("boolq", {"dataset_path": "aps/super_glue", "dataset_name": "boolq"}) == [
        "boolq", "super_glue/boolq", "super_glue",
    ]  # fmt: skip
    assert places("sciq", {"dataset_path": "allenai/sciq"}) == ["sciq"]
    assert places("mine", {"dataset_path": "json"}) == ["mine"]


def test_a_fetched_root_gives_what_the_hub_would(engine: HFEngine, root: Path, tmp_path: Path) -> None:
    """The hub is played by lm-eval tasks on files elsewhere."""
    stock = tmp_path / "stock"
    stock.mkdir()
    for task, folder, yaml in (
        ("boolq", "boolq", "super_glue/boolq/default.yaml"), ("gsm8k", "gsm8k/main", "gsm8k/gsm8k.yaml"),
    ):  # fmt: skip
        files = {file.stem: str(file) for file in (root / folder).glob("*.jsonl")}
        changed = {"include": str(STOCK / yaml), "dataset_path": "json", "dataset_name": None}
        kwargs = {"dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path / "cache")}}
        (stock / f"{task}.yaml").write_text(json.dumps({**changed, **kwargs, "task": task}), "utf-8")
    online = TaskSuite(engine, ["boolq", "gsm8k"], 8, include=[stock], stock=False, cap=5)
    to = tmp_path / "fetched"
    assert fetching.fetch(to, ["boolq", "gsm8k"], [stock], stock=False, progress=False) == {}
    written = {file: file.stat().st_mtime_ns for file in to.rglob("*.jsonl")}
    assert len(written) == 4
    local = TaskSuite(engine, ["boolq", "gsm8k"], 8, include=[stock], stock=False, data_root=to, cap=5)
    assert local.run(5) == online.run(5)
    assert local.digest(5) == online.digest(5), "the same items, put in the same way, wherever they came from"
    (to / "boolq" / "validation.jsonl").unlink()
    assert fetching.fetch(to, ["boolq", "gsm8k"], [stock], stock=False, progress=False) == {}
    again = {file: file.stat().st_mtime_ns for file in to.rglob("*.jsonl")}
    assert set(again) == set(written)
    assert {f for f in again if again[f] != written[f]} <= set((to / "boolq").iterdir()), "what was there stays"
    looked = {one.name: one for one in fetching.look(to, ["boolq", "gsm8k"], [stock], stock=False)}
    assert {n: (one.tasks, one.here, one.rows, one.missing) for n, one in looked.items()} == {
        "boolq": (1, 1, 9, ""), "gsm8k": (1, 1, 8, ""),
    }  # fmt: skip


def test_fetching_says_what_it_could_not_have(tmp_path: Path) -> None:
    gone = {"task": "gone", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "no")}}}
    stock = tmp_path / "stock"
    stock.mkdir()
    (stock / "gone.yaml").write_text(json.dumps({**gone, "test_split": "test", "doc_to_text": "x"}), "utf-8")
    failed = fetching.fetch(tmp_path / "root", ["gone"], [stock], stock=False, progress=False)
    assert list(failed) == ["gone"]
    assert "\n" not in failed["gone"]
    (found,) = fetching.look(tmp_path / "root", ["gone"], [stock], stock=False)
    assert (found.here, found.missing) == (0, "gone: no folder gone in root")


def test_a_task_in_python_is_missing_whatever_the_root_holds(tmp_path: Path) -> None:
    put(tmp_path / "squadv2", validation=BOOLQ)
    (found,) = fetching.look(tmp_path, ["squadv2"], [STOCK / "squadv2"], stock=False)
    assert (found.tasks, found.here, found.missing) == (1, 0, f"squadv2: {roots.IN_PYTHON}")
    failed = fetching.fetch(tmp_path / "new", ["squadv2"], [STOCK / "squadv2"], stock=False, progress=False)
    assert failed == {"squadv2": roots.IN_PYTHON}


def test_root_knows_only_what_is_there(tmp_path: Path) -> None:
    put(tmp_path / "acp_bench" / "acp_app_bool", test=SUMS)
    root = Root(tmp_path)
    found = root.files(
        "acp_app_bool", {"dataset_path": "x/acpbench", "dataset_name": "acp_app_bool", "test_split": "test"}
    )
    assert list(found) == ["test"]
    with pytest.raises(AllocMoEError, match="no folder acp_val_bool or acpbench/acp_val_bool or acpbench in"):
        root.files("acp_val_bool", {"dataset_path": "x/acpbench", "dataset_name": "acp_val_bool", "test_split": "test"})
