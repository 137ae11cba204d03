"""A picture of curves read back: what is where in an SVG, in the values that its own axes say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from xml.etree import ElementTree

_SVG = "{http://www.w3.org/2000/svg}"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NEAR = (-1, 0, 1)


@dataclass(frozen=True)
class ReadPanel:
    """One panel: its title, its linear axes, and the places of its paths by class."""

    title: str
    #: Where values of a vertical axis are, and steps of the horizontal one: a value, a place, and another value and place.
    down: tuple[float, float, float, float]
    across: tuple[float, float, float, float]
    paths: dict[str, list[list[tuple[float, float]]]]

    def y(self, value: float) -> float:
        """Where a value is."""
        return _between(self.down, value)

    def x(self, step: float) -> float:
        """Where a step is."""
        return _between(self.across, step)

    @cached_property
    def _corners(self) -> set[tuple[str, int, int]]:
        return {(name, round(x), round(y)) for name, paths in self.paths.items() for path in paths for x, y in path}

    @cached_property
    def _heights(self) -> dict[tuple[str, int], list[float]]:
        found: dict[tuple[str, int], list[float]] = {}
        for name, paths in self.paths.items():
            for x, y in (corner for path in paths for corner in path):
                found.setdefault((name, round(x)), []).append(y)
        return found

    def covers(self, name: str, x: float, y: float) -> bool:
        """Whether a place is between the corners of a path beside it, within a pixel."""
        heights = [height for across in _NEAR for height in self._heights.get((name, round(x) + across), [])]
        return bool(heights) and min(heights) - 1 <= y <= max(heights) + 1

    def reaches(self, name: str, x: float, y: float) -> bool:
        """Whether a path has a corner at a place, within a pixel."""
        return any((name, round(x) + across, round(y) + down) in self._corners for across in _NEAR for down in _NEAR)


def _between(axis: tuple[float, float, float, float], value: float) -> float:
    a, at_a, b, at_b = axis
    return at_a + (at_b - at_a) * (value - a) / (b - a)


def parsed(svg: str) -> ElementTree.Element:
    """The root of a document."""
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    """What is written in a picture."""
    return [text.text or "" for text in parsed(svg).iter(f"{_SVG}text")]


def panels(svg: str) -> list[ReadPanel]:
    """The panels of a picture from the top; their axes must be linear."""
    parts = list(parsed(svg).iter())
    written = [(float(part.get("x", 0)), float(part.get("y", 0)), part) for part in parts if part.tag == f"{_SVG}text"]
    titles = [one for one in written if one[2].get("font-weight") == "600" and one[0] == 76]
    found = []
    for (_, top, title), below in zip(titles, [*(y for _, y, _ in titles[1:]), 1e9], strict=True):
        inside = [(x, y, part) for x, y, part in written if top < y < below - 10]
        down = [(float(part.text or 0), y - 4) for _, y, part in inside if part.get("text-anchor") == "end"]
        across = [
            (float(part.text), x)
            for x, _, part in inside
            if part.get("text-anchor") == "middle" and part.text not in (None, "step")
        ]
        paths: dict[str, list[list[tuple[float, float]]]] = {}
        for part in parts:
            name = part.get("class", "")
            if part.tag == f"{_SVG}path" and name in ("band", "mean", "held-out"):
                for piece in part.get("d", "").split("M")[1:]:
                    numbers = [float(number) for number in _NUMBER.findall(piece)]
                    places = list(zip(numbers[::2], numbers[1::2], strict=True))
                    if top < places[0][1] < below:
                        paths.setdefault(name, []).append(places)
        if down:
            first, last = (down[0], down[-1]), (across[0], across[-1])
            found.append(ReadPanel(title.text or "", (*first[0], *first[1]), (*last[0], *last[1]), paths))
    return found
