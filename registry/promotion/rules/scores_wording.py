"""What decisions say of rules over rows, in words.

>>> asked_for("rouge_l", "held-out@v2", "at_least", 0.3)
'rouge_l on held-out@v2 at least 0.3'
>>> asked_for("loss", "held-out@v2", "not_worse_than", 0.01, than="v3 (what it named last)", by="repo")
'loss on held-out@v2 not worse than that of v3 (what it named last) by more than 0.01, all together and by repo'
"""

from __future__ import annotations

from collections.abc import Sequence

from sdk.statistics.gates import Asked, Judged, JudgedLimit

#: How many groups are named that have too few rows.
_NAMED = 3


def asked_for(metric: str, data: str, asked: Asked, value: float, *, than: str = "", by: str | None = None) -> str:
    """Say what a rule asks for."""
    slices = "" if by is None else f", all together and by {by}"
    if asked == "not_worse_than":
        return f"{metric} on {data} not worse than that of {than} by more than {value:g}{slices}"
    return f"{metric} on {data} {asked.replace('_', ' ')} {value:g}{slices}"


def found_out(asked: Asked, found: JudgedLimit, metric: str, *, by: str | None) -> str:
    """Say in one line what the rows say to a limit."""
    said = _of(asked, found.whole, metric)
    if found.slices is None:
        return said
    slices = found.slices
    if slices.worst is not None and slices.value is not None:
        worst = _of(asked, slices.worst, metric)
        said += f"; of {slices.judged} groups by {by} the worst is {slices.value[:80]!a}: {worst}"
    else:
        said += f"; no group by {by} has enough rows to be judged"
    if slices.too_few:
        said += f"; too few rows to judge {listed([ascii(value[:40]) for value in slices.few], slices.too_few)}"
    return said


def _of(asked: Asked, found: Judged, metric: str) -> str:
    if found.why is not None:
        return found.why
    rows = f"on {found.rows} rows" + (f" ({found.clusters} that count once)" if found.clusters != found.rows else "")
    if asked == "not_worse_than":
        said = f"it is {'worse' if found.value > 0 else 'better'} by {abs(found.value):.4g} {rows}"
        if found.value == 0:
            said = f"it is as good {rows}"
        end = "worse by"
    else:
        said = f"{metric} is {found.value:.4g} {rows}"
        end = "at least" if asked == "at_least" else "at most"
    if found.near is None:
        return said
    return (
        f"{said}, and {end} {found.near:.4g} at most with confidence {1 - found.alpha:.4g}"
        if end == "worse by"
        else (f"{said}, and {end} {found.near:.4g} with confidence {1 - found.alpha:.4g}")
    )


def failed(asked: Asked, tries: int) -> str:
    """Say what to do about a limit that was not kept."""
    more = f"; {tries} versions were tried on these rows, and fresh rows ask for less" if tries > 1 else ""
    if asked == "not_worse_than":
        return f"promote a version that is as good, or judge it by more rows{more}"
    return f"promote a better version, or judge it by more rows{more}"


def listed(texts: Sequence[str], count: int) -> str:
    """Join the first of `count` texts."""
    shown = texts[:_NAMED]
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")
