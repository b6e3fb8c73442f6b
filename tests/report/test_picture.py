"""The picture: every point of the coloured methods lies where its record says, and equal records give equal bytes."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from allocmoe.errors import AllocMoEError
from allocmoe.report import picture
from allocmoe.report.prose import Sources
from tests.report.made import BUDGETS, WHOLE
from tests.report.quoted import MODELS, ppl


def test_points_lie_where_the_records_say(sources: Sources) -> None:
    text = picture.picture(sources, "made")
    assert picture.picture(Sources(sources.folder), "made") == text
    tree = ElementTree.fromstring(text)
    panels = [group for group in tree.iter() if group.tag.endswith("}g")]
    assert len(panels) == len(MODELS)
    for model, panel in zip(MODELS, panels, strict=True):
        dots = [(float(d.get("cx", 0)), float(d.get("cy", 0))) for d in panel if d.tag.endswith("circle")]
        assert len(dots) == 4 * len(BUDGETS)
        # the focus is drawn last; two of its points fix the axes, the others must follow
        focus = dots[-4:]
        rises = [100 * (ppl(model, "alloc-moe", b) / ppl(model, "original", WHOLE) - 1) for b in BUDGETS]
        for place, unit in ((0, [b / WHOLE for b in BUDGETS]), (1, rises)):
            slope = (focus[3][place] - focus[0][place]) / (unit[3] - unit[0])
            for dot, value in zip(focus, unit, strict=True):
                assert dot[place] == pytest.approx(focus[0][place] + slope * (value - unit[0]), abs=0.2)
            assert slope < 0  # fewer activations to the right, a larger loss further up


def test_it_names_what_it_shows(sources: Sources) -> None:
    words = re.findall(r"<text[^>]*>([^<]*)<", picture.picture(sources, "made"))
    assert {*MODELS, "Alloc-MoE", "uniform", "100%", "50%"} <= set(words)
    assert "other methods" not in words


def test_what_spends_more_is_not_drawn(sources: Sources) -> None:
    text = picture.picture(sources, "pruned")
    assert "other methods" not in text
    assert text.count("<circle") == 2


def test_without_quality_there_is_no_picture(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AllocMoEError, match="timed holds no quality to draw"):
        picture.picture(sources, "timed")
    place = ["--out", str(tmp_path / "a.svg"), "--reports", str(sources.folder), "--records"]
    assert picture.main([*place, "timed"]) == 2
    assert capsys.readouterr().err.startswith("error: timed holds no quality")
    assert picture.main([*place, "made"]) == 0
    assert (tmp_path / "a.svg").read_text("utf-8") == picture.picture(sources, "made")
