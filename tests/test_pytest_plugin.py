"""The gate as tests of pytest: names, reports and exit statuses, in a pytest of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "gate"))
from measured import measured, slower

from allocmoe import records
from allocmoe.records import Record

pytestmark = pytest.mark.whole

pytest_plugins = ["pytester"]

known = [e for e in entry_points(group="pytest11") if e.value == "allocmoe.pytest_plugin"]
LOAD = () if known else ("-p", "allocmoe.pytest_plugin")  # an installed one loads itself


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    made = {"old": measured(0), "new": measured(1), "slow": slower(measured(1), 1.1), "noisy": measured(1, 3, 0.1)}
    made["slow-missing"] = [r for r in made["slow"] if r.method != "alloc-moe"]
    for name, found in made.items():
        write(folder / f"{name}.jsonl", found)
    (folder / "garbled.jsonl").write_text("{")
    return folder


def write(path: Path, found: list[Record]) -> None:
    for record in found:
        records.append(path, record)


def run(pytester: pytest.Pytester, folder: Path, new: str, *more: str) -> pytest.RunResult:
    options = (f"--allocmoe-baseline={folder}/old.jsonl", f"--allocmoe-records={folder}/{new}.jsonl")
    return pytester.runpytest_subprocess(*LOAD, "-p", "no:cacheprovider", *options, *more)


def test_without_its_options_nothing_happens(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_one="def test_one(): pass")
    result = pytester.runpytest_subprocess(*LOAD)
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*allocmoe-gate*")


def test_rows_are_tests(pytester: pytest.Pytester, folder: Path) -> None:
    result = run(pytester, folder, "new", "-v")
    assert result.ret == 0
    result.assert_outcomes(passed=13, skipped=2)
    result.stdout.fnmatch_lines(["allocmoe-gate::mini/alloc-moe/64/perplexity PASSED*"])


def test_a_wide_margin_lets_a_slowdown_pass(pytester: pytest.Pytester, folder: Path) -> None:
    assert run(pytester, folder, "slow").ret == 1
    assert run(pytester, folder, "slow", "--allocmoe-margin=decode=20", "--allocmoe-margin=prefill=20").ret == 0


def test_a_margin_that_is_none_could_not_measure(pytester: pytest.Pytester, folder: Path) -> None:
    result = run(pytester, folder, "new", "--allocmoe-margin=decode")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*no margin 'decode': expected METRIC=NUMBER*"])


def test_another_machine_is_compared_only_if_asked(pytester: pytest.Pytester, folder: Path) -> None:
    elsewhere = [replace(r, environment={**r.environment, "processor": "another"}) for r in measured(1)]
    write(folder / "elsewhere.jsonl", elsewhere)
    assert run(pytester, folder, "elsewhere").ret == 2
    result = run(pytester, folder, "elsewhere", "--allocmoe-across-machines", "-v")
    result.stdout.fnmatch_lines(["allocmoe-gate::mini/alloc-moe/64/perplexity PASSED*"])


def test_a_row_that_regressed_fails(pytester: pytest.Pytester, folder: Path) -> None:
    result = run(pytester, folder, "slow", "-v")
    assert result.ret == 1
    result.assert_outcomes(passed=11, failed=2, skipped=2)
    result.stdout.fnmatch_lines(
        ["allocmoe-gate::mini/uniform/64/decode FAILED*", "mini/uniform/64/decode: regressed: 1.2*x -> 1.1*x, change*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_row_that_could_not_be_measured_ends_in_2(pytester: pytest.Pytester, folder: Path) -> None:
    result = run(pytester, folder, "noisy", "-v")
    assert result.ret == 2
    result.stdout.fnmatch_lines(
        ["allocmoe-gate::mini/uniform/64/decode COULD NOT MEASURE*", "mini/uniform/64/decode: could not measure: *"]
    )


def test_a_regression_or_a_failing_test_outweighs_it(pytester: pytest.Pytester, folder: Path) -> None:
    assert run(pytester, folder, "slow-missing").ret == 1
    pytester.makepyfile(test_one="def test_one(): assert False")
    assert run(pytester, folder, "noisy").ret == 1


@pytest.mark.parametrize("new", ["garbled", "nothing"])
def test_a_file_that_cannot_be_read_could_not_be_measured(pytester: pytest.Pytester, folder: Path, new: str) -> None:
    result = run(pytester, folder, new)
    assert result.ret == 2
    result.stdout.fnmatch_lines([f"could not measure: *{new}.jsonl*"])


def test_nothing_to_compare_is_no_pass(pytester: pytest.Pytester, folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    options = (f"--allocmoe-baseline={empty}", f"--allocmoe-records={folder}/new.jsonl")
    result = pytester.runpytest_subprocess(*LOAD, *options)
    assert result.ret == 2
    result.stdout.fnmatch_lines(["could not measure: no row was compared"])


def test_floors(pytester: pytest.Pytester, folder: Path) -> None:
    path = folder / "floors.json"
    document = {"kind": "allocmoe.floors", "version": 1, "rows": {"mini/uniform/64/decode": 1.5}}
    path.write_text(json.dumps(document))
    result = run(pytester, folder, "new", f"--allocmoe-floors={path}")
    assert result.ret == 1
    result.assert_outcomes(passed=12, failed=1, skipped=2)


def test_half_of_the_options_is_a_mistake(pytester: pytest.Pytester, folder: Path) -> None:
    result = pytester.runpytest_subprocess(*LOAD, f"--allocmoe-records={folder}/new.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*needs both --allocmoe-baseline FILE and --allocmoe-records FILE*"])


def test_the_plugin_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_one="import sys\ndef test_one(): assert not {'torch', 'numpy', 'scipy', 'typer'} & set(sys.modules)"
    )
    assert pytester.runpytest_subprocess(*LOAD).ret == 0
