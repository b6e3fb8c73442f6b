"""The made sweep and its page, shared by the report's tests."""

from __future__ import annotations

import pytest

from allocmoe.records import Record
from allocmoe.report import page
from tests.report.made import sweep


@pytest.fixture(scope="package")
def records() -> list[Record]:
    return sweep()


@pytest.fixture(scope="package")
def text(records: list[Record]) -> str:
    return page.render(records, "Alloc-MoE on mini-olmoe")
