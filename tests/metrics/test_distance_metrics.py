"""KL and flips: where a record has them, their comparison against a t test, and the gate where one side lacks them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from allocmoe import gate, metrics
from allocmoe.errors import AllocMoEError
from allocmoe.metrics import Measured
from allocmoe.records import Record
from tests.gate.measured import quality, row, verdicts

NAMES = ("kl", "flips")


def apart(seed: int) -> Record:
    record, rng = quality("uniform", 64, 0), np.random.default_rng(seed)
    each = {n: (np.random.default_rng(9).uniform(0.1, 0.2, 32) + rng.normal(0, 0.01, 32)).tolist() for n in NAMES}
    means = {n: float(np.mean(v)) for n, v in each.items()}
    return replace(record, samples=record.samples | each, metrics=record.metrics | means)


@pytest.mark.parametrize("name", NAMES)
def test_a_rise_is_told_in_its_unit_with_the_p_of_a_t_test(name: str):
    metric, new, old = metrics.get(name), apart(1), apart(2)
    shift = metric.compare([Measured(new)], [Measured(old)], 0.05)
    factor = {"kl": 1, "flips": 100}[name]
    assert metric.change(shift.estimate) == pytest.approx(factor * (new.metrics[name] - old.metrics[name]))
    test = scipy_stats.ttest_rel(new.samples[name], old.samples[name], alternative="greater")
    assert shift.p == pytest.approx(test.pvalue)
    assert metric.change(metric.limit(0.7)) == pytest.approx(0.7)


@pytest.mark.parametrize("name", NAMES)
def test_other_windows_are_refused(name: str):
    old = apart(1)
    new = replace(old, samples=old.samples | {"window_tokens": [9] * 32})
    with pytest.raises(AllocMoEError, match="different windows"):
        metrics.get(name).compare([Measured(new)], [Measured(old)], 0.05)


def test_records_without_them_gate_as_before():
    with_both, without = [apart(1)], [quality("uniform", 64, 0)]
    plain = gate.compare(without, without)
    assert {r.key.metric for r in plain.rows} == {"perplexity", "accuracy", "activations"}
    later = gate.compare(with_both, without)
    assert later.code == 0
    assert [row(later, f"mini/uniform/64/{n}").verdict for n in NAMES] == [gate.NEW, gate.NEW]
    lost = gate.compare(without, with_both)
    assert [row(lost, f"mini/uniform/64/{n}").verdict for n in NAMES] == [gate.UNMEASURED, gate.UNMEASURED]
    assert set(verdicts(gate.compare(with_both, with_both)).values()) == {gate.PASS}


def test_the_unchanged_models_zero_passes_against_itself():
    zero = replace(
        apart(1), samples=apart(1).samples | {n: [0.0] * 32 for n in NAMES}, metrics=dict.fromkeys(NAMES, 0.0)
    )
    found = gate.compare([zero], [zero], floors={"mini/uniform/64/kl": 0.0})
    assert [row(found, f"mini/uniform/64/{n}").verdict for n in NAMES] == [gate.PASS, gate.PASS]


def test_small_changes_of_kl_are_shown():
    new, old = apart(1), apart(1)
    new = replace(new, samples=new.samples | {"kl": [x + 0.0123 + 1e-5 * i for i, x in enumerate(new.samples["kl"])]})
    told = gate.show.line(row(gate.compare([new], [old]), "mini/uniform/64/kl"))
    assert "change +0.0125 nats [+0.0124, +0.0125]" in told
