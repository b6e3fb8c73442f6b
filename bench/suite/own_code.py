"""asv: time and memory of the project's own code, without a model's forward passes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from allocmoe import methods, mini
from allocmoe.allocation.alloc_l import alloc_l
from allocmoe.allocation.lexi import lexi
from allocmoe.engines.planned import PlannedLayer
from allocmoe.plan import Plan
from allocmoe.routing import RULES
from allocmoe.routing.kernels import fused_on
from allocmoe.spec import MoESpec

SHAPES = {"olmoe": (16, 8, 64), "qwen": (24, 4, 48), "deepseek": (26, 6, 78)}


def table(layers: int, top_k: int) -> np.ndarray:
    """A sensitivity matrix that falls with k, as Algorithm 1 gives it."""
    return np.sort(np.random.default_rng(0).random((layers, top_k)) + 1, axis=1)[:, ::-1]


class AllocL:
    """The exact programme on the paper's three shapes, at half the budget."""

    params = list(SHAPES)
    param_names = ["shape"]

    def setup(self, shape: str) -> None:
        layers, top_k, self.budget = SHAPES[shape]
        self.table = table(layers, top_k)

    def time_alloc_l(self, shape: str) -> None:
        alloc_l(self.table, self.budget)

    def peakmem_alloc_l(self, shape: str) -> None:
        alloc_l(self.table, self.budget)

    def time_lexi(self, shape: str) -> None:
        lexi(self.table, self.budget, 0)


class TokenRules:
    """A layer's router at K = 8, k = 4, after the model's own top-k: in one call, and as the torch reference."""

    params = [list(RULES), ["fused", "torch"], [8, 256, 4096], [64, 256]]
    param_names = ["rule", "form", "tokens", "experts"]

    def setup(self, rule: str, form: str, tokens: int, experts: int) -> None:
        torch.set_num_threads(1)
        self.logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(0))
        self.weights, self.ids = self.logits.softmax(-1).topk(8)
        own = RULES[rule].keep_all(8, experts)
        numbers = {"k": 4.0, **{n: torch.tensor(v) if isinstance(v, list | tuple) else v for n, v in own.items()}}
        numbers |= {n: v for n, v in {"refill_tokens": 64, "experts": experts // 3}.items() if n in numbers}
        fused = fused_on(torch.device("cpu")) if form == "fused" else None
        if form == "fused" and fused is None:
            raise NotImplementedError("numba is not installed")
        self.layer = PlannedLayer(RULES[rule], numbers, 8, -1, fused=fused)
        self.time_route()

    def time_route(self, *_: object) -> None:
        self.layer(self.weights, self.ids, None, self.logits)


class Plans:
    """A plan file, written and read back."""

    def setup(self) -> None:
        folder = mini.resolve("mini-olmoe")
        spec = MoESpec.from_folder(folder)
        self.plan = methods.allocate("alloc-t", spec, "0" * 16, spec.original_budget // 2)
        self.path = Path(tempfile.mkdtemp(prefix="allocmoe-plan-")) / "plan.json"
        self.plan.save(self.path)

    def teardown(self) -> None:
        self.path.unlink()
        self.path.parent.rmdir()

    def time_load(self) -> None:
        Plan.load(self.path)

    def time_save(self) -> None:
        self.plan.save(self.path)


class Profiler:
    """Algorithm 1 on the embedded model: two windows."""

    timeout = 600

    def setup(self) -> None:
        from allocmoe.data.text import windows
        from allocmoe.engines.hf import HFEngine

        torch.set_num_threads(1)
        self.engine = HFEngine.load(mini.resolve("mini-olmoe"))
        self.text = windows(self.engine.tokenizer, "mini-train", 2, 256)

    def time_profile(self) -> None:
        from allocmoe.profile import algorithm1

        algorithm1.fast(self.engine, self.text, 2, progress=False)

    def peakmem_profile(self) -> None:
        self.time_profile()


class Start:
    """From the shell to the help text: no verb may import what it does not need."""

    def time_help(self) -> None:
        subprocess.run([sys.executable, "-m", "allocmoe.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
