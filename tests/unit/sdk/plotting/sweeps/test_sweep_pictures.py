"""A sweep's picture read back: each setting is where its axes say, in SVG by an XML parser, and on a terminal within its columns."""

from __future__ import annotations

import re
from itertools import pairwise, product
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.sweep_views import sweep_view

from sdk.errors import NotFound
from sdk.plotting.plot import SweepPlot
from sdk.plotting.sweeps.panels import SweepPicture, picture_of
from sdk.plotting.sweeps.settings import rows_of
from sdk.plotting.sweeps.terminal import rows_of as drawn
from sdk.schemas.sweeps import SweepRequest, SweepView

RANKS = (1, 2, 4, 8, 16)
SCORES = (1.5, 1.42, 1.36, 1.365, 1.40)


def ranks(**known: object) -> SweepView:
    return sweep_view([{"rank": rank} for rank in RANKS], SCORES, **known)  # type: ignore[arg-type]


def sampled(view: SweepView) -> SweepView:
    request = view.request.model_copy(update={"sample": "random", "trials": len(view.members)})
    return view.model_copy(update={"request": request})


def circles(svg: str, name: str) -> list[tuple[float, float]]:
    found = [part for part in ElementTree.fromstring(svg).iter() if part.get("class") == name and part.get("cx")]
    return [(float(part.attrib["cx"]), float(part.attrib["cy"])) for part in found]


def test_scores_are_in_the_first_panel_with_their_errors_and_costs_below() -> None:
    picture = picture_of(ranks(seeds=2))
    main, *others = picture.panels
    assert [mark.y for mark in main.marks] == list(SCORES)
    assert [(mark.low, mark.high) for mark in main.marks] == [(y - 0.01, y + 0.01) for y in SCORES]
    assert [mark.best for mark in main.marks] == [False, False, True, False, False]
    assert [panel.title for panel in others] == [
        "rouge_l",
        "size of the adapter, kB",
        "time to train, s",
        "memory at most, MB",
        "steps to the best look",
    ]
    assert [mark.y for mark in others[1].marks] == [100, 200, 400, 800, 1600]


def test_ranks_at_equal_ratios_are_at_equal_distances() -> None:
    picture = picture_of(ranks())
    places = [mark.x for mark in picture.panels[0].marks]
    assert [b - a for a, b in pairwise(places)] == pytest.approx([places[1] - places[0]] * 4)
    assert [label for _, label in picture.ticks] == ["1", "2", "4", "8", "16"]


def test_each_seed_is_a_point_of_its_own_where_there_are_several() -> None:
    assert len(circles(SweepPlot(ranks(seeds=3)).svg, "seed")) == 15
    assert circles(SweepPlot(ranks()).svg, "seed") == []


def test_the_best_has_a_ring_where_its_score_is() -> None:
    svg = SweepPlot(ranks()).svg
    rings = circles(svg, "best")
    # In each panel; that of the score comes first, and less is below.
    assert len(rings) == 6
    points = circles(svg, "point")[:5]
    assert rings[0] == points[2] == max(points, key=lambda at: at[1])


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_second_option_has_a_series_for_each_value(count: int) -> None:
    rates = [at * 1e-4 for at in range(1, count + 1)]
    settings = [{"rank": rank, "lr": lr} for rank, lr in product((1, 4, 16), rates)]
    picture = picture_of(sweep_view(settings, [1 + 0.01 * at for at in range(len(settings))]))
    assert picture.names == tuple(f"lr {lr:.4g}" for lr in rates)
    assert {mark.series for mark in picture.panels[0].marks} == set(range(count))


def test_many_values_of_a_second_option_are_four_ranges() -> None:
    settings = [{"rank": 1 + at % 16, "lr": 1e-4 * (1 + at)} for at in range(20)]
    picture = picture_of(sampled(sweep_view(settings, [1 + 0.01 * at for at in range(20)])))
    assert len(picture.names) == 4
    by_series = [[mark.y for mark in picture.panels[0].marks if mark.series == at] for at in range(4)]
    assert [len(series) for series in by_series] == [5, 5, 5, 5]
    assert 'class="line"' not in SweepPlot(sampled(sweep_view(settings, [1.0 + at for at in range(20)]))).svg


def test_settings_that_are_no_numbers_are_beside_each_other_by_name() -> None:
    settings = [{"schedule": name} for name in ("cosine", "linear", "wsd")]
    picture = picture_of(sweep_view(settings, [1.2, 1.1, 1.3]))
    assert [label for _, label in picture.ticks] == ["cosine", "linear", "wsd"]


def test_a_pruned_member_is_a_hollow_point_without_a_setting_s_mark() -> None:
    view = ranks()
    assert view.verdict is not None
    settings = [
        one.model_copy(update={"outcome": "pruned", "score": None, "standard_error": None}) if one.trial == 1 else one
        for one in view.verdict.settings
    ]
    members = [one.model_copy(update={"outcome": "pruned"}) if one.trial == 1 else one for one in view.members]
    verdict = view.verdict.model_copy(update={"settings": settings})
    plot = SweepPlot(view.model_copy(update={"verdict": verdict, "members": members}))
    assert len(circles(plot.svg, "pruned")) == 1
    assert "hollow points: stopped early" in plot.svg


def test_a_sweep_without_a_score_has_no_picture() -> None:
    view = ranks()
    members = [one.model_copy(update={"metrics": {}, "outcome": None, "state": "queued"}) for one in view.members]
    bare = view.model_copy(update={"members": members, "verdict": None})
    with pytest.raises(NotFound, match="has a score to draw yet"):
        SweepPlot(bare).checked()
    assert {row.outcome for row in rows_of(bare)} == {"queued"}


def test_names_and_values_stay_text_in_the_document() -> None:
    hostile = '</text><script>"&\x1b[31m\u202e'
    view = sweep_view([{"targets": "qv"}, {"targets": "attention"}], [1.0, 1.1])
    assert view.verdict is not None
    settings = [one.model_copy(update={"setting": {"targets": hostile}}) for one in view.verdict.settings[:1]]
    verdict = view.verdict.model_copy(update={"settings": [*settings, *view.verdict.settings[1:]]})
    view = view.model_copy(update={"adapter": hostile, "verdict": verdict})
    svg = SweepPlot(view).svg
    assert "script" not in {part.tag.rpartition("}")[2] for part in ElementTree.fromstring(svg).iter()}
    assert not re.search("[\x1b\u202e]", svg)


def test_a_png_has_the_same_picture_twice_as_large(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = SweepPlot(ranks(seeds=2)).save(tmp_path / "a.png")
    header = written.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20], "big") == 1520


def text_of(picture: SweepPicture, *, plain: bool, width: int = 80) -> list[str]:
    return ["".join(text for text, _ in row) for row in drawn(picture, width=width, plain=plain)]


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("plain", [True, False])
def test_a_terminal_s_picture_stays_within_its_columns(plain: bool, width: int) -> None:
    lines = text_of(picture_of(ranks(seeds=2)), plain=plain, width=width)
    axis, values = lines[:8], lines[8]
    assert all(len(line) <= width for line in [*axis, values])
    assert sum(line.count("@" if plain else "◆") for line in axis) == 1
    assert values.split() == ["1", "2", "4", "8", "16"]
    assert not plain or all(line.isascii() for line in lines)


def test_the_request_of_a_made_view_is_one_that_the_registry_takes() -> None:
    request = ranks().request
    assert SweepRequest.model_validate(request.model_dump()) == request
