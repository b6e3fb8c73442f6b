"""Train an embedded model: real architecture, small widths, on text and the task sets' training side.

    python -m allocmoe.mini.train --text DIR --out runs/mini-olmoe --minutes 90

Interrupt it and run the same command again: it goes on from its last checkpoint. The learning-rate
schedule is a function of the minutes trained, so a run fits the time it is given on any machine. On a
CPU they are minutes of processor time, so other work on the machine, or a stop, takes nothing from a run.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from allocmoe.mini import routed
from allocmoe.mini.configs import TRAINABLE, VOCAB
from allocmoe.mini.corpus import EOS, PAD, Corpus, build, documents, exercises, train_tokenizer

TEXT_FILES = (
    "tinystories.txt",
    "wikitext2_raw_train_head.txt",
    "wikitext2_unk_train.txt.xz",
    "gutenberg_children.txt.xz",
)
FIELDS = ("tokens", "starts", "answers")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run, written beside its log."""

    model: str
    minutes: float
    seed: int
    rows: int = 8
    length: int = 256
    lr: float = 2.5e-3
    warmup: float = 0.02  # share of the minutes
    decay: float = 0.35  # share of the minutes, linear to 4 % of the peak
    balance: float = 0.02  # weight of the load-balancing loss
    expert_scale: float = 16.0  # start and learning rate of routed down projections, against small combine weights
    spread: float = 0.1  # weight of the reward for combine weights that are even within a token's K
    weight_decay: float = 0.1
    text_share: float = 0.25  # share of rows that are text, the rest are exercises
    answer: float = 4.0  # weight of an answer's tokens in the loss, all others weigh 1
    exercises: int = 300_000


