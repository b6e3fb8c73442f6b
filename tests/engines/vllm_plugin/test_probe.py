"""A kernel is taken at its answers: wrong ones are refused, each with its reason, and right ones pass."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import faulty
import pytest
import torch
from faulty import CPU, EXPERTS, HIDDEN, TOP
from torch import Tensor

from allocmoe.errors import AllocMoEError
from tests.engines.vllm_plugin import oracle

pytestmark = pytest.mark.vllm
DO = 'start the engine with moe_backend="triton"'
REFUSED = [
    (faulty.AddsUnwritten, "some pairs dropped", "the sum adds rows that nobody wrote"),
    (faulty.WeighsUnwritten, "some pairs dropped", "the sum adds rows that nobody wrote"),
    (faulty.Wraps, "some pairs dropped", "an id of -1 for the last expert"),
    (faulty.LeavesStale, "some pairs dropped", "tokens that keep no expert come out as what was there before"),
    (faulty.SharesScale, "some pairs dropped", "something is shared between tokens, such as a scale"),
    (faulty.Fails, "some pairs dropped", "it stops: IndexError: expert -1 is out of range"),
]


def refused(runner: Any) -> str:
    from allocmoe.engines.vllm.probe import probe

    with pytest.raises(AllocMoEError) as caught:
        probe(runner, CPU, DO)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(DO)
    assert "model.layers.3.mlp.experts" in message
    return message


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("cls", "case", "reason"), REFUSED, ids=[cls.__name__ for cls, *_ in REFUSED])
def test_a_faulty_kernel_is_refused_for_its_fault(cls: Any, case: str, reason: str, dtype: torch.dtype) -> None:
    message = refused(faulty.runner(cls(dtype=dtype)))
    assert cls.__name__ in message
    assert f'"{case}"' in message
    assert reason in message
    assert "tolerance" in message or cls is faulty.Fails


@pytest.mark.parametrize("scale", [1e-4, 1e-3, 0.3, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_right_kernel_passes_however_large_its_weights_are(dtype: torch.dtype, scale: float) -> None:
    from allocmoe.engines.vllm.probe import probe

    for cls in (faulty.Right, faulty.ScalesRows):
        probe(faulty.runner(cls(scale, dtype)), CPU, DO)
    refused(faulty.runner(faulty.Wraps(scale, dtype)))


def test_weights_that_give_nothing_prove_nothing() -> None:
    assert "proves nothing" in refused(faulty.runner(faulty.Right(0.0)))
    nan = faulty.Right()
    nan.w2[:] = torch.nan
    assert "proves nothing" in refused(faulty.runner(nan))


def test_what_it_presents_has_every_kind_of_row() -> None:
    from allocmoe.engines.vllm.probe import cases, probe

    right = faulty.Right()
    probe(faulty.runner(right), CPU, DO)
    kept = [(ids >= 0).sum(1) for ids in right.seen]
    assert any(int(k.min()) == 0 and int(k.max()) == TOP and ((k > 0) & (k < TOP)).any() for k in kept)
    assert any(len(k) > 1 and int(k.max()) == 0 for k in kept)
    assert {int(k) for k in kept if len(k) == 1} == {0, TOP // 2, TOP}
    assert {ids.shape[1] for ids in right.seen} == {TOP - 1, TOP}
    assert all(int(ids.max()) < EXPERTS for ids in right.seen)
    assert {len(ids) for ids in right.seen} == {1, 17}
    assert [len(case.kept) for case in cases(TOP, 4096, many=True)][-1] == 256
    assert max(len(case.kept) for case in cases(TOP, 64, many=True)) == 64
    assert [case.name for case in cases(1, 64, many=False)].count("fewer columns") == 0


def test_what_it_compares_with_is_the_sum_over_kept_experts() -> None:
    """Answers with weight 0 for what was dropped, against a float64 loop over the kept pairs alone."""
    from allocmoe.engines.vllm.probe import _call, _tokens, cases

    right = faulty.Right()
    runner = faulty.runner(right)
    for case in cases(TOP, 64, many=False):
        hidden, weights, ids = _tokens(runner, case, CPU)
        expected = faulty.by_hand(right, hidden, weights, ids.masked_fill(~case.kept, -1))
        torch.testing.assert_close(
            _call(runner, hidden, weights * case.kept, ids).double(), expected, rtol=1e-5, atol=1e-5
        )


def test_memory_that_nobody_wrote_is_infinite_until_the_end() -> None:
    from allocmoe.engines.vllm.probe import poisoned

    def take(output: Tensor, workspace13: Tensor, workspace2: Tensor, topk_ids: Tensor) -> None:
        assert output.isinf().all()
        assert workspace13.isinf().all()
        assert workspace2.float().isnan().all()  # 8 bits have no infinity
        assert (topk_ids == 3).all()

    experts = faulty.Right()
    experts.apply = take  # type: ignore[method-assign]
    call = {name: torch.ones(4) for name in ("output", "workspace13")}
    call |= {"workspace2": torch.ones(4).to(torch.float8_e4m3fn), "topk_ids": torch.full((4,), 3)}
    with poisoned(experts):
        experts.apply(**call)  # type: ignore[arg-type]
        like = torch.ones(2)
        for made in (torch.empty(3), torch.empty_like(like), like.new_empty(3), torch.empty_strided((2,), (1,))):
            assert made.isinf().all()
        assert (torch.zeros(3) == 0).all()
    assert experts.apply is take
    assert all(t.float().isfinite().all() for t in call.values())


@pytest.mark.parametrize("cls", [faulty.Right, faulty.AddsUnwritten, faulty.Fails])
def test_nothing_stays_behind(cls: Any) -> None:
    from allocmoe.engines.vllm.probe import probe

    experts, before = cls(), torch.get_rng_state()
    runner = faulty.runner(experts)
    runner.router.rule = "the rule in force"
    with pytest.raises(AllocMoEError) if cls is not faulty.Right else nullcontext():
        probe(runner, CPU, DO)
    assert runner.router.rule == "the rule in force"
    assert "apply" not in vars(experts)
    assert torch.equal(torch.get_rng_state(), before)
    assert all((space == 0).all() for space in runner.routed_experts.spaces)
    assert not torch.empty(10**4).isinf().all()


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_experts_of_other_ranks_give_nothing(rank: int) -> None:
    """Each rank has a third of the experts; what it is asked for beyond them is none of its business."""
    from allocmoe.engines.vllm.probe import probe

    local = torch.full((EXPERTS,), -1)
    local[rank * 4 : rank * 4 + 4] = torch.arange(4)
    for cls, passes in ((faulty.Right, True), (faulty.AddsUnwritten, False)):
        experts = cls()
        experts.w13, experts.w2 = (w[rank * 4 : rank * 4 + 4].clone() for w in (experts.w13, experts.w2))
        runner = faulty.runner(experts, expert_map=local)
        probe(runner, CPU, DO) if passes else refused(runner)


def test_kernels_that_send_tokens_to_other_ranks_are_not_started() -> None:
    from types import SimpleNamespace

    right = faulty.Right()
    runner = faulty.runner(right, moe_parallel_config=SimpleNamespace(use_all2all_kernels=True))
    from allocmoe.engines.vllm.probe import probe

    with pytest.raises(AllocMoEError, match=r"between ranks.*tensor parallelism"):
        probe(runner, CPU, DO)
    assert right.seen == []


def test_a_sum_that_is_left_to_others_is_refused() -> None:
    runner = faulty.runner(faulty.Right())
    runner.routed_experts.forward_modular = lambda *call: ("rows", "and where they belong")
    assert "left to a later kernel" in refused(runner)


def test_padding_of_hidden_states_is_zero() -> None:
    from allocmoe.engines.vllm.probe import _tokens, cases

    runner = faulty.runner(faulty.Right(), hidden_dim_unpadded=HIDDEN - 3)
    hidden = _tokens(runner, cases(TOP, 64, many=False)[0], CPU)[0]
    assert (hidden[:, -3:] == 0).all()
    assert (hidden[:, :-3] != 0).all()


def test_layers_of_one_kind_have_one_probe() -> None:
    from allocmoe.engines.vllm.probe import kind

    first = kind(faulty.runner(faulty.Right()))
    assert kind(faulty.runner(faulty.Right(1.0))) == first
    wider = faulty.Right()
    wider.w2 = torch.zeros(EXPERTS, HIDDEN, 2)
    for other in (
        faulty.runner(faulty.Right(dtype=torch.bfloat16)),
        faulty.runner(faulty.ScalesRows()),
        faulty.runner(faulty.Right(), expert_map=torch.zeros(EXPERTS)),
        faulty.runner(wider),
    ):
        assert kind(other) != first


@pytest.mark.parametrize("family", oracle.FAMILIES)
def test_vllms_own_kernels_pass(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16; the tests of agreement start the same in float32. One layer of each kind is asked.

    Then the same kernels behind a path over rows that makes a mistake.
    """
    from allocmoe.engines.vllm import kernels
    from allocmoe.engines.vllm.engine import VLLMEngine

    stock, asked = kernels.probe, []
    monkeypatch.setattr(kernels, "probe", lambda runner, *given: (stock(runner, *given), asked.append(runner)))
    engine = VLLMEngine.load(
        oracle.checkpoint(family, tmp_path / family), "bfloat16", skip_tokenizer_init=True, max_model_len=64
    )
    try:
        worker = engine.llm.llm_engine.model_executor.driver_worker.worker
        assert len(asked) == 1
        experts = asked[0].routed_experts.quant_method.moe_kernel.fused_experts
        assert type(experts).__name__ in worker.allocmoe.describe()
        assert all(router.rule is None for router in worker.allocmoe.routers.values())
        assert not torch.empty(10**4).isinf().all()
        right = experts.apply

        def forgets(**call: Any) -> None:
            if (call["topk_ids"] >= 0).any():
                right(**call)

        def computes(**call: Any) -> None:
            right(**call | {"topk_ids": call["topk_ids"].clamp(min=0)})

        for wrong, reason in ((forgets, "what was there before"), (computes, "dropped pairs are computed")):
            monkeypatch.setattr(experts, "apply", wrong)
            with pytest.raises(AllocMoEError, match=reason):
                stock(asked[0], CPU, DO)
    finally:
        engine.close()
