"""Tables in documents: every one against plain arithmetic on small records."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import scipy.stats

from allocmoe import mini
from allocmoe.evaluate.tasks.table import PAPER
from allocmoe.methods import METHODS, label
from allocmoe.report.prose import Sources
from allocmoe.report.prose.marks import KINDS
from allocmoe.report.style import TIMES
from tests.report.made import BUDGETS, WHOLE
from tests.report.quoted import MODELS, NAMES, TASKS, least, mean, ppl, rows, timed, value, verdicts


def test_the_table_of_methods(sources: Sources) -> None:
    found = rows("methods", "", sources)[1:]
    assert [cells[0].strip("`") for cells in found] == list(METHODS)
    assert [cells[3] for cells in found] == [m.about for m in METHODS.values()]
    said = value("table", "caveats", sources)
    assert all(m.caveat in said and said.count(m.caveat) == 1 for m in METHODS.values() if m.caveat)


def test_the_table_of_two_engines(sources: Sources) -> None:
    head, *found = rows("engines", "engines", sources)
    assert head[-2:] == ["transformers, %", "vllm, %"]
    assert [cells[1:] for cells in found] == [
        ["uniform", "`boolq`", "4", "3", "75.0", "50.0"],
        ["uniform", "`truthfulqa_mc2`", "2", "1", "50.0", "50.5"],
    ]


def test_the_table_of_data_sets(sources: Sources) -> None:
    head, *found = rows("datasets", "", sources)
    assert head[0] == "data set"
    assert [cells[0].strip("`") for cells in found] == list(PAPER)
    assert found[list(PAPER).index("gsm8k")][1:] == ["math", "gsm8k", "exact_match", "5", "256", "0.0 %"]
    assert found[list(PAPER).index("mmlu")][2:] == ["57 tasks", "acc", "its own", "-", "25.0 %"]


def test_the_table_of_quality(sources: Sources) -> None:
    head, whole, *found = rows("quality", "made mini-qwen", sources)
    assert head == ["mini-qwen", *map(str, BUDGETS)]
    cell = f"{ppl('mini-qwen', 'original', WHOLE):.2f}, {100 * mean('mini-qwen', 'original', WHOLE):.1f}"
    assert whole == [f"unchanged ({WHOLE})", *[cell] * 4]
    wanted = [[f"{ppl('mini-qwen', m, b):.2f}, {100 * mean('mini-qwen', m, b):.1f}" for b in BUDGETS] for m in NAMES]
    assert [[c.replace("*", "") for c in cells[1:]] for cells in found] == wanted
    for column, budget in enumerate(BUDGETS, start=1):
        (best,) = [i for i, cells in enumerate(found) if cells[column].startswith("**")]
        assert NAMES[best] == least("mini-qwen", budget)


def test_what_spends_more_is_not_the_best_of_a_column(sources: Sources) -> None:
    found = {line[0]: line[1] for line in rows("quality", "pruned mini-olmoe", sources)[2:]}
    assert found == {
        "Alloc-L": "**12.00**, **50.0**",
        "Alloc-MoE": "14.00, **50.0**",
        label("reap"): "9.00, 50.0 \N{DAGGER}",
    }


def test_the_table_of_verdicts_counts_every_setting(sources: Sources) -> None:
    for other, *cells in rows("verdicts", "made alloc-moe", sources)[1:]:
        numbers = list(map(int, cells))
        assert sum(numbers[:3]) == sum(numbers[3:]) == 8
        words = [(m, v) for m in ("perplexity", "accuracy") for v in ("better", "~", "worse")]
        method = next((m for m in NAMES if label(m) == other), "original")
        assert numbers == [verdicts("alloc-moe", method, *pair) for pair in words]


def test_the_table_of_one_method_against_another(sources: Sources) -> None:
    head, *found = rows("against", "diverging alloc-moe alloc-t", sources)
    assert head == ["model", "budget", "KL, Alloc-T", "KL, Alloc-MoE", "difference", "perplexity", "accuracy"]
    assert [line[1] for line in found] == sorted((str(b) for b in BUDGETS), key=lambda b: -int(b))
    for line in found:
        theirs = 0.05 if line[1] != "16" else 0.04
        assert line[2:4] == [f"{theirs:.4f}", "0.0400"]
        difference = f"{0.04 - theirs:+.4f} ("
        assert line[4].startswith(f"**{difference}" if theirs > 0.04 else difference)
    shown = value("fig", "shown diverging alloc-moe alloc-t divergence better", sources)
    assert shown == str(len(BUDGETS) - 1)


def test_the_table_of_profiles(sources: Sources) -> None:
    _, *found = rows("profiles", "allocated", sources)
    assert found == [
        ["mini-olmoe", "algorithm 1", f"1.0{TIMES}", "0.0063 (16), 0.0125 (8)", "-"],
        ["mini-olmoe", "one pass", f"20.0{TIMES}", "**0.0030** (16), 0.0250 (worse) (8)", "1, 1"],
        ["mini-olmoe", "the mean", "-", "0.0188 (worse) (16), 0.0375 (worse) (8)", "0, 2"],
    ]


def test_the_table_of_distances(sources: Sources) -> None:
    head, whole, *found = rows("distances", "diverging mini-olmoe", sources)
    assert head == ["mini-olmoe", *map(str, BUDGETS)]
    assert whole[0] == f"unchanged ({WHOLE})"
    assert whole[1].startswith("0, ")
    cells = {line[0]: [cell.split(",")[0] for cell in line[1:]] for line in found}
    assert cells == {"Alloc-MoE": ["**0.040**"] * 4, "Alloc-T": ["0.050"] * 3 + ["**0.040**"]}


def test_the_table_of_answers_above_guessing(sources: Sources) -> None:
    """Wilson's intervals from scipy."""
    head, *found = rows("guessing", "asked few", sources)
    assert head == ["model", "data set", "items", "score", "guessing", "above"]
    for line, (task, right, items, chance, above) in zip(
        found, (("piqa", 60, 80, "50.0 %", "yes"), ("hellaswag", 20, 80, "25.0 %", "not shown"),
                ("bbh", 1, 4, "-", "-"), ("gsm8k", 0, 28, "0.0 %", "not shown")), strict=True,
    ):  # fmt: skip
        bounds = scipy.stats.binomtest(right, items).proportion_ci(method="wilson")
        score = f"{100 * right / items:.1f} % ({100 * bounds.low:.1f} to {100 * bounds.high:.1f})"
        assert line == ["mini-olmoe", f"`{task}`", str(items), score, chance, above]


