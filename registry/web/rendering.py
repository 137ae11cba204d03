"""Templates, and what they show of times, sizes and numbers. Everything that is put in is escaped.

>>> str(size(1_536))
'1.5 KiB'
"""

from __future__ import annotations

import base64
import functools
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from registry.web import wording
from registry.web.assets import asset
from sdk.formats.refs import BadRefError, Ref

_TEMPLATES = Path(__file__).parent / "templates"
#: A name whose page would have the address of a version of another adapter: "team/v3" is not version 3 of "team".
_LIKE_A_VERSION = re.compile(r"[^/]+/v[0-9]+")
#: How many characters of a digest are shown.
_DIGEST_CHARS = 12
#: Characters that are not seen, or change the direction of what follows, and what is shown for them.
_SIGNS = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"},
    **dict.fromkeys((*range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
}


def render(template: str, **shown: Any) -> str:
    """Return a page, or a part of one. A name that a template needs and isn't given is an error, not an empty place."""
    return environment().get_template(template).render(**shown)


@functools.cache
def environment() -> Environment:
    """The templates of this release, compiled once."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(asset=asset, link=link, page_of_ref=page_of_ref, now=lambda: datetime.now(UTC), **wording.SHOWN)
    made.filters.update(
        time=time,
        size=size,
        number=number,
        score=score,
        short=short,
        duration=duration,
        data_image=data_image,
    )
    return made


def link(*parts: object, **query: object) -> str:
    """Return the address of a page below `/ui`; the parts of a name are parts of the path. What is None is left out.

    >>> link("adapters", "team/code-review", "v3"), link("adapters", filter="rank > 8")
    ('/ui/adapters/team/code-review/v3', '/ui/adapters?filter=rank+%3E+8')
    >>> link("adapters", "team/v3"), link("adapters", "team", "v3"), link("adapters", "team/v3", "v2")
    ('/ui/adapter/team/v3', '/ui/adapters/team/v3', '/ui/adapters/team/v3/v2')
    """
    if len(parts) == 2 and parts[0] == "adapters" and _LIKE_A_VERSION.fullmatch(str(parts[1])):
        parts = ("adapter", parts[1])
    path = "/".join(quote(str(part), safe="/@:") for part in parts)
    given = {name: value for name, value in query.items() if value is not None}
    return f"/ui/{path}" + (f"?{urlencode(given)}" if given else "")


def time(moment: datetime | None) -> Markup:
    """Return a moment in UTC, to the minute; a script shows it in the reader's own zone."""
    if moment is None:
        return Markup("–")
    at = moment.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(timespec="seconds"), f"{at:%Y-%m-%d %H:%M} UTC")


def size(size_bytes: float | None) -> str:
    """Return a size in the unit in which it has one to four digits."""
    if size_bytes is None:
        return "–"
    amount, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):  # noqa: B007 - the one that fits is used
        if abs(amount) < 1024:
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def number(value: float | None) -> str:
    """Return a score or a rate with four digits that count."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def score(value: float | None, digits: int = 4) -> str:
    """Return a score with as many digits that count as the others of its column, so that they stand under each other.

    >>> score(0.3376), score(0.323), score(1.0), score(0.0), score(12345.6), score(2741.0), score(0.0001)
    ('0.3376', '0.3230', '1.000', '0', '1.235e+04', '2741', '0.0001')
    """
    if value is None:
        return "–"
    text = f"{value:#.{digits}g}"
    # Zeros at the end of what is nearly nothing would say that it is known exactly.
    return f"{value:.{digits}g}" if "e" in text or abs(value) < 1e-3 else text.rstrip(".")


def visible(value: Any) -> Any:
    r"""Return what a template shows, with signs for the control characters of a text that a page would hide, or obey: one that
    turns the direction would turn the rest of its line too.

    What forms hold is sent back, and must be what it was: templates write that with the filter `e`, whose value is passed on.

    >>> visible("a\x1bb\u202ec\n\t") == "a\u241bb\ufffdc\n\t"
    True
    """
    return value.translate(_SIGNS) if type(value) is str and not value.isprintable() else value


def data_image(svg: str) -> str:
    """Return an SVG as an address that holds it: as an image it runs nothing and loads nothing."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def duration(seconds: float) -> str:
    """Return how long something took, in the two largest units that count.

    >>> duration(0.42), duration(75), duration(3_700)
    ('0.4 s', '1 min 15 s', '1 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def short(digest: str) -> str:
    """Return the beginning of a digest, as refs take it."""
    return digest[:_DIGEST_CHARS]


def page_of_ref(ref: str) -> str:
    """Return the address of a version's page.

    >>> page_of_ref("team/code-review@v3"), page_of_ref("team/code-review@production")
    ('/ui/adapters/team/code-review/v3', '/ui/version?ref=team%2Fcode-review%40production')
    """
    try:
        parsed = Ref.parse(ref)
    except BadRefError:
        return link("version", ref=ref)
    if parsed.number is None:
        return link("version", ref=ref)
    return link("adapters", parsed.adapter, f"v{parsed.number}")
