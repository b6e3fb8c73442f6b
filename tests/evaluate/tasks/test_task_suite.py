"""Tasks of the same build as the stock ones, from a folder: filters, scores, groups and tags, examples, caps."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_tasks import CHOICE, FILTERS, STOCK, WRITE, choices, group, put

from allocmoe.data.text import windows
from allocmoe.engines.hf import HFEngine
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.quality import evaluate
from allocmoe.evaluate.tasks import table
from allocmoe.evaluate.tasks.results import scores
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.methods import allocate
from allocmoe.mini import resolve

pytestmark = pytest.mark.whole

SUMS = ["44 - 38 =", "12 + 30 =", "7 + 8 =", "90 - 45 =", "21 + 21 =", "63 - 9 ="]
torch.set_num_threads(1)  # many small products: more threads only wait for each other


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return HFEngine.load(resolve("mini-olmoe"))


def suite(engine: HFEngine, folder: Path, *names: str, **options: Any) -> TaskSuite:
    return TaskSuite(engine, names, 8, include=[folder], stock=False, **options)


def written(engine: HFEngine, prompt: str, tokens: int) -> str:
    """The model's own continuation, alone in its batch."""
    ids = torch.tensor([engine.tokenizer(prompt)["input_ids"]])
    whole = engine.model.generate(ids, max_new_tokens=tokens, do_sample=False)
    return engine.tokenizer.decode(whole[0, ids.shape[1] :])


def put_sums(engine: HFEngine, folder: Path) -> list[int]:
    """A task named gsm8k of which every other item's target is what the model writes; what is right, per item."""
    answers = [re.match(r" *(\d+)", written(engine, prompt, 8)) for prompt in SUMS]
    right = [int(found is not None and i % 2 == 0) for i, found in enumerate(answers)]
    docs = [
        {"prompt": prompt, "target": found[1] if found and ok else "no number"}
        for prompt, found, ok in zip(SUMS, answers, right, strict=True)
    ]
    put(folder, "gsm8k", docs, {**WRITE, "filter_list": FILTERS, "num_fewshot": 0})
    assert sum(right) > 1, "the model writes numbers"
    return right


