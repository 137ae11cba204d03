"""A plot: shown by a notebook as it is, and written as SVG or PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from sdk.errors import FULL_DISK, InvalidInput
from sdk.plotting.curves import Curve
from sdk.plotting.picture import Picture, picture_of
from sdk.plotting.png import png_of, require_matplotlib
from sdk.plotting.svg import svg_of
from sdk.plotting.sweeps import panels as sweep_panels
from sdk.plotting.sweeps import png as sweep_png
from sdk.plotting.sweeps import svg as sweep_svg
from sdk.schemas.sweeps import SweepView
from sdk.whole_files import write_whole

_SUFFIXES = (".svg", ".png")


class Plot:
    """The curves of trainings over the same steps: loss, learning rate, and norm of the gradients."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        #: What it draws.
        self.curves = tuple(curves)

    def __repr__(self) -> str:
        return f"Plot({', '.join(repr(curve.name) for curve in self.curves)})"

    @cached_property
    def _picture(self) -> Picture:
        return picture_of(self.curves)

    def checked(self) -> Plot:
        """Return it if it can be drawn. Raises InvalidInput for too many curves, NotFound if one has no points."""
        _ = self._picture
        return self

    @cached_property
    def svg(self) -> str:
        """The picture as an SVG document, which needs nothing from elsewhere and can be put into a page."""
        return svg_of(self._picture)

    @property
    def png(self) -> bytes:
        """The picture as a PNG. Raises Unavailable without matplotlib."""
        return png_of(self._picture)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, to: str | Path) -> Path:
        """Write the picture whole into a file, which is replaced; its name ends with .svg or .png. Return its path.

        Raises InvalidInput for another ending or a path that can't be written, Unavailable for a PNG without matplotlib.
        """
        return saved(self, to)


class SweepPlot:
    """The settings of a sweep: the score of each by the options that vary, beside what it costs."""

    def __init__(self, view: SweepView) -> None:
        #: What it draws.
        self.view = view

    def __repr__(self) -> str:
        return f"SweepPlot('sweep:{self.view.id}')"

    @cached_property
    def _picture(self) -> sweep_panels.SweepPicture:
        return sweep_panels.picture_of(self.view)

    def checked(self) -> SweepPlot:
        """Return it if it can be drawn. Raises NotFound if no member has a score yet."""
        _ = self._picture
        return self

    @cached_property
    def svg(self) -> str:
        """The picture as an SVG document, which needs nothing from elsewhere and can be put into a page."""
        return sweep_svg.svg_of(self._picture)

    @property
    def png(self) -> bytes:
        """The picture as a PNG. Raises Unavailable without matplotlib."""
        return sweep_png.png_of(self._picture)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, to: str | Path) -> Path:
        """As `Plot.save`."""
        return saved(self, to)


class _Drawn(Protocol):
    @property
    def svg(self) -> str: ...

    @property
    def png(self) -> bytes: ...


def saved(drawn: _Drawn, to: str | Path) -> Path:
    """Write a picture whole into a file, by its name as SVG or as PNG. Return its path. Raises as `Plot.save`."""
    target = checked_target(to)
    content = drawn.png if target.suffix.lower() == ".png" else drawn.svg
    try:
        write_whole(target, content, durable=False)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise InvalidInput(
            f"{target} can't be written ({error.strerror}); choose another path", param="output"
        ) from error
    return target


def checked_target(to: str | Path) -> Path:
    """Return where a picture goes, if it can go there: what can be known before anything is drawn.

    Raises InvalidInput, Unavailable for a PNG without matplotlib.
    """
    target = Path(to)
    if target.suffix.lower() not in _SUFFIXES:
        raise InvalidInput(f"{target} names no format; end it with .svg or .png", param="output")
    if os.path.isdir(target):  # noqa: PTH112 - False for a text that no path can be
        raise InvalidInput(
            f"{target} is a folder; name a file in it, such as {target / 'curve'}{target.suffix}", param="output"
        )
    if not os.path.isdir(target.parent):  # noqa: PTH112
        raise InvalidInput(f"there is no folder {target.parent}; make it, or choose another path", param="output")
    if target.suffix.lower() == ".png":
        require_matplotlib("write an SVG: -o FILE.svg")
    return target
