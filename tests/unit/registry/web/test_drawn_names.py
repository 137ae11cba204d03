"""Names in pictures: they are other people's text, and stay text."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from support.points import points_of

from registry.series.blocks import Points
from registry.series.drawing import CurveName, DrawnTraining, drawing_of
from registry.web.curves.pictures import picture_of_drawing
from registry.web.rendering import environment
from registry.web.versions.heat_map import STEPS, heat_map
from registry.web.versions.lineage_map import Box, LineageMap, Way
from sdk.schemas.version_records import TrainingRecord

HOSTILE = ['"><script>alert(1)</script>', "a' onload='x", "{{7*7}}{%raw%}", "</svg><img src=x onerror=1>", "&lt;b&gt;"]


def texts(svg: str) -> set[str]:
    """All texts of a picture that is well-formed, without an element or attribute that runs."""
    root = ElementTree.fromstring(svg)
    for one in root.iter():
        assert one.tag.rpartition("}")[2] in {
            "svg",
            "g",
            "rect",
            "text",
            "title",
            "path",
            "a",
            "circle",
            "div",
            "p",
            "span",
            "code",
        }
        assert not any(name.startswith("on") or name == "style" for name in one.attrib)
    return {text for one in root.iter() if (text := (one.text or "").strip())}


def rendered(template: str, **shown: object) -> str:
    return environment().from_string(template).render(**shown)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_modules_are_text(name: str) -> None:
    heat = heat_map({f"layers.1.{name}": 1.0, f"layers.2.{name}": 2.0})
    text = '{% from "versions/heat_map.html" import heat_map %}<div>{{ heat_map(heat, 9, steps) }}</div>'
    found = texts(rendered(text, heat=heat, steps=STEPS))
    assert name in found
    assert f"{name}, layer 2: 2" in found


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_relatives_are_text(name: str) -> None:
    box = Box("k", name, name, name, 0, 0, "/ui/jobs/1")
    shown = LineageMap((box,), (Way("M0 0", name),), 10, 10, has_more=True)
    text = '{% from "versions/lineage_map.html" import lineage_map %}<div>{{ lineage_map(map, ref, box) }}</div>'
    assert name in texts(rendered(text, map=shown, ref=name, box={"width": 9, "height": 9}))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_curves_are_text(name: str) -> None:
    one = DrawnTraining(CurveName(name=name), Points.of(points_of(range(1, 9))).cells(), TrainingRecord())
    assert name in texts(picture_of_drawing(drawing_of([one], "step", [])))
