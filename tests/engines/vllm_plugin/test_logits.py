"""Rules that read the router's logits: in vLLM's router, under captured graphs, on a device, and in a whole engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from captured import CPU, DROPPED, budgeted, fixed, on, other
from torch import Tensor

from allocmoe.engines.planned import PlannedLayer
from allocmoe.routing import RULES
from tests.engines.loops import EXPERTS, TOP, assert_same, kept, kept_by_hand, plan

pytestmark = pytest.mark.vllm
READING = [n for n, rule in RULES.items() if rule.logits and any(p.per == "expert" for p in rule.parameters.values())]
"""Those that have a number an expert; `test_within` has the others."""
META = torch.device("meta")


def logits(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, EXPERTS, generator=torch.Generator().manual_seed(seed)) * 2


def route(router: Any, scores: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
    from vllm.forward_context import ForwardContext, override_forward_context

    padding = None if real is None else ~real
    with override_forward_context(ForwardContext({}, {}, {}, is_padding=padding)):
        return router.select_experts(torch.zeros(len(scores), 8, device=scores.device), scores, torch.int32)


@pytest.mark.parametrize("reference", ["original", "survivors"])
@pytest.mark.parametrize("token_rule", READING)
def test_the_router_gives_them_its_logits(token_rule: str, reference: str) -> None:
    made, scores = plan(token_rule, reference=reference), logits(64)
    given = budgeted(None).inner.select_experts(torch.zeros(64, 8), scores, torch.int32)
    for real in (None, torch.arange(64) < 40, torch.zeros(64, dtype=torch.bool)):
        for rule in (fixed(made), on(CPU, made)):
            answer = route(budgeted(rule), scores, real)
            assert_same(kept(*answer, DROPPED), kept_by_hand(*given, made, real, logits=scores))
            assert all(t.is_contiguous() for t in answer)
            assert answer[1].dtype == torch.int32


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("token_rule", READING)
def test_one_graph_follows_a_refill(token_rule: str, padded: bool) -> None:
    from allocmoe.engines.vllm.install import everything

    torch._dynamo.reset()
    made, graphs, scores = plan(token_rule), [], logits(12)

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    rule = on(CPU, made)
    compiled = torch.compile(lambda w, i, v, x: rule(w, i, v, x), fullgraph=True, backend=backend, dynamic=False)
    weights, ids = scores.softmax(-1).topk(TOP, sorted=False)
    real = torch.arange(12) < 9 if padded else None
    for following in (made, other(made), everything(made), made):
        rule.follow(fixed(following))
        answer = compiled(weights, ids, real, scores)
        assert_same(kept(*answer, DROPPED), kept_by_hand(weights, ids, following, real, logits=scores))
    assert len(graphs) == 1


@pytest.mark.parametrize("token_rule", READING)
def test_nothing_waits_for_the_device(token_rule: str) -> None:
    """Lists of numbers lie there before the first pass; a rule with some left behind would fail."""
    made, real = plan(token_rule), torch.empty(6, dtype=torch.bool, device=META)
    weights, ids = torch.empty(6, TOP, device=META), torch.empty(6, TOP, dtype=torch.int32, device=META)
    scores = torch.empty(6, EXPERTS, device=META)
    for rule in (on(META, made), PlannedLayer.of(made, 0, DROPPED, device=META)):
        answer = rule(weights, ids, real, scores)
        assert [t.device.type for t in answer] == ["meta", "meta"]
        assert [t.shape for t in answer] == [(6, TOP), (6, TOP)]
        assert route(budgeted(rule), scores, real)[1].device.type == "meta"
    with pytest.raises((RuntimeError, NotImplementedError)):
        fixed(made)(weights, ids, real, scores)


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2"])
def test_both_engines_compute_the_same(family: str, tmp_path: Path) -> None:
    import oracle

    from allocmoe.data.text import Windows
    from allocmoe.engines.vllm.engine import VLLMEngine
    from allocmoe.methods import METHODS, allocate
    from allocmoe.profile.run import profile

    folder = oracle.checkpoint(family, tmp_path / family)
    hf = oracle.load(folder)
    names = [name for name, row in METHODS.items() if row.token_rule in READING]
    text = Windows(torch.randint(128, (2, 24), generator=torch.Generator().manual_seed(9)), "random tokens")
    wanted = list({need for name in names for need in METHODS[name].needs})
    known = profile(hf, text, 2, quantities=wanted, progress=False)
    half = hf.spec.original_budget // 2
    engine = VLLMEngine.load(folder, skip_tokenizer_init=True, max_model_len=128)
    try:
        for name in names:
            made = allocate(name, hf.spec, hf.fingerprint, half, known)
            compared = 0
            for seed in range(12):
                generator = torch.Generator().manual_seed(seed)
                prompt = torch.randint(128, (23,), generator=generator).tolist()
                expected, margin = oracle.logprobs(hf, made, [prompt], [[0] * len(prompt)])
                if margin <= 5e-6:  # nearer to a tie, rounding may decide
                    continue
                with engine.using(made), engine.count() as spent:
                    (output,) = engine.generate([prompt], 1, prompt_logprobs=0)
                pairs = zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
                found = torch.tensor([choices[token].logprob for token, choices in pairs], dtype=torch.float64)
                torch.testing.assert_close(found, expected[0], rtol=0, atol=1e-4)
                stay = torch.tensor(made.parameters["kept"]) > 0
                assert not spent.load[~stay].any()
                assert spent.activations.tolist() == [len(prompt) * hf.spec.top_k] * hf.spec.layers
                compared += 1
                break
            assert compared, f"{name}: every prompt routes near a tie"
    finally:
        engine.close()
