"""The paper's own numbers, to stand beside measured ones and marked as theirs. Never a result of this project.

Accuracies are means over its three groups of tasks, in %. The models are named by their routing shape (L, K).
"""

from __future__ import annotations

from collections.abc import Mapping

Shape = tuple[int, int]
DEEPSEEK, QWEN, OLMOE = (26, 6), (24, 4), (16, 8)
MODELS: Mapping[Shape, str] = {DEEPSEEK: "DeepSeek-V2-Lite", QWEN: "Qwen1.5-MoE-A2.7B", OLMOE: "OLMoE-1B-7B-0924"}
BUDGETS: Mapping[Shape, tuple[int, ...]] = {
    DEEPSEEK: (52, 78, 104, 130),
    QWEN: (48, 60, 72, 84),
    OLMOE: (64, 80, 96, 112),
}

K_BASE: Mapping[Shape, Mapping[str, tuple[float, ...]]] = {
    DEEPSEEK: {
        "0": (42.68, 45.36, 45.99, 46.09),
        "1": (42.83, 45.42, 45.93, 46.30),
        "2": (41.13, 45.02, 45.83, 46.17),
        "3": (41.13, 43.77, 45.84, 46.08),
        "4": (41.13, 43.77, 45.52, 45.80),
        "5": (41.13, 43.77, 45.52, 45.97),
    },
    QWEN: {
        "0": (46.87, 47.86, 48.06, 48.63),
        "1": (46.89, 47.84, 48.23, 48.66),
        "2": (46.00, 47.93, 48.33, 48.69),
        "3": (46.00, 47.90, 48.25, 48.48),
    },
    OLMOE: {
        "0": (37.27, 38.47, 39.14, 39.55),
        "1": (37.38, 38.50, 39.09, 39.61),
        "2": (37.39, 38.49, 39.16, 39.55),
        "3": (37.53, 38.56, 39.05, 39.51),
        "4": (36.77, 38.56, 39.04, 39.49),
        "5": (36.77, 37.97, 38.96, 39.61),
        "6": (36.77, 37.97, 39.11, 39.54),
        "7": (36.77, 37.97, 39.11, 39.47),
    },
}
"""Tables 2, 5 and 6: k_base -> accuracy at each budget of BUDGETS."""

ABLATION: Mapping[Shape, Mapping[str, tuple[float, ...]]] = {
    DEEPSEEK: {
        "uniform": (41.27, 43.90, 45.51, 46.06),
        "alloc-l": (41.53, 44.61, 45.76, 46.47),
        "alloc-t": (42.83, 45.42, 45.93, 46.30),
        "alloc-moe": (43.09, 45.48, 46.01, 46.17),
    },
    QWEN: {
        "uniform": (46.07, 47.35, 48.18, 48.10),
        "alloc-l": (46.11, 47.78, 48.33, 48.59),
        "alloc-t": (46.89, 47.84, 48.19, 48.66),
        "alloc-moe": (46.96, 47.54, 48.19, 48.63),
    },
    OLMOE: {
        "uniform": (36.70, 37.83, 38.93, 39.30),
        "alloc-l": (37.08, 38.21, 39.09, 39.35),
        "alloc-t": (37.38, 38.50, 39.06, 39.61),
        "alloc-moe": (37.53, 38.59, 39.27, 39.53),
    },
}
"""Tables 4, 7 and 8: method -> accuracy at each budget. Of other layer and token rules the paper has figures alone."""

CALIBRATION: Mapping[Shape, Mapping[str, tuple[float, ...]]] = {
    DEEPSEEK: {
        "WikiText2": (41.53, 44.61, 45.76, 46.47),
        "C4": (41.56, 45.05, 45.83, 45.94),
        "Pile": (42.55, 45.05, 45.29, 45.84),
    },
}
"""Table 3: calibration text of Alloc-L -> accuracy at each budget."""

AVERAGES: Mapping[str, Mapping[Shape, tuple[float, ...]]] = {
    "k_base": {
        DEEPSEEK: (45.03, 45.12, 44.54, 44.21, 44.06, 44.10),
        QWEN: (47.86, 47.91, 47.74, 47.66),
        OLMOE: (38.61, 38.65, 38.65, 38.66, 38.47, 38.33, 38.35, 38.33),
    },
    "ablation": {
        DEEPSEEK: (44.19, 44.59, 45.12, 45.19),
        QWEN: (47.43, 47.70, 47.90, 47.83),
        OLMOE: (38.19, 38.43, 38.64, 38.73),
    },
    "calibration": {DEEPSEEK: (44.59, 44.60, 44.68)},
}
"""The last column of each table, in the order of its rows: what a slip of the pen above would contradict."""

TABLES = {"k_base": K_BASE, "ablation": ABLATION, "calibration": CALIBRATION}

LOAD = {"spearman": "0.93 to 0.99", "entropy_change": "lower by 0.003 to 0.035", "divergence": "below 0.014"}
"""Figure 8: Alloc-MoE on DeepSeek-V2-Lite at 78, over its layers."""

CORRELATION = "above 0.7"
"""Section 4.5: of experts kept with routing entropy, Alloc-T on DeepSeek-V2-Lite."""

SPEEDUPS = {"prefill": 1.15, "decode": 1.34}
"""Section 4.2: Alloc-MoE on DeepSeek-V2-Lite at half of the activations, batch 8, one H100."""


def accuracy(table: str, shape: Shape, row: str, budget: int) -> float | None:
    """The paper's accuracy in % at a place of one of its TABLES; None where it has none."""
    values = TABLES.get(table, {}).get(shape, {}).get(row)
    if values is None or budget not in BUDGETS[shape]:
        return None
    return values[BUDGETS[shape].index(budget)]
