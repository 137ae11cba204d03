"""Somebody who reads pages without a browser: signs in, and sends the forms that pages have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx

_CSRF = re.compile(r'name="csrf" value="([^"]*)"')


@contextmanager
def signed_in(url: str, token: str) -> Iterator[httpx.Client]:
    """Sign in with a token."""
    with httpx.Client(base_url=url, headers={"Origin": url}, timeout=30, trust_env=False) as client:
        answer = client.post("/ui/sign-in", data={"token": token})
        assert answer.status_code == 303, answer.text
        yield client


def csrf_of(client: httpx.Client, path: str = "/ui/adapters") -> str:
    """Return what the forms of a page hold to show whose they are; it is another text each time."""
    found = _CSRF.search(client.get(path).text)
    assert found is not None, path
    return found[1]


def without_csrf(page: str) -> str:
    """Return a page without that."""
    return _CSRF.sub("", page)


@dataclass
class PageForm:
    """A form of a page, with what its fields hold."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[PageForm] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(PageForm(given.get("action", "")))
        if tag in ("input", "textarea") and self.forms and "name" in given and given.get("type") != "checkbox":
            self.forms[-1].fields[given["name"]] = given.get("value", "")


def form_of(page: httpx.Response, action: str) -> PageForm:
    """Return the form of a page that is sent there."""
    parser = _Forms()
    parser.feed(page.text)
    return next(form for form in parser.forms if form.action == action)


class PageReader:
    """Reads pages in a session."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    @property
    def cookie(self) -> str:
        """What the browser sends of its session."""
        return "; ".join(f"{name}={value}" for name, value in self._client.cookies.items())

    def get(self, path: str) -> httpx.Response:
        """Open a page."""
        return self._client.get(path)

    def form(self, page: httpx.Response, action: str) -> PageForm:
        """Return the form of a page that is sent there."""
        return form_of(page, action)

    def send(self, form: PageForm, **given: str) -> httpx.Response:
        """Send a form, with what somebody has typed."""
        return self._client.post(form.action, data={**form.fields, **given})
