"""Plan files: what is written comes back, and nothing else gets in."""

from __future__ import annotations

import copy
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allocmoe import documents
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
from allocmoe.spec import MoESpec

SPEC = MoESpec("olmoe", 4, 16, 8, "softmax", False, 0, 0)
FINGERPRINT = "0123456789abcdef"


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "method": "alloc-l",
        "budget": 14,
        "layers": (5, 4, 3, 2),
        "top_k": 8,
        "token_rule": "top_k",
        "fingerprint": FINGERPRINT,
        "family": "olmoe",
        "experts": 16,
        "origin": {"normalize": "ratio"},
    }
    return Plan(**(values | changes))


PLANS = {
    "alloc-l": plan(),
    "alloc-t": plan(
        method="alloc-t", layers=(3.5,) * 4, token_rule="alloc_t", parameters={"k_base": 2}, reference="survivors"
    ),
    "dynamic-moe": plan(
        method="dynamic-moe", layers=(4, 3, 4, 3), token_rule="top_p", parameters={"threshold": (0.5, -1, 0.25, 2)}
    ),
    "naee": plan(
        method="naee", layers=(4, 3, 4, 3), token_rule="naee", parameters={"threshold": (0.1, 0.2, 1 / 3, 2.0)}
    ),
}


OLD = Path(__file__).parent / "goldens" / "plans"
VERSION_1 = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(OLD.glob("*.json"))}


def refused(path: Path, *says: str) -> None:
    with pytest.raises(AllocMoEError) as caught:
        Plan.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in says:
        assert word in message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"


@pytest.mark.parametrize("name", VERSION_1)
def test_files_of_version_1_mean_what_they_meant(name: str) -> None:
    """The digest is that of every record that was made with them; `tests/goldens` pins it."""
    old, found = VERSION_1[name], Plan.load(OLD / f"{name}.json")
    pinned = json.loads((OLD.parent / "pinned.json").read_text("utf-8"))["plans"]
    assert found.digest == pinned[f"mini-olmoe/{name}/80"]["digest"]
    assert list(found.layers) == old["layers"]
    assert list(found.parameters.get("threshold", ())) == old["thresholds"]
    assert found.parameters.get("k_base", 1) == old["k_base"]
    assert (found.reference, found.origin, found.fingerprint) == (old["reference"], old["origin"], old["fingerprint"])
    assert Plan.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("name", PLANS)
def test_round_trip(name: str, path: Path) -> None:
    PLANS[name].save(path)
    assert Plan.load(path) == PLANS[name]
    assert Plan.load(path).digest == PLANS[name].digest
    assert os.listdir(path.parent) == [path.name]
    Plan.load(path).check_model(SPEC, FINGERPRINT)


def test_saving_makes_the_folder_and_an_ordinary_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "plan.json"
    plan().save(path)
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert path.read_text().endswith("}\n")


def test_digest_follows_what_an_engine_computes_and_nothing_else() -> None:
    same = plan(origin={"normalize": "raw", "seed": 3})
    assert plan().digest == same.digest
    others = [
        plan(layers=(5, 4, 2, 3)),
        plan(layers=(3.5,) * 4, token_rule="alloc_t", parameters={"k_base": 3}),
        plan(reference="survivors"),
        plan(fingerprint="f" * 16),
        plan(budget=15),
        *PLANS.values(),
    ]
    assert len({p.digest for p in others}) == len(others)


def test_exact_budget_may_stay_below_the_budget() -> None:
    assert plan(budget=20).exact_budget == 14
    assert plan(
        layers=(100 / 24,) * 24, budget=100, token_rule="alloc_t", parameters={"k_base": 1}
    ).exact_budget == pytest.approx(100)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "k too small": ({"layers": [5, 4, 3, 0]}, "layer 3 of the plan has k = 0, outside 1..8"),
    "k too large": ({"layers": [9, 1, 1, 1]}, "layer 0 of the plan has k = 9, outside 1..8"),
    "k a fraction": ({"layers": [3.5, 3.5, 3.5, 3.5]}, "whole"),
    "over budget": ({"budget": 13}, "add up to 14, over its budget of 13"),
    "unknown token rule": ({"token_rule": "top_z"}, "unknown token rule 'top_z'"),
    "unknown reference": ({"reference": "both"}, "unknown reference 'both'"),
    "newer": ({"version": 3}, "version 3, this program reads up to 2: upgrade"),
    "version zero": ({"version": 0}, "version"),
    "another kind": ({"kind": "allocmoe.record"}, "'allocmoe.record', expected a document of kind 'allocmoe.plan'"),
    "missing thresholds": ({"token_rule": "top_p"}, "top_p needs one value of threshold per layer: 4, got 0"),
    "few thresholds": (
        {"token_rule": "naee", "parameters": {"threshold": [0.1]}},
        "naee needs one value of threshold per layer: 4, got 1",
    ),
    "negative k_base": ({"token_rule": "alloc_t", "parameters": {"k_base": -1}}, "k_base must not be negative"),
    "few factors": ({"scale": [1.0]}, "needs one value of scale per layer: 4, got 1"),
    "a factor of nothing": ({"scale": [1.0, 0.0, 1.0, 1.0]}, "scale must not be below 0.001, got 0.0"),
    "no layers": ({"layers": []}, "layers"),
    "layers of text": ({"layers": ["5", "4", "3", "2"]}, "layers.0"),
    "unknown field": ({"layer_budgets": []}, "layer_budgets"),
    "budget of text": ({"budget": "14"}, "budget"),
    "a float for a count": ({"top_k": 8.0}, "top_k must be a whole number, got 8.0"),
    "beyond all sums": ({"top_k": 1e308, "budget": 1e308, "layers": [1e308] * 4}, "must be a whole number"),
    "true for a number": ({"budget": True}, "budget"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_wrong_value_is_refused_in_one_line(name: str, path: Path) -> None:
    change, says = CHANGES[name]
    path.write_text(json.dumps(plan().to_dict() | change))
    refused(path, says)


@pytest.mark.parametrize("field", plan().to_dict())
def test_a_missing_field_is_refused(field: str, path: Path) -> None:
    path.write_text(json.dumps({k: v for k, v in plan().to_dict().items() if k != field}))
    refused(path, field if field != "kind" else "expected a document of kind")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400, "1" * 9999])