def batch(corpora: tuple[Corpus, Corpus], recipe: Recipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Token ids [rows, length + 1], every row beginning where a document begins, and which of the
    targets [rows, length] are answers."""
    rows, answers = [], []
    for i in range(recipe.rows):
        corpus = corpora[0] if i < recipe.text_share * recipe.rows else corpora[1]
        last = np.searchsorted(corpus.starts, len(corpus.tokens) - recipe.length - 1)
        start = corpus.starts[rng.integers(last)]
        rows.append(corpus.tokens[start : start + recipe.length + 1])
        answers.append(corpus.answers[start + 1 : start + recipe.length + 1])
    return torch.from_numpy(np.stack(rows).astype(np.int64)), torch.from_numpy(np.stack(answers))


def rate(recipe: Recipe, done: float) -> float:
    """Learning rate after a share `done` of the minutes: warm-up, plateau, linear decay."""
    fade = 0.04 + 0.96 * min(1.0, (1 - done) / recipe.decay)
    return recipe.lr * min(1.0, done / recipe.warmup + 0.01, fade)


def prepare(text: Path, out: Path, recipe: Recipe) -> tuple[Tokenizer, tuple[Corpus, Corpus], tuple[Corpus, Corpus]]:
    """Tokenizer, training corpora and validation corpora (text, exercises), cached in `out`."""
    files = [text / name for name in TEXT_FILES if (text / name).exists()]
    if not files:
        raise typer.BadParameter(f"no training text in {text}: expected any of {', '.join(TEXT_FILES)}")
    path = out / "tokenizer.json"
    if not path.exists():
        few = (d for i, d in enumerate(documents(files)) if i % 6 == 0)
        train_tokenizer(chain(few, (a + b for a, b in exercises(60_000, recipe.seed))), VOCAB).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    cache = out / "corpus.npz"
    if not cache.exists():
        held = lambda keep: (d for i, d in enumerate(documents(files)) if (i % 100 == 0) == keep)  # noqa: E731
        parts = {
            "text": build(tokenizer, ((d, "") for d in held(False)), "text"),
            "exercises": build(tokenizer, exercises(recipe.exercises, recipe.seed), "exercises"),
            "text_val": build(tokenizer, ((d, "") for d in held(True)), "validation text"),
            "exercises_val": build(tokenizer, exercises(6000, recipe.seed + 1000), "validation exercises"),
        }
        part = cache.with_name(f"part-{cache.name}")
        np.savez(part, **{f"{k}_{f}": getattr(c, f) for k, c in parts.items() for f in FIELDS})
        part.replace(cache)
    data = np.load(cache)
    names = ("text", "exercises", "text_val", "exercises_val")
    text_, ex, text_val, ex_val = (Corpus(*(data[f"{n}_{f}"] for f in FIELDS)) for n in names)
    return tokenizer, (text_, ex), (text_val, ex_val)


@torch.no_grad()
def validate(model: Any, corpora: tuple[Corpus, Corpus], recipe: Recipe, device: str) -> dict[str, float]:
    """Loss in nats per token on fixed held-out rows of text, of exercises and of their answers."""
    result = {}
    for name, share in (("text", 1.0), ("exercises", 0.0)):
        fixed, rng, losses = replace(recipe, text_share=share), np.random.default_rng(0), []
        for _ in range(4):
            ids, answers = (t.to(device) for t in batch(corpora, fixed, rng))
            with torch.autocast(device, dtype=torch.bfloat16):
                logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            each = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            losses.append([each.mean().item(), each[answers.flatten()].mean().item()])
        whole, answer = np.mean(losses, axis=0)
        result[f"val_{name}"] = round(float(whole), 4)
        if share == 0.0:
            result["val_answers"] = round(float(answer), 4)
    return result


def save(model: Any, tokenizer: Tokenizer, optimizer: torch.optim.Optimizer, state: dict, out: Path) -> None:
    """Write a bf16 Hugging Face checkpoint and the full training state; the state is renamed into place."""
    weights = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    model.save_pretrained(out / "checkpoint", state_dict=weights)
    config = json.loads((out / "checkpoint/config.json").read_text())
    config |= {"dtype": "bfloat16"}
    (out / "checkpoint/config.json").write_text(json.dumps(config, indent=2) + "\n")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=EOS, model_max_length=1024
    )
    fast.save_pretrained(out / "checkpoint")
    part = out / "state.part"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), **state}, part)
    part.replace(out / "state.pt")


ROUTED_DOWN = "experts.down_proj"  # [N, H, I], of all routed experts of a layer


@torch.no_grad()
def initialise(model: Any, layers: int, recipe: Recipe) -> None:
    """Start from residual branches that are small together, and routers whose logits vary by about 1.

    A routed expert's output is multiplied with a combine weight of about 1/N to 1/K, so without a
    larger start (and learning rate) the routed experts hardly take part in what is learned.
    """
    for name, p in model.named_parameters():
        if name.endswith(ROUTED_DOWN):
            p.mul_(recipe.expert_scale)
        elif name.endswith(("down_proj.weight", "o_proj.weight")):
            p.mul_(1 / math.sqrt(2 * layers))
        elif name.endswith("mlp.gate.weight"):
            p.normal_(0.0, p.shape[1] ** -0.5)


def groups(model: Any, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups; `scale` multiplies the scheduled learning rate."""
    named = list(model.named_parameters())
    down = [p for n, p in named if n.endswith(ROUTED_DOWN)]
    matrices = [p for n, p in named if p.ndim > 1 and not n.endswith(ROUTED_DOWN)]
    vectors = [p for _, p in named if p.ndim == 1]
    scale, decay = recipe.expert_scale, recipe.weight_decay
    return [
        {"params": matrices, "weight_decay": decay, "scale": 1.0},
        {"params": down, "weight_decay": decay / scale, "scale": scale},
        {"params": vectors, "weight_decay": 0.0, "scale": 1.0},
    ]


def train(text: Path, out: Path, recipe: Recipe, device: str, every: float = 3.0) -> None:
    """Train until `recipe.minutes` are used up, with a checkpoint and a log line every `every` minutes."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer, corpora, held_out = prepare(text, out, recipe)
    torch.manual_seed(recipe.seed)
    config = TRAINABLE[recipe.model]()
    config._experts_implementation = routed.NAME
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").to(device)
    initialise(model, config.num_hidden_layers, recipe)
    routed.attach(model, getattr(config, "num_experts_per_tok", 0))
    for layer in model.model.layers:
        layer.compile()  # a layer is many small operations
    optimizer = torch.optim.AdamW(groups(model, recipe), betas=(0.9, 0.95), fused=True)
    state = {"step": 0, "minutes": 0.0, "tokens": 0}
    if (out / "state.pt").exists():
        saved = torch.load(out / "state.pt", map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = {key: saved[key] for key in state}
        print(f"resumed at step {state['step']}, {state['minutes']:.1f} min")
    rng = np.random.default_rng([recipe.seed, int(state["step"])])
    read = time.process_time if device == "cpu" else time.monotonic
    clock, since, losses = read(), state["minutes"], []
    while state["minutes"] < recipe.minutes:
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * rate(recipe, state["minutes"] / recipe.minutes)
        ids, answers = (t.to(device) for t in batch(corpora, recipe, rng))
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        each = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weight = 1.0 + (recipe.answer - 1.0) * answers.flatten()
        loss = (each * weight).sum() / weight.sum()
        balance, spread, idle = routed.terms(model)
        (loss + recipe.balance * balance - recipe.spread * spread).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(each.mean().detach())
        now = read()
        state["step"] += 1
        state["tokens"] += ids[:, 1:].numel()
        state["minutes"] += (now - clock) / 60
        clock = now
        if state["minutes"] - since >= every or state["minutes"] >= recipe.minutes or state["step"] in (60, 240):
            line = {
                **{k: round(v, 2) for k, v in state.items()},
                "loss": round(torch.stack(losses).mean().item(), 4),
                "balance": round(balance.item(), 4),
                "spread": round(spread.item(), 4),
                "idle": idle,
                **validate(model, held_out, recipe, device),
            }
            print(json.dumps(line), flush=True)
            with (out / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            save(model, tokenizer, optimizer, state, out)
            losses, since, clock = [], state["minutes"], read()


def main(
    text: Annotated[Path, typer.Option(help="Folder with the training text files.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log and training state.")],
    minutes: Annotated[float, typer.Option(help="Time to train, over all runs (on a CPU: processor time).")],
    model: Annotated[str, typer.Option(help=f"One of {', '.join(TRAINABLE)}.")] = "mini-olmoe",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights, data and order.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; for operations this small, more are slower.")] = 1,
) -> None:
    """Train an embedded model (resumable; see the module's text)."""
    if model not in TRAINABLE:
        raise typer.BadParameter(f"no model {model!r}: expected one of {', '.join(TRAINABLE)}")
    torch.set_num_threads(threads)
    recipe = Recipe(model=model, minutes=minutes, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(recipe.__dict__, indent=2) + "\n")
    train(text, out, recipe, device)


if __name__ == "__main__":
    typer.run(main)
