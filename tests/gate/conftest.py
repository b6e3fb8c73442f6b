"""Two quiet measurements of the same."""

from __future__ import annotations

import pytest
from measured import measured

from allocmoe.records import Record


@pytest.fixture(scope="module")
def old() -> list[Record]:
    return measured(0)


@pytest.fixture(scope="module")
def new() -> list[Record]:
    return measured(1)
