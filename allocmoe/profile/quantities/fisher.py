"""Diagonal Fisher term of every MoE layer: how much the loss bends with the block's output. [L]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from allocmoe.profile.quantities.quantity import Quantity, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from allocmoe.data.text import Windows
    from allocmoe.engines.hf import HFEngine

TOKENS = 4096
"""Of calibration text."""
Labels = Callable[["Tensor", "Tensor"], "Tensor"]


def fisher(engine: HFEngine, text: Windows, batch: int, progress: bool = False) -> list[float]:
    """Mean squared gradient of the loss at each MoE block's output: [L].

    The loss of a window is its summed next-token NLL, so that neither the batch nor the number of windows changes the
    scale. The mean is over positions that predict a token, and channels. Weights get no gradient; memory follows the
    batch, and of logits one piece at a time.
    """
    sums, count = [0.0] * engine.spec.layers, 0
    for ids, found, _ in gradients(engine, text, batch, "fisher", lambda _logits, targets: targets, progress):
        for layer, gradient in enumerate(found):
            sums[layer] += float(gradient[:, :-1].double().square().sum())
        count += ids[:, 1:].numel() * found[0].shape[-1]
    return [total / count for total in sums]


def gradients(
    engine: HFEngine, text: Windows, batch: int, name: str, labels: Labels, progress: bool = False
) -> Iterator[tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]]:
    """Of every batch of windows [B, T], with the model as it is: the ids, the gradient [B, T, H] of the summed NLL at
    each MoE block's output, and what each block has read, [B, T, H].

    Args:
        labels: of logits [n, V] and the text's next tokens [n], what the NLL is of, [n].
    """
    import torch
    from tqdm import tqdm

    from allocmoe.profile.algorithm1 import block_of

    probes: dict[int, Tensor] = {}
    read: dict[int, Tensor] = {}

    def probed(layer: int) -> Any:
        def hook(_module: Any, args: Any, output: Any) -> Any:
            read[layer] = args[0].detach()
            first, *rest = output if isinstance(output, tuple) else (output,)
            probes[layer] = torch.zeros_like(first, requires_grad=True)
            moved = first + probes[layer]
            return (moved, *rest) if isinstance(output, tuple) else moved

        return hook

    layers = range(engine.spec.layers)
    with engine.using(None), _frozen(engine.model), torch.inference_mode(False), torch.enable_grad():
        hooks = [block_of(engine, layer).register_forward_hook(probed(layer)) for layer in layers]
        try:
            for ids in tqdm(text.batches(batch), desc=name, unit="batch", delay=2, disable=not progress):
                hidden, head = engine.backbone(ids), engine.model.get_output_embeddings()
                slope = _at_the_end(head, hidden.detach(), ids.to(hidden.device), labels)
                found = torch.autograd.grad(hidden, [probes[layer] for layer in layers], slope)
                shape = (*ids.shape, -1)
                yield ids, [g.view(shape) for g in found], [read[layer].view(shape) for layer in layers]
        finally:
            for hook in hooks:
                hook.remove()


def _at_the_end(head: Any, hidden: Tensor, ids: Tensor, labels: Labels) -> Tensor:
    """Gradient [B, T, H] of the summed NLL of `labels` with respect to the last hidden states, in pieces."""
    import torch

    from allocmoe.engines.head import HEAD_BYTES

    states, targets = hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    rows = max(1, HEAD_BYTES.get(states.device.type, 1 << 30) // (4 * head.weight.shape[0]))
    pieces = []
    for state, target in zip(states.split(rows), targets.split(rows), strict=True):
        leaf = state.detach().requires_grad_()
        logits = head(leaf)
        wide = torch.promote_types(logits.dtype, torch.float32)
        wanted = labels(logits.detach(), target)
        loss = torch.nn.functional.cross_entropy(logits.to(wide), wanted, reduction="sum")
        pieces += torch.autograd.grad(loss, leaf)
    slope = torch.cat(pieces).view(len(ids), -1, hidden.shape[-1])
    return torch.cat([slope, torch.zeros_like(slope[:, :1])], 1)


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """No gradients of weights: they would take as much memory as the model."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def _measure(setting: Setting) -> tuple[Any, dict[str, Any]]:
    text = setting.few(TOKENS)
    return fisher(setting.engine, text, setting.batch, setting.progress), {"windows": len(text.ids)}


QUANTITY = Quantity(
    "fisher",
    "mean squared gradient of the loss at each MoE block's output",
    _measure,
    shapes=lambda spec: (spec.layers,),
    least=0.0,
)