def test_a_task_with_two_filters_has_each_item_once(
    engine: HFEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = put_sums(engine, tmp_path)
    wanted = replace(table.SPECS["gsm8k"], shots=0, cap=8)
    monkeypatch.setitem(table.SPECS, "gsm8k", wanted)
    assert suite(engine, tmp_path, "gsm8k").run(6) == {"gsm8k": {"ids": list(range(6)), "correct": right}}
    monkeypatch.setitem(table.SPECS, "gsm8k", replace(wanted, filters=("flexible-extract",)))
    assert suite(engine, tmp_path, "gsm8k").run(6)["gsm8k"]["correct"] == [0] * 6


def test_a_score_is_the_probability_of_the_true_answers(engine: HFEngine, tmp_path: Path) -> None:
    docs = [
        {"question": f"What is {n} + 1?", "mc1_targets": {"choices": [" 1"], "labels": [1]},
         "mc2_targets": {"choices": [str(n + 1), "four", str(n), "none"], "labels": [1, 0, 1, 0]}}
        for n in range(3, 8)
    ]  # fmt: skip
    stock = {
        "include": str(STOCK / "truthfulqa" / "truthfulqa_mc2.yaml"),
        "test_split": "test",
        "validation_split": None,
    }
    put(tmp_path, "truthfulqa_mc2", docs, stock)
    asked = suite(engine, tmp_path, "truthfulqa_mc2")
    found = asked.run(3)["truthfulqa_mc2"]
    assert found["ids"] == [0, 1, 3]
    assert set(found) == {"ids", "score"}
    task = asked._members("truthfulqa_mc2")[0].task
    tokenize = engine.tokenizer
    for number, score in zip(found["ids"], found["score"], strict=True):
        likely = []
        for choice in docs[number]["mc2_targets"]["choices"]:
            prompt = task.doc_to_text(task.eval_docs[number])
            context, whole = tokenize(prompt)["input_ids"], tokenize(f"{prompt} {choice}")["input_ids"]
            with torch.no_grad():
                logits = engine.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            likely.append(math.fsum(float(logits[p - 1, whole[p]]) for p in range(len(context), len(whole))))
        mass = np.exp(likely)
        assert score == pytest.approx(mass[[0, 2]].sum() / mass.sum(), rel=1e-3)
    assert any(0.01 < score < 0.99 for score in found["score"]), "none that rounding would not change"
    assert scores({"truthfulqa_mc2": found}, asked.groups)["group/reasoning"] == pytest.approx(np.mean(found["score"]))


def test_groups_and_tags_are_one_data_set_of_the_items_of_their_tasks(engine: HFEngine, tmp_path: Path) -> None:
    sizes = {"local_a": 14, "local_b": 6, "local_c": 10}
    for i, (name, size) in enumerate(sizes.items()):
        put(
            tmp_path, name, choices(20 * i + 1, size), {**CHOICE, **({"tag": "local_tag"} if name != "local_a" else {})}
        )
    group(tmp_path, "local_inner", ["local_tag"])
    group(tmp_path, "local_outer", ["local_a", "local_inner"])
    alone = {name: suite(engine, tmp_path, name).run(99)[name] for name in sizes}
    for whole, parts in (("local_tag", ["local_b", "local_c"]), ("local_outer", list(sizes))):
        asked = suite(engine, tmp_path, whole)
        assert asked.groups == {"other": [whole]}
        everything = asked.run(99)[whole]
        assert everything["ids"] == [f"{part}/{i}" for part in parts for i in range(sizes[part])]
        assert everything["correct"] == [c for part in parts for c in alone[part]["correct"]]
        some = asked.run(5)[whole]
        known = dict(zip(everything["ids"], everything["correct"], strict=True))
        assert some == {"ids": some["ids"], "correct": [known[i] for i in some["ids"]]}
        shares = [sum(i.startswith(f"{part}/") for i in some["ids"]) for part in parts]
        total = sum(sizes[part] for part in parts)
        assert sum(shares) == 5
        assert all(abs(n - 5 * sizes[part] / total) < 1 for n, part in zip(shares, parts, strict=True))
        assert asked.run(5, seed=1)[whole]["ids"] != some["ids"]
        assert asked.describe(5)["task_settings"][whole]["members"] == len(parts)


def test_tasks_of_which_no_item_is_asked_are_left_out(engine: HFEngine, tmp_path: Path) -> None:
    for name in ("local_a", "local_b", "local_c"):
        put(tmp_path, name, choices(1, 4), {**CHOICE, "tag": "local_tag"})
    assert suite(engine, tmp_path, "local_tag").run(2)["local_tag"]["ids"] == ["local_a/0", "local_b/2"]


def test_arc_counts_once_in_its_group(engine: HFEngine, tmp_path: Path) -> None:
    put(tmp_path, "arc_easy", choices(1, 12), CHOICE)
    put(tmp_path, "arc_challenge", choices(50, 6), CHOICE)
    put(tmp_path, "piqa", choices(30, 8), CHOICE)
    asked = suite(engine, tmp_path, "arc", "piqa")
    found = asked.run(99)
    assert asked.groups == {"reasoning": ["arc", "piqa"]}
    apart = suite(engine, tmp_path, "arc_easy", "arc_challenge", "piqa").run(99)
    pooled = [c for name in ("arc_easy", "arc_challenge") for c in apart[name]["correct"]]
    wanted = (sum(pooled) / 18 + sum(apart["piqa"]["correct"]) / 8) / 2
    assert scores(found, asked.groups)["group/mean"] == pytest.approx(wanted)
    assert [found["arc"]["ids"][i] for i in (0, 11, 12)] == ["arc_easy/0", "arc_easy/11", "arc_challenge/0"]


def test_examples_and_caps_are_passed_on_and_said(
    engine: HFEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [{"prompt": f"{n} + {n} =", "target": str(2 * n)} for n in range(60, 70)]
    docs = [{"prompt": prompt, "target": "x"} for prompt in SUMS]
    put(tmp_path, "gsm8k", docs, {**WRITE, "filter_list": FILTERS, "num_fewshot": 1}, train)

    def prompts(asked: TaskSuite) -> list[tuple[str, int]]:
        asked.run(3)
        (one,) = asked._members("gsm8k")
        return [(r.args[0], r.args[1]["max_gen_toks"]) for r in one.task.instances]

    def said(asked: TaskSuite) -> dict[str, Any]:
        return asked.describe(3)["task_settings"]["gsm8k"]

    stated = suite(engine, tmp_path, "gsm8k", cap=7)  # the row says 5 examples and 256 tokens
    assert {(text.count("="), cap) for text, cap in prompts(stated)} == {(6, 7)}
    assert said(stated) == {
        "metric": "exact_match", "filter": "strict-match", "shots": 5, "cap": 7, "members": 1, "mean_over": "items",
    }  # fmt: skip
    assert said(suite(engine, tmp_path, "gsm8k"))["cap"] == 256
    monkeypatch.setitem(table.SPECS, "gsm8k", replace(table.SPECS["gsm8k"], shots=None, cap=3))
    its_own = suite(engine, tmp_path, "gsm8k", cap=7)
    assert {(text.count("="), cap) for text, cap in prompts(its_own)} == {(2, 3)}
    assert (said(its_own)["shots"], said(its_own)["cap"]) == (1, 3)
    monkeypatch.setitem(table.SPECS, "gsm8k", replace(table.SPECS["gsm8k"], cap=5000))
    with pytest.raises(AllocMoEError, match=r"5000 tokens, all that the model reads \(1024\): give a smaller cap"):
        suite(engine, tmp_path, "gsm8k").run(1)


def test_the_digest_tells_whatever_changes_an_answer(engine: HFEngine, tmp_path: Path) -> None:
    docs = [{"prompt": prompt, "target": "x"} for prompt in SUMS]
    train = [{"prompt": f"{n} + {n} =", "target": str(2 * n)} for n in range(60, 70)]
    settings = {**WRITE, "filter_list": FILTERS}
    seen: dict[str, str] = {}

    def digest(name: str, docs: list, settings: dict, train: list, **options: Any) -> str:
        (tmp_path / name).mkdir()
        put(tmp_path / name, "gsm8k", docs, settings, train)
        asked = suite(engine, tmp_path / name, "gsm8k", **options)
        before = asked.digest(3)
        asked.run(1)
        assert asked.digest(3) == before, "a run in between changes nothing"
        return before

    seen["as it is"] = digest("as it is", docs, settings, train, cap=4)
    assert digest("another folder", docs, settings, train, cap=4) == seen["as it is"]
    unasked = [*docs[:1], docs[1] | {"target": "y"}, *docs[2:]]
    assert digest("items that nobody asks", unasked, settings, train, cap=4) == seen["as it is"]
    seen["cap"] = digest("cap", docs, settings, train, cap=5)
    seen["examples"] = digest("examples", docs, settings, train[:-1], cap=4)
    seen["target"] = digest("target", [docs[0] | {"target": "y"}, *docs[1:]], settings, train, cap=4)
    other = [{"name": "strict-match", "filter": [{"function": "take_first"}]}]
    seen["filter"] = digest("filter", docs, {**settings, "filter_list": other}, train, cap=4)
    assert len(set(seen.values())) == len(seen)


def test_records_say_groups_guessing_and_how_it_was_asked(engine: HFEngine, tmp_path: Path) -> None:
    put(tmp_path, "arc_easy", choices(1, 12), CHOICE)
    put(tmp_path, "arc_challenge", choices(50, 6), CHOICE)
    put(tmp_path, "boolq", choices(30, 8), CHOICE)
    put(tmp_path, "local", choices(70, 4), CHOICE)
    plan = allocate("original", engine.spec, engine.fingerprint, engine.spec.original_budget)
    text = windows(engine.tokenizer, "mini-test", 1, 32)
    asked = suite(engine, tmp_path, "boolq", "arc", "local")
    (record,) = evaluate(engine, [plan], text, tmp_path / "r.jsonl", suite=asked, items=4, progress=False)
    assert record.details["groups"] == {"nlu": ["boolq"], "reasoning": ["arc"], "other": ["local"]}
    assert record.details["chance"] == {"boolq": 0.5, "arc": 0.25}
    assert record.setup["tasks"] == {"boolq": 4, "arc": 4, "local": 4}
    assert record.setup["task_settings"]["arc"]["members"] == 2
    assert {len(one["ids"]) for one in record.samples["tasks"].values()} == {4}
    more = suite(engine, tmp_path, "boolq", "arc", "local")
    evaluate(engine, [plan], text, tmp_path / "r.jsonl", suite=more, items=4, progress=False)
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1, "the same is not measured again"
