"""Texts of others on pages: they are shown as they are, and do nothing."""

from __future__ import annotations

from contract.pages.hostile import HostilePlace
from support.crawling import ReadPage
from support.page_readers import signed_in

#: Where scripts, styles, pictures, forms and links of pages may lead.
_PLACES = ("/ui/", "#", "?")


def test_no_text_becomes_an_element(read: list[ReadPage]) -> None:
    for page in read:
        assert "xss" not in page.elements, page.path
        assert not [name for name in page.attributes if name.startswith("on") or name == "style"], page.path
        assert "<xss" not in page.html.lower(), page.path


def test_no_text_becomes_an_address(read: list[ReadPage]) -> None:
    for page in read:
        wrong = [
            place
            for place in [*page.places, *page.actions]
            if not place.startswith(_PLACES) and place not in ("", "/docs")
        ]
        assert not wrong, (page.path, wrong)


def test_no_text_is_a_template(read: list[ReadPage]) -> None:
    for page in read:
        assert "49" not in " ".join(text for text in page.text if "{%" in text), page.path


def test_texts_are_shown(read: list[ReadPage]) -> None:
    """Otherwise the tests above would hold of empty pages."""
    whole = " ".join(text for page in read for text in page.text)
    assert [field for field in SHOWN if f"{field}\"'>" not in whole] == []


def test_every_page_has_its_policy(place: HostilePlace) -> None:
    with signed_in(place.scene.world.url, place.secret) as client:
        answer = client.get("/ui/adapters")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


#: The fields whose texts are on some page.
SHOWN = (
    "advice", "approval", "description", "failure", "library", "log", "metric", "more", "note", "option", "phase",
    "prediction", "progress", "reason", "release", "tag", "token", "training", "value", "worker",
)  # fmt: skip
