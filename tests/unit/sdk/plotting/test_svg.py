"""A picture read back by an XML parser: each value is where its axis says, and names stay text."""

from __future__ import annotations

import itertools
import math
import re
import time

import pytest
from support.series import series_of, usual
from support.svg_curves import panels, parsed, texts

from sdk.errors import InvalidInput, NotFound
from sdk.plotting.curves import Curve, reduced
from sdk.plotting.picture import MOST_CURVES, PLOT_WIDTH
from sdk.plotting.plot import Plot
from sdk.plotting.svg import COLOURS, GREY
from sdk.schemas.series import Buckets, Series

HOSTILE = [
    "</text><script>alert(1)</script>",
    '"><image href="http://evil/x"/>',
    "&amp;]]>",
    "a\x00\x1b[31m\u202eb\ud800\ufffe",
]


def svg(*series: Series, **given: object) -> str:
    return Plot([Curve(f"sql@v{at}", one, **given) for at, one in enumerate(series, start=1)]).svg  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [2, 18, 400, 10_000])
def test_every_value_is_within_a_pixel_of_the_band(steps: int) -> None:
    series = usual(steps, spike=steps // 2)
    loss, rate, norm = panels(svg(series))
    assert [one.title for one in (loss, rate, norm)] == ["loss", "learning rate", "gradient norm"]
    for panel, name in ((loss, "loss"), (rate, "lr"), (norm, "grad_norm")):
        found = series.series[name]
        for step, value in zip(found.step, found.last, strict=True):
            # More steps than pixels share some.
            seen = panel.reaches if steps <= PLOT_WIDTH else panel.covers
            assert seen("band", panel.x(step), panel.y(value)), (name, step)


def test_a_spike_of_one_step_in_ten_thousand_is_as_tall_as_it_was() -> None:
    loss = panels(svg(usual(10_000, spike=7001)))[0]
    highest = min((y, x) for path in loss.paths["band"] for x, y in path)
    assert highest == (pytest.approx(loss.y(7.5), abs=1), pytest.approx(loss.x(7001), abs=1))
    assert loss.y(7.5) < loss.y(4) - 50


def test_held_out_rows_are_points_and_the_best_one_has_a_ring() -> None:
    series = usual(400)
    drawn = svg(series, best_step=160, kept=True)
    root = parsed(drawn)
    points = [part for part in root.iter() if part.get("class") == "point"]
    (ring,) = [part for part in root.iter() if part.get("class") == "best" and part.get("r")]
    loss = panels(drawn)[0]
    held_out = series.series["eval_loss"]
    assert [(float(point.get("cx", 0)), float(point.get("cy", 0))) for point in points] == [
        (pytest.approx(loss.x(step), abs=0.1), pytest.approx(loss.y(value), abs=0.1))
        for step, value in zip(held_out.step, held_out.mean, strict=True)
    ]
    assert (ring.get("cx"), ring.get("cy")) == (points[2].get("cx"), points[2].get("cy"))
    assert "ring: best held-out loss (step 160), which was kept" in " ".join(texts(drawn))


def test_a_line_stops_where_steps_are_missing() -> None:
    steps = [*range(1, 20), *range(60, 80)]
    loss = panels(svg(series_of(loss=[(step, 2 - step / 100) for step in steps])))[0]
    assert [len(path) for path in loss.paths["mean"]] == [19, 20]


def test_a_widely_spread_loss_is_logarithmic_unless_it_is_negative() -> None:
    wide = [(step, 1e4 * math.exp(-step)) for step in range(1, 12)]
    assert "loss, logarithmic" in texts(svg(series_of(loss=wide)))
    assert "loss" in texts(svg(series_of(loss=[*wide, (12, -1.0)])))


@pytest.mark.parametrize(
    "values",
    [[2.5], [0.0], [1e9] * 5, [-3.0, -7.0], [1.7e308, -1.7e308], [1.7976931348623157e308] * 2, [5e-324, 0.0], [1e-310, 1e-300],
     [5e-324, 1e308], [0.1, 0.1 + 1e-17], [1e9, 1e9 + 1]],
    ids=str,
)  # fmt: skip
def test_any_finite_values_can_be_drawn(values: list[float]) -> None:
    drawn = svg(series_of(loss=list(enumerate(values, start=1))))
    assert not re.search(r"\bnan\b|\binf\b", drawn)
    height = float(parsed(drawn).get("height", 0))
    for part in parsed(drawn).iter():
        for x, y in re.findall(r"(?:M|L)(\S+) ([\d.-]+)", part.get("d", "")):
            assert 0 <= float(x) <= 760, part.get("d")
            assert -1 <= float(y) <= height, part.get("d")
    labels = [text for text in texts(drawn) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", text)]
    assert all(len(label) <= 12 for label in labels)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_text(name: str) -> None:
    plain = Plot([Curve("a@v1", usual(20)), Curve("b@v1", usual(20))]).svg
    drawn = Plot([Curve(name, usual(20)), Curve("b@v1", usual(20))]).svg
    assert [part.tag for part in parsed(drawn).iter()] == [part.tag for part in parsed(plain).iter()]
    shown = "".join(c if c.isprintable() else "?" for c in name)
    assert shown in texts(drawn)
    assert drawn.encode()


def test_a_long_name_is_cut_and_keeps_its_version() -> None:
    drawn = Plot([Curve("team/" + "very-" * 30 + "long@v12", usual(20))]).svg
    (name,) = [text for text in texts(drawn) if text.endswith("long@v12")]
    assert (name[0], len(name)) == ("…", 40)


def test_a_picture_has_nothing_that_a_strict_policy_refuses_and_loads_nothing() -> None:
    drawn = svg(usual(50), usual(60), best_step=20)
    for part in parsed(drawn).iter():
        assert part.tag.rpartition("}")[2] in {"svg", "title", "g", "path", "circle", "text"}
        assert not {name for name in part.attrib if name == "style" or name.startswith("on") or "href" in name}
    assert drawn.count("http") == 1


@pytest.mark.parametrize("colour", [*COLOURS, GREY])
def test_colours_can_be_seen_on_white_and_on_dark(colour: str) -> None:
    assert min(_contrast(colour, "#ffffff"), _contrast(colour, "#121212")) >= 2.99


#: Machado, Oliveira and Fernandes (2009), severity 1: what each kind of colour blindness makes of linear RGB.
_SEEN = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


@pytest.mark.parametrize("kind", _SEEN)
def test_colours_are_told_apart_by_the_colour_blind(kind: str) -> None:
    for one, other in itertools.combinations(COLOURS, 2):
        assert math.dist(_oklab(one, _SEEN[kind]), _oklab(other, _SEEN[kind])) > 0.12, (one, other)


def _linear(colour: str) -> list[float]:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def _contrast(one: str, other: str) -> float:
    low, high = sorted(
        sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), _linear(c), strict=True)) for c in (one, other)
    )
    return (high + 0.05) / (low + 0.05)


