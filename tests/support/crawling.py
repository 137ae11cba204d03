"""Reads all pages that somebody can come to, without a browser: what each says, and where it leads."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx

_MOST = 400
#: What is in these is no text of the page.
SILENT = frozenset({"style", "time"})


@dataclass
class ReadPage:
    """One page."""

    path: str
    status: int
    html: str
    #: Its text, piece by piece, without times.
    text: list[str] = field(default_factory=list)
    #: Where its links, pictures and scripts lead.
    places: list[str] = field(default_factory=list)
    #: Where its forms are sent.
    actions: list[str] = field(default_factory=list)
    #: The names of its elements' attributes.
    attributes: set[str] = field(default_factory=set)
    #: The names of its elements.
    elements: set[str] = field(default_factory=set)


class _Reader(HTMLParser):
    def __init__(self, page: ReadPage, silent: Set[str]) -> None:
        super().__init__()
        self._page, self._silent = page, silent
        #: The name of the element that says nothing, within it; none of them holds another of its name.
        self._within: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._page.elements.add(tag)
        given = {name: value or "" for name, value in attrs}
        self._page.attributes.update(given)
        places = [given[name] for name in ("href", "src", "xlink:href", "hx-get", "data-curves") if name in given]
        self._page.actions += [given[name] for name in ("action", "formaction", "hx-post") if name in given]
        self._page.places += places
        self._page.text += [given[name] for name in ("title", "alt", "aria-label", "placeholder") if given.get(name)]
        if given.get("type") != "hidden" and given.get("value"):
            self._page.text.append(given["value"])
        if self._within is None and (tag in self._silent or f"#{given.get('id')}" in self._silent):
            self._within = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._within:
            self._within = None

    def handle_data(self, data: str) -> None:
        if self._within is None and (shown := " ".join(data.split())):
            self._page.text.append(shown)


def read_page(answer: httpx.Response, silent: Set[str] = SILENT) -> ReadPage:
    """Take a page apart."""
    page = ReadPage(answer.request.url.raw_path.decode(), answer.status_code, answer.text)
    if "html" in answer.headers.get("Content-Type", ""):
        _Reader(page, silent).feed(answer.text)
    else:
        page.text = [answer.text]
    return page


def crawl(client: httpx.Client, *, of_each: int = 40, silent: Set[str] = SILENT) -> Iterator[ReadPage]:
    """Read the pages that links lead to, each once; of each form of address `of_each`, since a catalogue leads to as many as
    there are names. Nothing is changed. Elements with these names or ids say nothing.
    """
    waiting = deque(("/ui/adapters", "/ui/jobs", "/ui/sweeps", "/ui/compare", "/ui/workers"))
    seen, forms = set(waiting), dict[str, int]()
    for _ in range(_MOST):
        if not waiting:
            return
        path = waiting.popleft()
        page = read_page(client.get(path), silent)
        yield page
        for place in page.places:
            target = urlsplit(urljoin(path, place))
            address = target.path + (f"?{target.query}" if target.query else "")
            form = re.sub(r"[0-9a-f]{8,}|\d+", "#", target.path)
            ours = not target.netloc and target.path.startswith("/ui/")
            if not ours or address in seen or _is_left_out(target.path) or forms.get(form, 0) >= of_each:
                continue
            seen.add(address)
            forms[form] = forms.get(form, 0) + 1
            waiting.append(address)
    raise AssertionError(f"there are more than {_MOST} pages; {list(waiting)[:10]} are left")


def _is_left_out(path: str) -> bool:
    return path.startswith("/ui/static/") or path.endswith(("/sign-out", "/sign-in", "/stream", "/live"))
