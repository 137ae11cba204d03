"""Reads all pages that somebody can come to, without a browser: what each says, and where it leads."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx

#: How many pages are read of each form of address: a catalogue leads to as many as there are names.
_OF_EACH = 40
_VOID = {"meta", "link", "input", "img", "br", "hr", "source", "path", "rect", "line", "circle", "use"}
#: What is in these is no text of the page.
_SILENT = {"style", "time"}


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
    def __init__(self, page: ReadPage) -> None:
        super().__init__()
        self._page = page
        self._silent = 0

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
        self._silent += tag in _SILENT

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in _SILENT

    def handle_data(self, data: str) -> None:
        if not self._silent and (shown := " ".join(data.split())):
            self._page.text.append(shown)


def read_page(answer: httpx.Response) -> ReadPage:
    """Take a page apart."""
    page = ReadPage(answer.request.url.raw_path.decode(), answer.status_code, answer.text)
    if "html" in answer.headers.get("Content-Type", ""):
        _Reader(page).feed(answer.text)
    else:
        page.text = [answer.text]
    return page


def signed_in(url: str, token: str) -> httpx.Client:
    """Return a client with the session of a token."""
    client = httpx.Client(base_url=url, headers={"Origin": url}, timeout=30, trust_env=False)
    answer = client.post("/ui/sign-in", data={"token": token})
    assert answer.status_code == 303, answer.text
    return client


def crawl(client: httpx.Client, *begin: str, most: int = 400) -> Iterator[ReadPage]:
    """Read the pages that links lead to, each once, from the first on; nothing is changed."""
    waiting = deque(begin or ("/ui/adapters", "/ui/jobs", "/ui/sweeps", "/ui/compare", "/ui/workers"))
    seen, forms = set(waiting), dict[str, int]()
    for _ in range(most):
        if not waiting:
            return
        path = waiting.popleft()
        page = read_page(client.get(path))
        yield page
        for place in page.places:
            target = urlsplit(urljoin(path, place))
            address = target.path + (f"?{target.query}" if target.query else "")
            form = re.sub(r"[0-9a-f]{8,}|\d+", "#", target.path)
            ours = not target.netloc and target.path.startswith("/ui/")
            if not ours or address in seen or _is_left_out(target.path) or forms.get(form, 0) >= _OF_EACH:
                continue
            seen.add(address)
            forms[form] = forms.get(form, 0) + 1
            waiting.append(address)
    raise AssertionError(f"there are more than {most} pages; {list(waiting)[:10]} are left")


def _is_left_out(path: str) -> bool:
    return path.startswith("/ui/static/") or path.endswith(("/sign-out", "/sign-in", "/stream", "/live"))
