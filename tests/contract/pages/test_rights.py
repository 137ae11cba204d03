"""Pages and the API answer a token alike: what it may not see there is on no page here."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from urllib.parse import unquote

import httpx
from contract.pages.hostile import HostilePlace
from support.crawling import ReadPage, crawl, read_page
from support.page_readers import signed_in

from registry.principal import LOCAL, Role

#: Ids, digests and names that the namespace has; who may not see it knows none of them.
_HEX = re.compile(r"\b[0-9a-f]{12,64}\b")


def _secrets_of(place: HostilePlace, read: list[ReadPage]) -> set[str]:
    """All that pages of the namespace say and that nobody else could have."""
    places = [one for page in read for one in page.places if not one.startswith("/ui/static/")]
    texts = " ".join([*(text for page in read for text in page.text), *places])
    return {*_HEX.findall(texts), f"{place.space}/"}


def _open(place: HostilePlace, **grants: Role) -> AbstractContextManager[httpx.Client]:
    made = place.scene.services.tokens.create(name=f"reader of {sorted(grants)}", grants=grants, who=LOCAL)
    return signed_in(place.scene.world.url, made.secret)


def test_another_namespace_is_on_no_page(place: HostilePlace, read: list[ReadPage]) -> None:
    hidden = _secrets_of(place, read)
    assert len(hidden) > 3
    with _open(place, other=Role.ADMIN) as client:
        for address in {page.path for page in read}:
            page = read_page(client.get(address))
            # What the reader asked for may be said again.
            shown, asked = " ".join([*page.text, *page.places]), unquote(address)
            assert not [each for each in hidden if each in shown and each not in asked], address
            assert page.status in (200, 403, 404, 422), (address, page.status)
        found = list(crawl(client))
        assert not [page.path for page in found for each in hidden if each in page.html]


def test_reader_gets_the_pages_of_an_admin_without_what_changes_something(
    place: HostilePlace, read: list[ReadPage]
) -> None:
    with _open(place, **{place.space: Role.READER}) as client:
        for page in crawl(client):
            # A training that has made nothing yet leads to a name that isn't there.
            assert page.status == 200 or page.path.endswith("/trained"), page.path
            changes = [one for one in [*page.actions, *page.places] if _CHANGES.search(one)]
            assert not changes, (page.path, changes)


def test_nothing_is_there_without_a_session(place: HostilePlace, read: list[ReadPage]) -> None:
    with httpx.Client(base_url=place.scene.world.url, trust_env=False) as client:
        for page in read:
            answer = client.get(page.path)
            assert answer.status_code == 303, page.path
            assert answer.headers["Location"].startswith("/ui/sign-in?next=")


#: Addresses at which something changes, or that are for it.
_CHANGES = re.compile(r"^/ui/actions/|/(cancel|retry|pause|go)$")
