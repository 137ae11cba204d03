"""A comparison as a picture: each pair's difference with its interval, and zero."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdk.cli.support.comparison_table import heading, statement
from sdk.cli.support.output import plain
from sdk.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from sdk.schemas.comparison import Comparison

#: How many characters of a ref are shown: the last ones, which have the version.
_SHOWN = 32


def require_matplotlib() -> None:
    """Raise Unavailable if matplotlib is missing; it says what to do instead."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            "a picture needs matplotlib, which is not installed; run: pip install matplotlib, or take --format html"
        ) from error


def write_png(found: Comparison, path: Path) -> None:
    """Draw the comparison into a file, which is replaced. Raises Unavailable without matplotlib, InvalidInput for a bad path."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.45 * len(found.pairs)), layout="constrained")
    axes = figure.subplots()
    for place, pair in enumerate(reversed(found.pairs)):
        colour = "tab:gray" if pair.better is None else "tab:blue"
        if pair.low is not None and pair.high is not None:
            axes.plot([pair.low, pair.high], [place, place], color=colour, linewidth=2)
        axes.plot([pair.difference], [place], "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    labels = [_text(f"{_short(pair.b)} - {_short(pair.a)}") for pair in reversed(found.pairs)]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_xlabel(_text(f"difference of {found.metric}, with its 95 % interval"))
    verdict = f"\n{statement(found.pairs[0], alone=True)}" if len(found.pairs) == 1 else ""
    axes.set_title(_text(heading(found) + verdict), fontsize="medium", loc="left", wrap=True)
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise InvalidInput(f"{path} can't be written ({error.strerror}); choose another path", param="png") from error


def _short(ref: str) -> str:
    return ref if len(ref) <= _SHOWN else f"…{ref[1 - _SHOWN :]}"


def _text(text: str) -> str:
    """Text as it is: matplotlib would read a formula between two dollar signs."""
    return "\n".join(plain(line) for line in text.split("\n")).replace("$", r"\$")
