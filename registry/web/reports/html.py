"""A document as one HTML file: styles, scripts and data are in it, and it loads nothing, from wherever it is opened.

Its policy names the digests of its own style and scripts: nothing else can run, whatever is in its texts.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence

from markupsafe import Markup

from registry.web.assets import text_of_asset
from registry.web.document import Document, Drawn, FactList, Foldout
from registry.web.rendering import render

_STYLES = ("uplot.css", "app.css")
#: Needed where there are curves, and in this order.
_SCRIPTS = ("uplot.js", "app.js")


def html_of(document: Document, about: FactList) -> str:
    """Return a document, below what it says of itself."""
    scripts = _scripts() if _has_curves(document) else ()
    style = _style()
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {' '.join(map(_digest, scripts)) or _NOBODY}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return render(
        "reports/report.html",
        document=document,
        about=about,
        policy=policy,
        # They are ours, and contain nothing that ends their element.
        style=Markup(style),  # noqa: S704
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        is_report=True,
    )


_NOBODY = "'none'"


@functools.cache
def _style() -> str:
    return _inline("\n".join(text_of_asset(name) for name in _STYLES), "</style")


@functools.cache
def _scripts() -> tuple[str, ...]:
    return tuple(_inline(text_of_asset(name), "</script", "<!--") for name in _SCRIPTS)


def _inline(text: str, *ends: str) -> str:
    """Return the text of an element as a browser reads it, and its policy hashes it. Raises ValueError if it can't be one."""
    if found := [end for end in ends if end in text.lower()]:
        raise ValueError(f"{found[0]} within a style or script would end its element; write it otherwise")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _has_curves(document: Document) -> bool:
    return any(_are_curves(section.blocks) for section in document.sections)


def _are_curves(blocks: Sequence[object]) -> bool:
    return any(isinstance(one, Drawn) or (isinstance(one, Foldout) and _are_curves(one.blocks)) for one in blocks)
