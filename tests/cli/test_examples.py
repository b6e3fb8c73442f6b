"""Every verb has help with an example, and the examples run, in the order in which they are declared."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from calls import MODEL, call, good
from calls import made as made

from allocmoe import cli
from allocmoe import demo as pipeline
from allocmoe.measure import shapes
from allocmoe.measure.protocol import Protocol
from allocmoe.plan import Plan
from allocmoe.tune import candidates, size, timing
from allocmoe.tune import run as tuning

pytestmark = pytest.mark.whole
SHORT = Protocol(batch=2, prompt=4, decode=2, warmups=0, runs=2)


def examples() -> dict[str, str]:
    """Verb -> the example of its help, in the order in which they are declared: each reads what one before wrote."""
    found = {}
    for command in cli.app.registered_commands:
        assert command.callback is not None
        said = re.search(r"Example: \[bold\]allocmoe (.*?)\[/bold\]", command.callback.__doc__ or "")
        assert said, f"the help of {command.callback.__name__} has no example"
        found[command.callback.__name__] = said[1]
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("verb", EXAMPLES)
def test_help_has_an_example(verb: str) -> None:
    shown = " ".join(re.sub(r"[│|]", " ", good(verb, "--help").out).split())
    assert f"Example: allocmoe {EXAMPLES[verb]}" in shown
    assert EXAMPLES[verb].split()[0] == verb


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.mark.whole
@pytest.mark.parametrize("verb", EXAMPLES)
def test_the_example_runs(verb: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if verb == "demo":  # as typed, but minutes shorter; its own test is elsewhere
        small = Protocol(batch=1, prompt=4, decode=2, warmups=0, runs=2)
        monkeypatch.setattr(
            pipeline, "QUICK", pipeline.Size(1, 2, 2, small, methods=("original", "uniform", "alloc-moe"))
        )
    if verb in ("demo", "tune"):  # as typed, but of less, and in this process
        monkeypatch.setattr(size, "SIZES", {0: size.Size(1, (8, 8, 8), SHORT, SHORT, rounds=1)})
        monkeypatch.setattr(tuning, "WINDOW", 16)
        monkeypatch.setattr(candidates, "TRIED", ("alloc-moe-refill", "uniform"))
        monkeypatch.setattr(pipeline, "TRIED", ("uniform",))
        monkeypatch.setattr(timing, "apart", lambda _what, start, *args: start(*args))
        for shape, make in (("olmoe-wide", shapes._olmoe), ("qwen-wide", shapes._qwen)):
            own = {"intermediate_size": 16} if "olmoe" in shape else {"moe_intermediate_size": 16}
            monkeypatch.setitem(shapes.SHAPES, shape, partial(make, **shapes._SMALL, **own))
    if verb == "measure":  # as typed, but of a smaller suite
        (workplace / "suite.json").write_text(json.dumps({
            "models": [MODEL], "timed": [["transformers", MODEL]], "methods": ["uniform", "alloc-moe"], "windows": 2,
            "items": 2, "protocol": {"batch": 1, "prompt": 4, "decode": 2, "warmups": 0, "runs": 2},
        }))  # fmt: skip
        monkeypatch.setenv("ALLOCMOE_SUITE", "suite.json")
    monkeypatch.chdir(workplace)
    result = call(*shlex.split(EXAMPLES[verb]))
    # one session of bench cannot show a speed; whether a wish is met is up to the machine
    assert result.code in {"gate": (2,), "tune": (0, 3)}.get(verb, (0,)), result.err
    assert result.out
    assert "Traceback" not in result.err
    for option in ("--out", "--records"):
        words = shlex.split(EXAMPLES[verb])
        if option in words:
            assert Path(words[words.index(option) + 1]).exists()


def test_no_verb_prints_the_help() -> None:
    result = call()
    assert result.code == 2
    assert result.err == ""
    assert all(verb in result.out for verb in EXAMPLES)


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", good("--version").out)


def test_allocate_starts_in_a_blink(made: Path, tmp_path: Path) -> None:
    """Nothing heavy is imported, not even for the method that reads a profile."""
    script = (
        "import sys\nfrom allocmoe.cli import main\nmain()\n"
        "print(*({'torch', 'transformers', 'lm_eval', 'scipy', 'pandas', 'plotly', 'vllm'} & set(sys.modules)))"
    )
    plan, profile = tmp_path / "plan.json", made / "profile.json"
    command = [sys.executable, "-c", script, "allocate", MODEL, "--profile", str(profile), "--out", str(plan)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert Plan.load(plan).method == "alloc-moe"
