"""The made sweep and its page, shared by the report's tests."""

from __future__ import annotations

import pytest

from allocmoe import records as stored
from allocmoe.records import Record
from allocmoe.report import page
from allocmoe.report.prose import Sources
from tests.report.made import sweep
from tests.report.quoted import CODE, FILES


@pytest.fixture(scope="package")
def records() -> list[Record]:
    return sweep()


@pytest.fixture(scope="package")
def text(records: list[Record]) -> str:
    return page.render(records, "Alloc-MoE on mini-olmoe")


@pytest.fixture(scope="package")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The records that `quoted` has, in a folder as a project has it."""
    folder = tmp_path_factory.mktemp("project") / "reports"
    for name, found in FILES.items():
        stored.append(folder / ("baselines" if name == "tasked" else "records") / f"{name}.jsonl", *found)
    (folder.parent / "some.py").write_text(CODE)
    return Sources(folder)
