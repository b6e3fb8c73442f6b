"""Tasks under a plan: lm-eval's own numbers where nothing is planned, and padding that costs nothing."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import AutoModelForCausalLM

from allocmoe.engines.hf import HFEngine
from allocmoe.evaluate.tasks import embedded
from allocmoe.evaluate.tasks.embedded import FOLDER
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.methods import allocate
from allocmoe.mini import resolve, write_tasks
from allocmoe.mini.items import GROUPS, TASKS
from allocmoe.plan import Plan

pytestmark = pytest.mark.whole

MODEL = resolve("mini-olmoe")
THREE = [next(name for name, task in TASKS.items() if task.group == group) for group in GROUPS]
torch.set_num_threads(1)  # many small products: more threads only wait for each other


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return HFEngine.load(MODEL)


@pytest.fixture(scope="module")
def suite(engine: HFEngine) -> TaskSuite:
    return TaskSuite(engine, batch=16)


@pytest.fixture(scope="module")
def three(engine: HFEngine) -> TaskSuite:
    return TaskSuite(engine, THREE, batch=16)


@pytest.fixture(scope="module")
def plain() -> Any:
    """The model through transformers alone, no engine."""
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


def alloc_t(engine: HFEngine) -> Plan:
    """A fractional mean per layer, so that the floor shows."""
    return allocate("alloc-t", engine.spec, engine.fingerprint, engine.spec.original_budget * 5 // 8 + 3)


def documents(task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{task}.test.jsonl").read_text("utf-8").splitlines()]


def log_likelihood(model: Any, context: list[int], answer: list[int]) -> float:
    """Of `answer` after `context`, alone in its batch and without padding."""
    with torch.no_grad():
        logits = model(torch.tensor([context + answer])).logits[0].double().log_softmax(-1)
    places = range(len(context) - 1, len(context) + len(answer) - 1)
    return math.fsum(float(logits[p, token]) for p, token in zip(places, answer, strict=True))


def test_the_original_model_gets_lm_eval_s_own_results(engine: HFEngine) -> None:
    ours, theirs = (TaskSuite(engine, batch=16) for _ in range(2))
    theirs.lm = HFLM(pretrained=engine.model, tokenizer=engine.tokenizer, batch_size=16)  # type: ignore[assignment]
    found = ours.run(8)
    assert found == theirs.run(8)
    assert list(found) == list(TASKS)
    assert all(len(r["ids"]) == len(r["correct"]) == 8 for r in found.values())


@pytest.mark.whole
def test_answers_are_those_of_one_request_at_a_time(three: TaskSuite, plain: Any) -> None:
    tokenizer, found = three.engine.tokenizer, three.run(15)
    compared = 0
    for task in THREE:
        items = documents(task)
        for number, correct in zip(found[task]["ids"], found[task]["correct"], strict=True):
            item = items[number]
            assert item["id"] == number
            context = tokenizer(item["prompt"])["input_ids"]
            likely = []
            for choice in item["choices"]:
                whole = tokenizer(item["prompt"] + choice)["input_ids"]
                assert whole[: len(context)] == context
                likely.append(log_likelihood(plain, context, whole[len(context) :]))
            second, best = sorted(likely)[-2:]
            if best - second < 1e-3:
                continue  # a tie, which rounding decides
            compared += 1
            assert correct == int(np.argmax(likely) == item["answer"]), (task, number)
    assert compared > 30


def test_padding_neither_gets_nor_takes_budget(engine: HFEngine, three: TaskSuite) -> None:
    plan, tokenizer = alloc_t(engine), engine.tokenizer
    masks: list[Tensor] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        masks.append(kwargs["attention_mask"].clone())

    handle = engine.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with engine.using(plan), engine.count() as spent:
            found = three.run(10)
            kept, tokens = spent.activations.clone(), spent.tokens.clone()
    finally:
        handle.remove()
    assert any(len(set(mask.sum(1).tolist())) > 1 for mask in masks), "no batch had padding"
    # every row that lm-eval runs once: choices that differ in their last token share one
    rows = set()
    for task in THREE:
        items = documents(task)
        for number in found[task]["ids"]:
            for choice in items[number]["choices"]:
                rows.add(tuple(tokenizer(items[number]["prompt"] + choice)["input_ids"][:-1]))
    assert tokens.tolist() == [sum(map(len, rows))] * engine.spec.layers
    for layer, k in enumerate(plan.layers):
        assert int(kept[layer]) == sum(math.floor(k * int(mask.sum())) for mask in masks)


def test_more_padding_changes_no_result(engine: HFEngine) -> None:
    short, long = [11, 12, 13, 14], [21, 22, 23, 24, 25, 26, 27]
    real = torch.tensor([[*short, 0, 0, 0], long])
    wide = torch.nn.functional.pad(real, (0, 9))

    def logits(ids: Tensor) -> Tensor:
        mask = torch.zeros_like(ids)
        mask[0, :4], mask[1, :7] = 1, 1
        with torch.inference_mode():
            found = engine.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return torch.cat([found[0, :4], found[1, :7]])

    with engine.using(alloc_t(engine)):
        torch.testing.assert_close(logits(real), logits(wide), rtol=1e-4, atol=1e-4)


def test_results_under_a_plan_do_not_depend_on_the_run_before(engine: HFEngine, three: TaskSuite) -> None:
    before = three.run(5)
    with engine.using(alloc_t(engine)):
        first = three.run(5)
        assert three.run(5) == first
    assert three.run(5) == before


@pytest.mark.parametrize(
    ("rows", "row", "length"),
    [
        ([(5, 6)], [5, 6, 0, 0], 2),
        ([(5, 0, 0)], [5, 0, 0, 0, 0], 3),
        ([(5, 0)], [5, 0], 2),
        ([(5, 6, 0, 7)], [5, 6, 0, 7], 4),
        ([(0, 0)], [0, 0, 0], 2),
        ([(9, 9, 0), (5, 0)], [5, 0, 0], 2),
        ([(1,)], [5, 6, 0, 0], 4),  # of no request: nothing is taken for padding
    ],
)
def test_length_tells_zero_tokens_from_padding(
    suite: TaskSuite, rows: list[tuple[int, ...]], row: list[int], length: int
) -> None:
    before, suite.lm._rows = suite.lm._rows, set(rows)
    try:
        assert suite.lm._length(row) == length
    finally:
        suite.lm._rows = before


def test_zero_tokens_at_the_end_of_a_request_are_read(suite: TaskSuite, plain: Any) -> None:
    pairs = [([5, 7, 0], [0, 9]), ([5, 7], [0, 0, 0, 9, 4, 3]), ([8, 0, 0], [0, 0]), ([3], [4])]
    requests = [(("", ""), context, answer) for context, answer in pairs]
    found = suite.lm._loglikelihood_tokens(requests, disable_tqdm=True)
    wanted = [log_likelihood(plain, context, answer) for context, answer in pairs]
    np.testing.assert_allclose([value for value, _ in found], wanted, rtol=1e-4)


def test_a_request_longer_than_the_model_is_cut_from_the_left(engine: HFEngine, suite: TaskSuite, plain: Any) -> None:
    longest = suite.lm.max_length
    context, answer = [2 + i % 900 for i in range(longest + 20)], [7, 8]
    with engine.count() as spent:
        found = suite.lm._loglikelihood_tokens([(("", ""), context, answer), (("", ""), [5], [6])], disable_tqdm=True)
        assert spent.tokens.tolist() == [longest + 1] * engine.spec.layers
    whole = (context + answer)[-(longest + 1) :]
    assert found[0][0] == pytest.approx(log_likelihood(plain, whole[:-2], answer), rel=1e-4)


def test_records_of_the_embedded_tasks_stay_comparable(suite: TaskSuite) -> None:
    """What the records of reports/ say of the tasks, word for word: another word would set them apart."""
    assert suite.describe(50) == {
        "tasks": dict.fromkeys(TASKS, 50),
        "task_batch": 16,
        "task_items": "9fea3cbd02ddb5c3",
    }


def test_the_digest_tells_other_items_from_the_same(
    suite: TaskSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places in a file stay the same where what is asked there does not."""
    known = suite.digest(20)
    assert suite.digest(20) == known
    assert len({known, suite.digest(21), suite.digest(20, seed=1)}) == 3
    shutil.copytree(FOLDER, tmp_path / "tasks")
    monkeypatch.setattr(embedded, "FOLDER", tmp_path / "tasks")
    assert suite.digest(20) == known
    asked = tmp_path / "tasks" / f"{suite.names[0]}.test.jsonl"
    lines = asked.read_text().splitlines(keepends=True)
    asked.write_text("".join([lines[0], lines[2], lines[1], *lines[3:]]))
    assert suite.digest(20) == known, "items that nobody asks do not count"
    asked.write_text("".join([lines[1], lines[0], *lines[2:]]))
    assert suite.digest(20) != known, "item 0 is another one"
    asked.write_text("".join(lines))
    prompt = tmp_path / "tasks" / f"{suite.names[0]}.yaml"
    prompt.write_text(prompt.read_text() + "# put otherwise\n")
    assert suite.digest(20) != known


