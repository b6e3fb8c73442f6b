"""What vLLM's model runners say of padding, and what its capturer makes of dropped experts: why some are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from allocmoe import mini
from tests.engines.loops import TOP, plan
from tests.engines.vllm_plugin.test_router import DROPPED, budgeted, logits, route

pytestmark = pytest.mark.vllm
REAL, ROWS = 5, 8


def after_a_dummy_run() -> Tensor:
    """The V2 runner's buffer of padding, as its own dummy run leaves it."""
    from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers

    buffers = InputBuffers(max_num_reqs=2, max_num_tokens=ROWS, device=torch.device("cpu"))
    InputBatch.make_dummy(2, ROWS, buffers)
    return buffers.is_padding


def test_with_the_v2_runners_flag_off_every_expert_would_be_dropped() -> None:
    """It then leaves the buffer as it was: see `check_config`."""
    router, padding = budgeted(plan("alloc_t")), after_a_dummy_run()
    assert (route(router, logits(ROWS), ~padding)[1] == DROPPED).all()
    padding[:REAL], padding[REAL:] = False, True  # what the flag does before every pass
    kept = route(router, logits(ROWS), ~padding)[1] >= 0
    assert kept[:REAL].any(1).all()
    assert not kept[REAL:].any()


def test_the_v1_runner_marks_the_rows_that_fill_up_a_graph() -> None:
    """Since 0.31; the same buffer after a dummy run."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    runner: Any = SimpleNamespace(is_padding=torch.ones(ROWS, dtype=torch.bool))
    padding = GPUModelRunner._prepare_padding_mask(runner, REAL, ROWS)
    assert padding.tolist() == [False] * REAL + [True] * (ROWS - REAL)


def test_the_capturer_has_no_id_for_a_dropped_expert() -> None:
    """What `enable_return_routed_experts` would send to clients."""
    from vllm.config import ModelConfig, VllmConfig
    from vllm.forward_context import ForwardContext, override_forward_context
    from vllm.model_executor.layers.fused_moe.routed_experts_capturer import RoutedExpertsCapturer

    model = ModelConfig(str(mini.resolve("mini-olmoe")), dtype="float32", skip_tokenizer_init=True)
    capturer = RoutedExpertsCapturer(ROWS, VllmConfig(model_config=model))
    router, returned = budgeted(plan("alloc_t")), []
    router.set_capture_fn(lambda ids: returned.append(ids))
    _, ids = route(router, logits(ROWS))
    assert torch.equal(returned[0], ids)
    assert (ids == DROPPED).any()
    with override_forward_context(ForwardContext({}, {}, {})):
        wide = torch.full((ROWS, capturer.shape_per_token[1]), DROPPED, dtype=ids.dtype)
        wide[:, :TOP] = ids
        capturer.capture(0, wide)
    sent = capturer.snapshot_routing_data(ROWS)[:, 0, :TOP].long()
    assert (sent[ids == DROPPED] == 255).all()
    assert torch.equal(sent[ids >= 0], ids[ids >= 0].long())
