"""Ablation, layer rules and token rules: quality as `evaluate` measures it, and not again where a file has it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from allocmoe.analyses import ANALYSES, Analysis, ablation, layer_rules, token_rules
from allocmoe.analyses.setting import earlier
from allocmoe.methods import METHODS
from tests.analyses.small import setting


@pytest.mark.parametrize("one", [ablation, layer_rules, token_rules], ids=lambda m: m.NAME)
def test_it_is_the_perplexity_of_its_methods(one: Analysis, tmp_path: Path) -> None:
    made = setting(tmp_path / "r.jsonl", budgets=(8,))
    found = one.ANALYSIS.run(made)
    assert {r.method for r in found} <= {"original", *one.METHODS}
    assert {r.method for r in found} >= {"original", "uniform"} & {*one.METHODS, "original"}
    assert all(r.about == "quality" for r in found)
    plans = {p.method: p for p in made.plans(one.METHODS, [8])}
    for record in found:
        losses = []
        with made.engine.using(plans[record.method]), torch.inference_mode():
            for ids in made.text.batches(made.batch):
                logits = made.engine.model(ids).logits[:, :-1].double().log_softmax(-1)
                losses += (-logits.gather(-1, ids[:, 1:, None])).flatten().tolist()
        assert record.metrics["perplexity"] == pytest.approx(math.exp(math.fsum(losses) / len(losses)), rel=1e-6)


def test_methods_are_those_of_the_paper_s_figures() -> None:
    assert set(ablation.METHODS) == {"uniform", "alloc-l", "alloc-t", "alloc-moe"}
    assert all(METHODS[m].token_rule == "top_k" for m in layer_rules.METHODS)
    assert all(METHODS[m].layer_rule in ("uniform", "mean") for m in token_rules.METHODS)


def test_what_another_file_holds_is_not_measured_again(tmp_path: Path) -> None:
    first = setting(tmp_path / "first.jsonl", budgets=(8,))
    known = ablation.ANALYSIS.run(first)
    second = setting(tmp_path / "second.jsonl", budgets=(8,), earlier=earlier(known))
    assert ablation.ANALYSIS.run(second) == known
    assert not second.out.exists()
    table = ANALYSES["k_base"].run(second)
    written = {r.plan for r in table} - {r.plan for r in known}
    assert written, "other k_base"
    lines = second.out.read_text().splitlines()
    assert len(lines) == len(written), "alloc-t, uniform and the unchanged model were there"


def test_records_of_another_machine_do_not_stand_in(tmp_path: Path) -> None:
    known = ablation.ANALYSIS.run(setting(tmp_path / "first.jsonl", budgets=(8,)))
    known[0].environment["processor"] = "another"
    try:
        assert set(earlier(known)) == {r.key for r in known if r.environment is not known[0].environment}
    finally:
        known[0].environment.pop("processor")