def test_the_table_of_answers_is_the_difference_from_the_unchanged_model(sources: Sources) -> None:
    head, *found = rows("answers", "made mini-olmoe", sources)
    assert head == ["mini-olmoe", *map(str, BUDGETS)]
    for line in found:
        method = next(m for m in NAMES if label(m) == line[0])
        assert [cell.strip("*").split()[0].replace("-0.0", "0.0").replace("+0.0", "0.0") for cell in line[1:]] == [
            f"{100 * (mean('mini-olmoe', method, b) - mean('mini-olmoe', 'original', b)):+.1f}"
            .replace("-0.0", "0.0").replace("+0.0", "0.0") for b in BUDGETS
        ]  # fmt: skip


def test_the_curve_of_a_training(sources: Sources) -> None:
    _, *found = rows("curve", "distilled", sources)
    assert found == [["dense", "-", "0", "23.31"], ["distil", "5", "35,840", "33.08"]]


def test_the_table_of_copies(sources: Sources) -> None:
    _, *found = rows("copies", "copied", sources)
    gained = "-0.1250 (-6.4781 to +6.2281)"  # 12.706 standard errors of 1/2 either way: t of one degree of freedom
    assert found == [["mini-olmoe", "4 bits", "Alloc-L", "8", "0.2500", "0.1250", gained]]


