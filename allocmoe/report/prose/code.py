"""Code that a document quotes, as it stands in its file."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Iterator

from allocmoe.errors import AllocMoEError, shown
from allocmoe.report.prose.sources import Sources


def code(sources: Sources, path: str, *names: str) -> str:
    """Functions and values of a Python file beside the reports, as a block of code; TABLE.key is one row of a table."""
    try:
        text = (sources.folder.parent / path).read_text("utf-8")
        tree = ast.parse(text)
    except (OSError, SyntaxError) as error:
        raise AllocMoEError(f"cannot read the code {shown(path)}: {error}") from None
    places = {name: lines for node in tree.body for name, lines in _places(node)}
    if missing := [name for name in names if name not in places]:
        raise AllocMoEError(f"{path} has no {shown(', '.join(missing))}: expected some of {', '.join(places)}")
    lines = text.splitlines()
    parts = [textwrap.dedent("\n".join(lines[first - 1 : last])) for first, last in map(places.__getitem__, names)]
    return "\n".join([f"```python\n# {path}", "\n\n\n".join(parts), "```"])


def _places(node: ast.stmt) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names that a statement gives, with their first and last lines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name, (node.lineno, node.end_lineno or node.lineno)
    if isinstance(node, ast.Assign):
        for name in (target.id for target in node.targets if isinstance(target, ast.Name)):
            yield name, (node.lineno, node.end_lineno or node.lineno)
            if isinstance(node.value, ast.Dict):
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        yield f"{name}.{key.value}", (key.lineno, value.end_lineno or value.lineno)


CODE: dict[str, Callable[..., str]] = {"code": code}