@pytest.mark.parametrize("field", ["layers", "parameters", "budget", "top_k", "experts", "origin"])
def test_what_is_not_a_finite_number_is_refused(field: str, number: str, path: Path) -> None:
    value = {"layers": ["@", 4, 3, 2], "parameters": {"threshold": ["@", 0, 0, 0]}, "origin": {"a": "@"}}.get(
        field, "@"
    )
    path.write_text(json.dumps(PLANS["naee"].to_dict() | {field: value}).replace('"@"', number))
    refused(path)


def test_every_cut_off_file_is_refused(path: Path) -> None:
    plan().save(path)
    whole = path.read_bytes()
    for size in range(len(whole) - 2):  # the last two bytes are the closing brace and the line end
        path.write_bytes(whole[:size])
        refused(path, "not a whole JSON document")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[1, 2]", "list"),
        (b"null", "NoneType"),
        (b"", "not a whole JSON document"),
        (b"[" * 100_000, "JSON document"),
        (b'{"a":' * 100_000, "JSON document"),
    ],
)
def test_what_is_no_plan_at_all_is_refused(data: bytes, says: str, path: Path) -> None:
    path.write_bytes(data)
    refused(path, says)


def test_unreadable_paths(tmp_path: Path, path: Path) -> None:
    refused(path, "No such file")
    refused(tmp_path, "directory")
    path.write_text("{}")
    refused(path / "below a file.json", "cannot read the plan")


def test_no_permission_to_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan().save(path)

    def denied(*_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    refused(path, "Permission denied")


@pytest.mark.parametrize(
    ("spec", "fingerprint", "what"),
    [
        (replace(SPEC, layers=5), FINGERPRINT, "its MoE layers 4, the model's 5"),
        (replace(SPEC, family="qwen2_moe"), FINGERPRINT, "family olmoe"),
        (replace(SPEC, experts=64), FINGERPRINT, "experts 16"),
        (replace(SPEC, top_k=6), FINGERPRINT, "top-k 8"),
        (SPEC, "f" * 16, "weights 0123456789abcdef"),
    ],
)
def test_another_model_is_refused(spec: MoESpec, fingerprint: str, what: str) -> None:
    with pytest.raises(AllocMoEError, match="for another model") as caught:
        plan().check_model(spec, fingerprint)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"layers": (5, 4, 3, float("nan"))}, {"parameters": {"threshold": (float("nan"),) * 4}, "token_rule": "top_p"}],
)
def test_nan_is_refused_before_it_is_written(change: dict[str, Any]) -> None:
    with pytest.raises(AllocMoEError):
        plan(**change)


def test_a_figure_that_is_not_a_number_is_not_written(path: Path) -> None:
    with pytest.raises(AllocMoEError, match="not a number"):
        documents.write_atomic(path, documents.dump(plan(origin={"loss": float("nan")}).to_dict()))
    assert not path.exists()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**53, 2**64, 10**30, 10**400, -(10**400), 1e300, 1e308])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["x" * 100_000, "7" * 100_000, ["y" * 100_000]])
    | st.sampled_from(["top_k", "alloc_t", "top_p", "naee", "allocmoe.plan", "survivors"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid plan with fields replaced, dropped or added, or its bytes changed."""
    document = copy.deepcopy(draw(st.sampled_from([*(p.to_dict() for p in PLANS.values()), *VERSION_1.values()])))
    for _ in range(draw(st.integers(0, 3))):
        field = draw(st.sampled_from([*document, "extra"]))
        match draw(st.sampled_from(["value", "numbers", "drop", "item"])):
            case "value":
                document[field] = draw(VALUES)
            case "numbers":
                document[field] = draw(st.lists(st.integers(-1, 10**400) | st.floats(), max_size=6))
            case "drop":
                document.pop(field, None)
            case "item" if isinstance(document.get(field), list) and document[field]:
                document[field][draw(st.integers(0, len(document[field]) - 1))] = draw(VALUES)
    data = bytearray(json.dumps(document).encode())
    if draw(st.booleans()):
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(data)))
            data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3) | st.sampled_from([b"9", b"e9", b"-"]))
    return bytes(data)


@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutated())
def test_no_mutation_of_a_plan_raises_anything_else(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        found = Plan.load(path)
    except AllocMoEError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 1000  # noqa: PT017
        return
    # what was let in is a plan: it can be hashed, compared with a model, written and read again
    assert len(found.digest) == 16
    assert 1 <= min(found.layers) <= max(found.layers) <= found.top_k
    assert found.exact_budget <= found.budget + 1e-6
    found.save(path)
    assert Plan.load(path) == found
