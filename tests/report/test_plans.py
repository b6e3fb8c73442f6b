"""Plans out of records: rebuilt with the same digest, or not at all."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from allocmoe.methods import allocate
from allocmoe.mini import resolve
from allocmoe.plan import Plan
from allocmoe.records import Record
from allocmoe.report import plans
from allocmoe.spec import MoESpec, fingerprint, read_config

NAMES = ("uniform", "ascending", "alloc-t", "oea", "xshare")
"""Of two layer rules and four token rules, with and without parameters, that need no profile."""
NEW = {"parameters", "reference", "family", "experts"}
"""What records did not hold before."""


def plan(name: str, **options: object) -> Plan:
    folder = resolve("mini-olmoe")
    spec = MoESpec.from_config(read_config(folder))
    return allocate(name, spec, fingerprint(folder), 64, **options)  # type: ignore[arg-type]


def record(of: Plan, model: str = "mini-olmoe", **details: object) -> Record:
    about = {"setup": {}, "metrics": {}, "environment": {}}
    return Record("quality", model, of.fingerprint, of.method, of.budget, of.digest,
                  details={**of.described(), **details}, **about)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_record_gives_its_plan_back(name: str, tmp_path: Path):
    made = plan(name)
    assert plans.rebuilt(record(made)) == made
    file = tmp_path / "plan.json"
    file.write_text(plans.document(record(made)) or "")
    assert Plan.load(file) == made


def test_norms_and_factors_come_back_too():
    made = replace(plan("alloc-t"), norms=((0.5, 2.0) * 32,) * 16, scale=(1.25,) * 16)
    assert plans.rebuilt(record(made)) == made


@pytest.mark.parametrize("name", NAMES)
def test_an_older_record_does_so_for_an_embedded_model_under_the_defaults(name: str):
    made = plan(name)
    old = record(made)
    old = replace(old, details={k: v for k, v in old.details.items() if k not in NEW})
    assert plans.rebuilt(old) == made
    assert plans.rebuilt(replace(old, model="own-olmoe")) is None


def test_another_models_record_gives_it_back_too_as_it_holds_everything():
    made = plan("alloc-t", k_base=2, reference="survivors")
    assert plans.rebuilt(record(made, model="own-olmoe")) == made
    old = record(made)
    old = replace(old, details={k: v for k, v in old.details.items() if k not in NEW})
    assert plans.rebuilt(old) is None, "two experts that every token keeps are not the default"


@pytest.mark.parametrize("changed", [
    {"layers": [3.0] * 16}, {"layers": [9.0] * 16}, {"token_rule": "gone"}, {"original_budget": 112},
    {"parameters": {"k_base": 0}}, {"transplanted": {}}, {"experts": "64"},
])  # fmt: skip
def test_what_is_not_the_plan_is_never_called_so(changed: dict[str, object]):
    made = plan("alloc-t")
    assert plans.rebuilt(record(made)) is not None
    assert plans.rebuilt(record(made, **changed)) is None
    assert plans.rebuilt(replace(record(made), plan="0" * 16)) is None
    assert plans.rebuilt(replace(record(made), plan=None)) is None
    assert plans.rebuilt(replace(record(made), details={})) is None


def test_the_lines_can_be_pasted():
    made = replace(record(plan("uniform")), model="my model; rm -rf ~")
    for line in (plans.command(made), plans.serve(made)):
        assert "my model; rm -rf ~" in shlex.split(line)
    assert "--profile" not in plans.command(made)
    assert 'print(resolve("mini-olmoe"))' in plans.serve(replace(made, model="mini-olmoe"))
    assert "--profile" in plans.command(replace(made, method="alloc-moe"))
    assert shlex.split(plans.serve(made))[-1] == '{"allocmoe": {"plan": "my-model--rm--rf---uniform-64.json"}}'
