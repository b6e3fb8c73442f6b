"""The gate as tests, one per row; nothing happens without its options.

    pytest --allocmoe-baseline=reports/baselines/cpu.jsonl --allocmoe-records=new.jsonl

With `=`, since pytest looks for its root among the words that do not begin with a dash.

A row that regressed is a failure. A row that could not be measured fails too, but if nothing else
failed, pytest ends with status 2 instead of 1, as `allocmoe gate` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = "allocmoe-gate"
MARK = ("allocmoe", "could not measure")
OPTIONS = ("baseline", "records", "floors", "margin", "across-machines")


class GateError(Exception):
    """A row that did not pass; its message is all there is to show."""


class GateRoot(pytest.Collector):
    """Parent of the rows, so that they are named `allocmoe-gate::...`."""

    def collect(self) -> list[pytest.Item]:
        return []


class GateItem(pytest.Item):
    """One row of the gate; `verdict` "" and "new" are skipped."""

    def __init__(self, *, verdict: str, message: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.verdict, self.message = verdict, message
        if verdict == MARK[1]:
            self.user_properties.append(MARK)

    def runtest(self) -> None:
        if self.verdict in ("", "new"):
            pytest.skip(self.message)
        if self.verdict != "pass":
            raise GateError(self.message)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, GateError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.nodeid


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("allocmoe", "regression gate of allocmoe records")
    group.addoption("--allocmoe-baseline", type=Path, metavar="FILE", help="Records of the baseline.")
    group.addoption("--allocmoe-records", type=Path, metavar="FILE", help="Records of this commit.")
    group.addoption("--allocmoe-floors", type=Path, metavar="FILE", help="Absolute limits of rows.")
    group.addoption(
        "--allocmoe-margin", action="append", metavar="METRIC=PERCENT", help="What a worsening may be; repeat."
    )
    group.addoption("--allocmoe-across-machines", action="store_true", help="Compare quality of two machines.")


def pytest_configure(config: pytest.Config) -> None:
    old, new, *others = (config.getoption(f"--allocmoe-{name}") for name in OPTIONS)
    if (old is None) != (new is None) or (any(others) and old is None):
        raise pytest.UsageError("the gate needs both --allocmoe-baseline FILE and --allocmoe-records FILE")
    if old is not None:
        config.pluginmanager.register(Status(), "allocmoe-gate-status")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--allocmoe-baseline") is None:
        return
    root = GateRoot.from_parent(session, name=ROOT, nodeid=ROOT)
    items += [
        GateItem.from_parent(root, name=name, verdict=verdict, message=message)
        for name, verdict, message in _rows(config)
    ]


def _rows(config: pytest.Config) -> Iterator[tuple[str, str, str]]:
    """Name, verdict and message of every row; where there is no gate at all, of one that says so."""
    from allocmoe import records
    from allocmoe.errors import AllocMoEError
    from allocmoe.gate import compare, load_floors, read_margins, show

    old, new, floors, margins, across = (config.getoption(f"--allocmoe-{name}") for name in OPTIONS)
    try:
        limits = load_floors(floors) if floors else {}
        gate = compare(records.load(new), records.load(old), read_margins(margins or []), limits, across)
    except AllocMoEError as error:
        yield "records", MARK[1], f"{MARK[1]}: {error}"
        return
    except Exception as error:  # of records that no one foresaw: still no pass, and no broken pytest
        yield "records", MARK[1], f"{MARK[1]}: {type(error).__name__}: {error}"
        return
    for row in gate.rows:
        yield row.name, row.verdict, show.line(row)
    if gate.code == 2 and all(row.verdict != MARK[1] for row in gate.rows):
        yield "records", MARK[1], f"{MARK[1]}: no row was compared"


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    return ("failed", "U", "COULD NOT MEASURE") if _unmeasured(report) else None


def _unmeasured(report: pytest.TestReport) -> bool:
    return report.failed and MARK in map(tuple, getattr(report, "user_properties", ()))


class Status:
    """Turns the exit status 1 into 2 where all that failed could not be measured."""

    def __init__(self) -> None:
        self.unmeasured = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.unmeasured += _unmeasured(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.TESTS_FAILED and self.unmeasured == session.testsfailed:
            session.exitstatus = 2
