"""Styles and scripts: what is sent, under which name, and from whom it is."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from starlette.applications import Starlette
from starlette.testclient import TestClient

from registry.web import assets

VENDOR = Path(assets.__file__).parent / "static" / "vendor"
CLIENT = TestClient(Starlette(routes=assets.ROUTES))


def test_scripts_of_others_are_the_ones_that_were_published() -> None:
    written = dict(line.split()[::-1] for line in (VENDOR / "SHA256SUMS").read_text().splitlines())
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in VENDOR.iterdir()}
    assert {name: files[name] for name in written} == written
    assert set(files) - set(written) == {"SHA256SUMS", "README.md"}


def test_name_of_an_asset_holds_its_digest() -> None:
    place = assets.asset("app.css")
    body = CLIENT.get(place).content
    assert hashlib.sha256(body).hexdigest()[:16] in place


def test_assets_are_kept_for_good_and_compressed() -> None:
    answer = CLIENT.get(assets.asset("htmx.js"), headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.content == (VENDOR / "htmx.js").read_bytes()
    plain = CLIENT.get(assets.asset("htmx.js"), headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.content == answer.content


def test_only_assets_are_sent() -> None:
    for name in ("README.md", "SHA256SUMS", "..%2Fpages.py", "app.css", "htmx.LICENSE"):
        assert CLIENT.get(f"{assets.STATIC}{name}").status_code == 404


def test_first_page_is_small() -> None:
    """All that any page loads, compressed: the budget is 150 kB."""
    sizes = [len(gzip.compress(file.body, 9)) for file in assets._assets()[1].values()]
    assert sum(sizes) < 90_000
