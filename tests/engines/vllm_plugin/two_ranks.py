"""Run by test_parallel in a process of its own: one engine over one or two CPU ranks; prints what they did as JSON.

python two_ranks.py RANKS tensor|expert CHECKPOINT PLAN.json ...

Under expert parallelism vLLM's CPU kernel, which would read weights that are another rank's, gets the rank's own
pairs: so all else of it is vLLM's, the ranks' weights and experts, what each routes, and the sum over the ranks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

from allocmoe.engines.vllm.worker import PlanWorker

whole = CPUUnquantizedExperts.apply


def of_this_rank(self: Any, **call: Any) -> None:
    """The stock kernel, with the expert map honoured: pairs of other ranks' experts weigh nothing."""
    if call["expert_map"] is not None:
        ids = call["expert_map"][call["topk_ids"].long()]
        call["topk_weights"] = call["topk_weights"].masked_fill(ids < 0, 0.0)
        call["topk_ids"] = ids.clamp(min=0).to(call["topk_ids"].dtype)
        call["expert_map"] = None  # done, should a worker come by this file twice, as a script and as a module
    whole(self, **call)


CPUUnquantizedExperts.apply = of_this_rank  # in every worker, for this module has its extension


class Noting(PlanWorker):
    """A worker that also remembers the ids that its routers returned."""

    def note_routing(self) -> None:
        self.noted: list[list[list[int]]] = []
        for router in self.allocmoe.routers.values():
            stock = router._compute_routing

            def noting(*args: Any, stock: Any = stock, **kwargs: Any) -> Any:
                weights, ids = stock(*args, **kwargs)
                self.noted.append(ids.tolist())
                return weights, ids

            router._compute_routing = noting

    def noted_routing(self) -> Any:
        found, self.noted = self.noted, []
        return found


def main(ranks: int, kind: str, folder: str, plans: list[str]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    from allocmoe.engines.vllm import plugin

    if kind == "expert":
        plugin.check_config = lambda config, settings: None  # which refuses it for the sake of the stock kernel
    executor = "mp" if ranks > 1 else "uni"
    llm = LLM(
        folder, dtype="float32", enforce_eager=True, max_model_len=128, skip_tokenizer_init=True,
        enable_prefix_caching=False, tensor_parallel_size=ranks, distributed_executor_backend=executor,
        enable_expert_parallel=kind == "expert",
        worker_extension_cls="two_ranks.Noting", additional_config={"allocmoe": {"live": True, "count": True}},
    )  # fmt: skip
    llm.collective_rpc("note_routing")
    prompts = [{"prompt_token_ids": [(7 * i + j * j) % 128 for j in range(9 + 5 * i)]} for i in range(4)]
    sampling = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True, detokenize=False, prompt_logprobs=0)
    found = []
    for plan in plans:
        document = json.loads(Path(plan).read_text())
        llm.collective_rpc("allocmoe_apply", args=(document,))
        llm.collective_rpc("allocmoe_count", args=(True,))
        llm.collective_rpc("noted_routing")
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        found.append(
            {
                "method": document["method"],
                "routing": llm.collective_rpc("noted_routing"),
                "spent": llm.collective_rpc("allocmoe_spent"),
                "logprobs": [
                    [next(iter(choices.values())).logprob for choices in output.prompt_logprobs[1:]]
                    for output in outputs
                ],
                "tokens": [list(output.outputs[0].token_ids) for output in outputs],
            }
        )
    return {"plans": found}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])))
