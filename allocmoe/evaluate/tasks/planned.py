"""lm-eval's transformers backend, which tells a planned model what padding is.

Padding is the one thing that lm-eval does not tell the model, and Alloc-T must know it: padding neither
gets nor takes budget. So it is with an answer that has ended while others of its batch go on.
"""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from allocmoe.engines.hf import HFEngine


class PlannedLM(HFLM):
    """With an attention mask over right-padded batches, and over answers that have ended."""

    def __init__(self, engine: HFEngine, batch: int) -> None:
        super().__init__(pretrained=engine.model, tokenizer=engine.tokenizer, batch_size=batch, logits_cache=True)
        self._rows: set[tuple[int, ...]] = set()

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        longest = self.max_length + 1
        self._rows = {tuple((context + answer)[-longest:][:-1]) for _, context, answer in requests}
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        lengths = torch.tensor([self._length(row) for row in inps.tolist()], device=inps.device)
        mask = torch.arange(inps.shape[1], device=inps.device) < lengths[:, None]
        with torch.inference_mode():
            return self.model(input_ids=inps, attention_mask=mask.long(), use_cache=False).logits

    def _length(self, row: list[int]) -> int:
        """Tokens of a request before the zeros that lm-eval pads with; zeros may be tokens too."""
        least = len(row)
        while least and row[least - 1] == 0:
            least -= 1
        return next((n for n in range(least, len(row) + 1) if tuple(row[:n]) in self._rows), len(row))

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **settings: Any) -> Tensor:
        """Continue left-padded prompts [B, n]; an answer ends where it holds any of the strings in `stop`."""
        if not settings.get("do_sample"):
            settings = {name: value for name, value in settings.items() if name != "temperature"}
        ended = Ended(self.tokenizer, stop, context)
        handle = self.model.register_forward_pre_hook(ended.mask, with_kwargs=True, prepend=True)
        try:
            return self.model.generate(
                input_ids=context, max_length=max_length, stopping_criteria=StoppingCriteriaList([ended]),
                pad_token_id=self.tokenizer.pad_token_id, use_cache=True, **settings,
            )  # fmt: skip
        finally:
            handle.remove()


class Ended(StoppingCriteria):
    """Which answers of a batch have ended, `rows` [B]; lm-eval's own test waits for all to hold the same string."""

    def __init__(self, tokenizer: Any, stop: list[str], context: Tensor) -> None:
        self.tokenizer, self.stop, self.prompt = tokenizer, [s for s in stop if s], context.shape[1]
        self.rows = torch.zeros(len(context), dtype=torch.bool, device=context.device)
        # a string may be spelt with more tokens than its own spelling has
        self.back = 2 + max((len(tokenizer.encode(s, add_special_tokens=False)) for s in self.stop), default=0)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        for row, text in enumerate(self.tokenizer.batch_decode(input_ids[:, self.prompt :][:, -self.back :])):
            if any(s in text for s in self.stop):
                self.rows[row] = True
        return self.rows.clone()

    def mask(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Before a forward pass over one more token a row: that of an ended answer is padding."""
        mask = kwargs.get("attention_mask")
        if not self.rows.any() or mask is None:
            return None
        mask = mask.clone()
        mask[self.rows, -1] = 0
        return args, {**kwargs, "attention_mask": mask}