def test_the_table_of_factors(sources: Sources) -> None:
    _, (*_, first, second) = rows("channels", "rescaled", sources)
    assert first == "**-0.1250 (-0.1250 to -0.1250)**"
    assert second == "0.0000 (0.0000 to 0.0000)"


def test_the_table_of_seeds(sources: Sources) -> None:
    places, names = " ".join(f"made/{m}" for m in MODELS), ("uniform", "alloc-t")
    for metric, change in (
        ("perplexity", lambda m, n, b: ppl(m, n, b) / ppl(m, "original", b) - 1),
        ("accuracy", lambda m, n, b: mean(m, n, b) - mean(m, "original", b)),
    ):
        found = rows("seeds", f"{metric} uniform,alloc-t {places}", sources)[1:]
        wanted = [
            [str(b), *(" / ".join(f"{100 * change(m, n, b):+.1f}" for m in MODELS) for n in names)] for b in BUDGETS
        ]
        assert [[c.replace("-0.0", "0.0").replace("+0.0", "0.0") for c in line] for line in wanted] == found


def test_the_table_of_tasks(sources: Sources) -> None:
    head, *found = rows("tasks", "tasked uniform 1/2", sources)
    assert head[2:] == ["mini-olmoe, 8", "mini-olmoe, 4"]
    assert [line[2] for line in found[:9]] == [f"{100 * v:.1f}" for v in TASKS.values()]
    assert found[9:] == [["mean of the groups", "", "50.0", "50.0"], ["perplexity", "", "13.00", "12.00"]]


def test_the_table_of_speed(sources: Sources) -> None:
    (found,) = rows("speed", "timed 1/2 alloc-l uniform", sources)[1:]
    assert (found[:2], found[4:]) == (["olmoe-wide", "Alloc-L"], ["-"])
    assert [c.split()[0] for c in found[2:4]] == [timed("alloc-l", 24, p, "uniform") for p in ("prefill", "decode")]


def test_the_tables_of_studies(sources: Sources) -> None:
    eighth = ["12.5"] * 5
    assert rows("gate", "1 0", sources)[1:] == [["10", "20", "3 %", "3 %", *eighth], ["40", "8", "3 %", "3 %", *eighth]]
    assert rows("faults", "", sources)[1:] == [
        ["one more", "1", "the faulty one"], ["none at all", "2", "0, not the faulty one alone"],
    ]  # fmt: skip
    found = rows("detectors", "", sources)
    assert found[0][0] == "commits: 10 / 20"
    assert found[1] == ["no change: wrong", "0.6 / 0.6", "", "", "", "0.6 / 0.6"]
    assert found[3] == ["3 %: missed", "25 / 25", "", "", "", "25 / 25"]
    first, second = rows("dense", "", sources)[1:]
    assert first == ["`mini-olmoe`", "3.74 M", "16 min, 7.57 M tokens",
                     f"{math.exp(1.25):.2f}", f"{math.exp(2.25):.2f}", "50.0"]  # fmt: skip
    assert [cell.split(": ")[1].split(TIMES)[0] for cell in second[3:5]] == ["0.90", "1.11"]


def test_the_table_of_training(sources: Sources) -> None:
    found = {line[0].strip("`"): line[2] for line in rows("training", "", sources)[1:]}
    for model in mini.shipped():
        lines = (mini.resolve(model) / "training-log.jsonl").read_text("utf-8").splitlines()
        assert found[model] == f"{max(json.loads(line)['step'] for line in lines):,}"


def test_code_is_quoted_as_it_stands(sources: Sources) -> None:
    found = value("table", "code some.py half TABLE.b", sources)
    assert found == '\n```python\n# some.py\ndef half(x):\n    return x / 2\n\n\n"b": 2,\n```\n'


def test_every_table_has_an_oracle() -> None:
    tested = "".join(path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("test_prose_*.py")))
    missing = [n for n in KINDS["table"] if not re.search(rf'rows\("{n}"|value\("table", "{n}\b', tested)]
    assert not missing
