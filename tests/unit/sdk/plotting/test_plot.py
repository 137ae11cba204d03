"""A plot is written whole into the file that its ending names a format for."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from support.series import series_of, usual

from sdk.errors import InvalidInput, Unavailable
from sdk.plotting.curves import Curve
from sdk.plotting.plot import Plot, checked_target
from sdk.plotting.png import png_of
from sdk.plotting.svg import colour_of

PLOT = Plot([Curve("sql@v1", usual(60, spike=30), best_step=24)])


def test_an_svg_replaces_the_file_of_that_name(tmp_path: Path) -> None:
    target = tmp_path / "curve.SVG"
    target.write_text("old")
    assert PLOT.save(str(target)) == target
    assert target.read_text() == PLOT.svg == PLOT._repr_svg_()
    assert [path.name for path in tmp_path.iterdir()] == ["curve.SVG"]


@pytest.mark.parametrize(
    "name", ["curve", "curve.jpg", "curve.svg.gz", "no/such/folder.svg", "folder.svg", "link/x.svg"]
)
def test_where_no_picture_can_go_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match=r"; (end it with|name a file in it|make it, or choose)") as refused:
        checked_target(tmp_path / name)
    assert refused.value.param == "output"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.svg", "link"]


def test_a_name_that_is_too_long_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"can't be written \(File name too long\); choose another path"):
        PLOT.save(tmp_path / f"{'x' * 300}.svg")


def test_a_png_without_matplotlib_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        Unavailable, match=r"run: pip install 'adapterctl\[plot\]', or write an SVG: -o FILE.svg"
    ) as refused:
        checked_target(tmp_path / "curve.png")
    assert refused.value.exit_code == 9
    PLOT.save(tmp_path / "curve.svg")


def test_a_png_can_be_opened_and_shows_what_the_svg_shows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    path = PLOT.save(tmp_path / "curve.png")
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    pixels = imread(path)
    assert pixels.shape[:2] == (height, width)
    assert 1400 < width < 1600
    # Training and held-out rows are there in their colours, and nothing is cut off at the borders.
    for colour in (colour_of(0), colour_of(1)):
        wanted = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        assert (abs(pixels[..., :3] - wanted).max(axis=2) < 0.02).sum() > 500
    assert all((edge[..., :3] == 1).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


@pytest.mark.parametrize(
    "series",
    [series_of(loss=[(1, 2.5)]), series_of(eval_loss=[(0, 2.0), (5, 1.0)]), series_of(loss=[(1, 1e4), (9, 1e-3)]),
     series_of(loss=[(1, -1.7e307), (2, 1.7e307)], lr=[(1, 0.0), (2, 0.0)])],
    ids=["one step", "held-out rows alone", "logarithmic", "huge"],
)  # fmt: skip
def test_a_png_is_made_of_odd_series_and_names(series: object) -> None:
    pytest.importorskip("matplotlib")
    names = ["_hidden", r"$\frac{", "a" * 200, "\x00\x1b\u202e"]
    drawn = png_of(Plot([Curve(name, series) for name in names])._picture)  # type: ignore[arg-type]
    assert drawn.startswith(b"\x89PNG")
