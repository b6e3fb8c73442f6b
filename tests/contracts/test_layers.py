"""The arrows of the house: a room imports only from rooms before it, no import cycle, no file of two subjects."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "allocmoe"
ROOMS = (
    "errors", "documents", "stats", "spec", "routing", "plan", "allocation", "records", "metrics", "mini", "data",
    "engines", "profile", "methods", "evaluate", "measure", "gate", "history", "analyses", "report", "tune",
    "pytest_plugin", "demo", "cli",
)  # fmt: skip
"""Left to right: a room may import from those before it. `allocmoe` itself holds the version alone."""
LONGEST = 300


def module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, here: str) -> Iterator[str]:
    """Modules of this package that a file imports anywhere, but for type checking."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "allocmoe")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "allocmoe":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)
        yield from imported(node, here)


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module(path): path for path in FILES}
GRAPH = {name: set(imported(ast.parse(path.read_text("utf-8")), name)) - {name} for name, path in MODULES.items()}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_no_arrow_runs_back() -> None:
    rank = {name: i for i, name in enumerate(ROOMS)}
    known = {room(name) for name in MODULES} - {""}
    assert known <= set(ROOMS), "a new room needs its place"
    back = [
        f"{name} -> {other}"
        for name, others in GRAPH.items()
        for other in others
        if room(name) and room(other) and rank[room(other)] > rank[room(name)]
    ]
    assert not back


def test_no_import_cycle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: module(path))
def test_no_file_has_two_subjects(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("name", ["allocmoe.cli", "allocmoe.methods", "allocmoe.plan", "allocmoe.profile.sensitivity"])
def test_what_plans_needs_no_torch(name: str) -> None:
    """`allocmoe allocate --help` answers in a blink."""
    heavy = "torch", "transformers", "vllm", "lm_eval", "plotly", "pandas", "scipy"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {name}; print([m for m in {heavy} if m in sys.modules])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
