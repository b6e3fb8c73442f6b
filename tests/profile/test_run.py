"""Profiles between runs: what is there is kept, what is missing is measured, and an interruption loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from allocmoe.data.text import Windows
from allocmoe.errors import AllocMoEError
from allocmoe.profile.quantities import QUANTITIES, Quantity, Setting
from allocmoe.profile.run import kept
from allocmoe.profile.sensitivity import Sensitivity
from tests.conftest import tiny

FIRST, OTHER = (
    Windows(torch.randint(1, 96, (4, 12), generator=torch.Generator().manual_seed(seed)), "random") for seed in (0, 1)
)


def measured(path: Path, text: Windows, *names: str) -> Sensitivity:
    return kept(tiny("olmoe"), text, 2, path, quantities=names, progress=False)


def test_what_is_there_is_kept_and_the_rest_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    first = measured(path, FIRST, "distances")
    both = measured(path, FIRST, "soft_counts")
    assert set(both.quantities) == {"distances", "soft_counts"}
    assert both.quantities["distances"] == first.quantities["distances"]
    assert Sensitivity.load(path).quantities.keys() == both.quantities.keys()


def test_naive_measures_anew_what_has_a_slow_way(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    first = measured(path, FIRST, "perplexity", "distances")
    other = {**first.quantities, "perplexity": [[2.0] * first.spec.top_k] * first.spec.layers}
    Sensitivity(first.spec, first.fingerprint, other, first.measured, first.calibration).save(path)
    again = kept(tiny("olmoe"), FIRST, 2, path, quantities=["perplexity", "distances"], naive=True, progress=False)
    for row, was in zip(again.quantities["perplexity"], first.quantities["perplexity"], strict=True):
        assert row == pytest.approx(was)
    assert again.quantities["distances"] == first.quantities["distances"]


def test_another_text_takes_the_place_of_the_old_profile_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, beside = tmp_path / "profile.json", tmp_path / "profile.json.new"
    measured(path, FIRST, "distances", "soft_counts")
    before = path.read_bytes()

    def interrupted(_: Setting) -> tuple[object, dict[str, object]]:
        raise KeyboardInterrupt

    own = QUANTITIES["soft_counts"]
    broken = Quantity(own.name, own.about, interrupted, own.shapes)  # type: ignore[arg-type]
    monkeypatch.setitem(QUANTITIES, "soft_counts", broken)
    with pytest.raises(KeyboardInterrupt):
        measured(path, OTHER, "distances", "soft_counts")
    assert path.read_bytes() == before
    assert set(Sensitivity.load(beside).quantities) == {"distances"}

    monkeypatch.setitem(QUANTITIES, "soft_counts", own)
    found = measured(path, OTHER, "distances", "soft_counts")
    assert set(Sensitivity.load(path).quantities) == set(found.quantities) == {"distances", "soft_counts"}
    assert Sensitivity.load(path).calibration["digest"] == OTHER.describe()["digest"]
    assert not beside.exists()


def test_another_models_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    measured(path, FIRST, "distances")
    with pytest.raises(AllocMoEError, match="another model"):
        kept(tiny("qwen2_moe"), FIRST, 2, path, quantities=["distances"], progress=False)
