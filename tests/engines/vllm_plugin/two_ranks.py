"""Run by test_parallel in a process of its own: one engine over one or two CPU ranks; prints what they did as JSON.

python two_ranks.py RANKS CHECKPOINT PLAN.json ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from allocmoe.engines.vllm.worker import PlanWorker


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


def main(folder: str, plans: list[str], ranks: int) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    executor = "mp" if ranks > 1 else "uni"
    llm = LLM(
        folder, dtype="float32", enforce_eager=True, max_model_len=128, skip_tokenizer_init=True,
        enable_prefix_caching=False, tensor_parallel_size=ranks, distributed_executor_backend=executor,
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
    print(json.dumps(main(sys.argv[2], sys.argv[3:], int(sys.argv[1]))))