def _oklab(colour: str, seen: tuple[tuple[float, ...], ...]) -> list[float]:
    rgb = (
        [max(0.0, math.sumprod(row, _linear(colour))) for row in seen]
        if hasattr(math, "sumprod")
        else [max(0.0, sum(a * b for a, b in zip(row, _linear(colour), strict=True))) for row in seen]
    )
    lms = [sum(a * b for a, b in zip(row, rgb, strict=True)) ** (1 / 3) for row in (
        (0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566), (0.0883024619, 0.2817188376, 0.6299787005),
    )]  # fmt: skip
    return [sum(a * b for a, b in zip(row, lms, strict=True)) for row in (
        (0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099), (0.0259040371, 0.7827717662, -0.8086757660),
    )]  # fmt: skip


def test_the_mean_of_reduced_buckets_counts_every_step() -> None:
    series = usual(10_000).series["loss"]
    twice = reduced(reduced(series, 900), 60)
    assert sum(twice.count) == 10_000
    mean = math.fsum(series.mean) / 10_000
    assert math.fsum(m * c for m, c in zip(twice.mean, twice.count, strict=True)) / 10_000 == pytest.approx(mean)
    assert (min(twice.min), max(twice.max), twice.last[-1]) == (min(series.min), max(series.max), series.last[-1])


def test_older_steps_in_buckets_are_drawn_over_all_their_steps() -> None:
    old = Buckets(
        first=[1, 101], step=[100, 200], count=[100, 100], min=[1, 0.5], max=[4, 2], mean=[2, 1], last=[1.5, 0.7]
    )
    drawn = svg(Series(job=None, last_step=200, series={"loss": old}))
    (loss,) = panels(drawn)
    assert "line: mean of up to about 100 steps; band: all steps" in texts(drawn)
    ((*there, _, _),) = loss.paths["band"]
    assert [x for x, _ in there] == [pytest.approx(loss.x(50.5), abs=0.1), pytest.approx(loss.x(150.5), abs=0.1)]


@pytest.mark.parametrize("count", [0, MOST_CURVES + 1])
def test_no_curve_and_more_than_can_be_told_apart_are_refused(count: int) -> None:
    with pytest.raises(InvalidInput, match="at most 16 at once"):
        _ = Plot([Curve("a@v1", usual(5))] * count).svg


def test_a_curve_without_points_is_named() -> None:
    with pytest.raises(NotFound, match="b@v1 has no points to draw"):
        _ = Plot([Curve("a@v1", usual(5)), Curve("b@v1", series_of(tokens=[(1, 5.0)]))]).svg


def test_sixteen_long_trainings_are_drawn_within_seconds() -> None:
    series = usual(2_000)
    began = time.process_time()
    drawn = Plot([Curve(f"a@v{at}", series) for at in range(16)]).svg
    assert time.process_time() - began < 3
    assert len(drawn) < 1_500_000
