"""Nothing that was pinned has moved."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.goldens import pinned

KNOWN: dict[str, Any] = json.loads((pinned.HERE / "pinned.json").read_text("utf-8"))


SEARCHED = [pytest.param(what, marks=pytest.mark.whole) for what in ("plans", "routing")]  # by LExI, for half a minute


@pytest.mark.parametrize("what", [*SEARCHED, "gates", "histories", "tables"])
def test_as_pinned(what: str) -> None:
    name = {"gates": "gate", "histories": "history", "tables": "report"}.get(what, what)
    found = json.loads(json.dumps(getattr(pinned, what)()))
    assert set(found) >= set(KNOWN[name])
    moved = {key: (found[key], value) for key, value in KNOWN[name].items() if found[key] != value}
    assert not moved
