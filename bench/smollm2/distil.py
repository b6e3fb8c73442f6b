"""The second step: all MoE blocks together, until the student predicts what its dense parent does.

Attention, norms, embeddings and the LM head stay the parent's, so a step has gradients of the blocks' weights alone.
The learning rate follows the share of the time that is used up: a run fits the minutes that it is given, may be stopped
at any time, and ends well when it is told to end sooner.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from allocmoe.engines.head import window_nll
from bench.smollm2.block import MaskedBlock, student
from bench.smollm2.head import distance
from bench.smollm2.texts import Corpus


@dataclass(frozen=True)
class Recipe:
    """What decides a run beside its data.

    Attributes:
        minutes: wall time to train, over all runs; with `steps` whichever ends first.
        steps: None for as many as the minutes allow.
        rows: windows a step.
        lr: peak learning rate, after `warmup` and before the last `decay` of the run (shares of it).
        hard: share of the text itself, beside the parent's predictions, in what is learned.
    """

    minutes: float = 300.0
    steps: int | None = None
    rows: int = 8
    lr: float = 3e-4
    warmup: float = 0.01
    decay: float = 0.6
    hard: float = 0.0
    seed: int = 0


@dataclass
class Progress:
    """How far a run has come: optimizer steps, minutes of training, tokens read."""

    step: int = 0
    minutes: float = 0.0
    tokens: int = 0

    def share(self, recipe: Recipe) -> float:
        """Of the run that is done, 1 at its end."""
        by_steps = self.step / recipe.steps if recipe.steps else 0.0
        return min(1.0, max(self.minutes / recipe.minutes, by_steps))


def rate(recipe: Recipe, done: float) -> float:
    """Learning rate after a share `done` of the run: warm-up, plateau, a linear fall to 2 % of the peak."""
    return recipe.lr * min(1.0, done / recipe.warmup + 0.02, max(0.02, (1 - done) / recipe.decay))


class Run:
    """A student in training: its parent, optimizer and progress.

    Attributes:
        student: the parent's copy with MoE blocks, see `block.student`.
        progress: where it stands.
    """

    def __init__(self, parent: Any, copy: Any, blocks: list[MaskedBlock], recipe: Recipe) -> None:
        self.parent, self.recipe, self.progress = parent, recipe, Progress()
        self.student, self.blocks = student(copy, blocks), blocks
        parameters = [p for block in blocks for p in block.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def step(self, corpus: Corpus) -> float:
        """One optimizer step; its loss, nats."""
        started = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.recipe, self.progress.share(self.recipe))
        ids = corpus.rows(self.progress.step * self.recipe.rows, self.recipe.rows, self.recipe.seed)
        loss = self.loss(ids)
        loss.backward()
        nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.tokens += ids.numel()
        self.progress.minutes += (time.monotonic() - started) / 60
        return loss.item()

    def loss(self, ids: Tensor) -> Tensor:
        """Distance of the student from its parent on windows [B, T], mean over predicted positions."""
        with torch.no_grad():
            theirs = self.parent.model(input_ids=ids, use_cache=False).last_hidden_state
        mine = self.student.model(input_ids=ids, use_cache=False).last_hidden_state
        rows = (states[:, :-1].flatten(0, 1) for states in (mine, theirs))
        return distance(*rows, self.parent.lm_head.weight, ids[:, 1:].flatten(), self.recipe.hard)

    def save(self, path: Path) -> None:
        """Everything that going on needs, written whole or not at all."""
        part = path.with_name(f"part-{path.name}")
        blocks = [{"tensors": block.state_dict(), "shape": block.shape.__dict__} for block in self.blocks]
        torch.save({"blocks": blocks, "optimizer": self.optimizer.state_dict(), **self.progress.__dict__}, part)
        part.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from a saved state; `blocks` of the run are overwritten."""
        saved = torch.load(path, weights_only=True)
        for block, kept in zip(self.blocks, saved["blocks"], strict=True):
            block.load_state_dict(kept["tensors"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.progress = Progress(saved["step"], saved["minutes"], saved["tokens"])


@torch.no_grad()
def held_out(model: Any, windows: Tensor, batch: int = 8) -> float:
    """Perplexity on windows [n, T] of a model in training, or of its parent."""
    losses = [window_nll(model.lm_head, model.model(input_ids=ids, use_cache=False).last_hidden_state, ids)
              for ids in windows.split(batch)]  # fmt: skip
    return math.exp(float(torch.cat(losses).sum()) / (len(windows) * (windows.shape[1] - 1)))


@torch.no_grad()
def usage(run: Run, windows: Tensor) -> dict[str, float]:
    """How the experts are used on windows [n, T], over all layers: the least and the most of any one, as a multiple of
    an even share; and the means of the largest and of the K-th routing weight."""
    loads: list[Tensor] = []
    ends: list[Tensor] = []

    def read(block: MaskedBlock, args: tuple[Tensor]) -> None:
        weights = block.weights(args[0].flatten(0, 1))
        ranked = weights.topk(block.top_k).values
        loads.append((weights > 0).float().mean(0) * block.shape.experts / block.top_k)
        ends.append(torch.stack([ranked[:, 0].mean(), ranked[:, -1].mean()]))

    hooks = [block.register_forward_pre_hook(read) for block in run.blocks]
    try:
        run.student.model(input_ids=windows, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    load, (first, last) = torch.stack(loads), torch.stack(ends).mean(0).tolist()
    return {"load_min": float(load.min()), "load_max": float(load.max()), "weight_first": first, "weight_last": last}


def train(run: Run, corpus: Corpus, valid: Tensor, state: Path, log: Path, every: float) -> None:
    """Train until the recipe's end. A state is saved and a line added to `log` every so many minutes and at the end;
    the line comes after the state, so that no step is told of twice."""
    recipe, progress = run.recipe, run.progress
    losses: list[float] = []
    written = progress.minutes
    with tqdm(total=round(recipe.minutes, 1), initial=round(progress.minutes, 1), unit="min", desc="distil",
              bar_format="{l_bar}{bar}| {n:.1f}/{total} min{postfix}") as bar:  # fmt: skip
        while progress.share(recipe) < 1:
            losses.append(run.step(corpus))
            bar.n = progress.minutes
            bar.set_postfix_str(f"{left(progress, recipe):.0f} min left, loss {losses[-1]:.3f}")
            if progress.minutes - written >= every or progress.share(recipe) >= 1:
                run.save(state)
                line = {"loss": sum(losses) / len(losses), "lr": rate(recipe, progress.share(recipe)),
                        "valid": held_out(run.student, valid), **usage(run, valid[:4])}  # fmt: skip
                note(log, stage="distil", step=progress.step, minutes=progress.minutes, tokens=progress.tokens, **line)
                losses, written = [], progress.minutes


def left(progress: Progress, recipe: Recipe) -> float:
    """Minutes until the end of the run, as it has gone so far."""
    done = progress.share(recipe)
    return progress.minutes * (1 - done) / done if done else recipe.minutes


def note(log: Path, **line: Any) -> None:
    """Add a line to the log."""
    shown = {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in line.items()}
    tqdm.write(json.dumps(shown))
    with log.open("a") as file:
        file.write(json.dumps(shown) + "\n")