def test_a_run_measures_the_pinned_items(three: TaskSuite) -> None:
    for seed in (0, 3):
        found = three.run(4, seed)
        assert {task: r["ids"] for task, r in found.items()} == {t: three.pinned(t, 4, seed)[t] for t in THREE}


@pytest.mark.parametrize("name", ["a: b", "a #b", "it's", "café \U0001f600"])
def test_a_temporary_folder_of_any_name(
    engine: HFEngine, three: TaskSuite, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    found = TaskSuite(engine, THREE[:1], batch=16).run(4)
    assert found[THREE[0]] == three.run(4)[THREE[0]]
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing is written elsewhere"


def test_the_committed_task_files_are_what_the_generators_give() -> None:
    committed = {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}
    wanted = write_tasks.contents()
    assert sorted(committed) == sorted(wanted)
    assert [name for name in wanted if committed[name] != wanted[name]] == []


def test_groups_are_those_of_the_tasks(suite: TaskSuite, three: TaskSuite) -> None:
    assert suite.groups == {g: [n for n, t in TASKS.items() if t.group == g] for g in GROUPS}
    assert three.groups == {group: [name] for group, name in zip(GROUPS, THREE, strict=True)}


def test_lm_eval_is_silent(three: TaskSuite, capfd: pytest.CaptureFixture[str]) -> None:
    three.run(2)
    assert capfd.readouterr() == ("", "")
