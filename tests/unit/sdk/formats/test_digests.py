"""Keys and paths are made of whole digests: never of a name, never outside their folder, never one for two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from support.names import DIGITS_64, NAMES, NEARLY, SELECTORS, other_forms

from registry.storage.errors import StorageError
from registry.storage.protocol import blob_key
from sdk.formats.refs import BadRefError, parse_digest
from sdk.pulling.cache import Cache
from sdk.schemas.wire import Sha256

CACHE = Cache(Path("cache"))
#: Whatever makes a place of a digest, and the folder that the place is in.
PLACES: dict[str, tuple[Callable[[str], str], str]] = {
    "storage": (blob_key, "blobs/sha256"),
    "cache-blob": (lambda digest: str(CACHE.blob(digest)), "cache/blobs"),
    "cache-version": (lambda digest: str(CACHE.version(digest)), "cache/versions"),
    "cache-base": (lambda fingerprint: str(CACHE.base(fingerprint)), "cache/bases"),
}
each_place = pytest.mark.parametrize("kind", PLACES)

#: Texts that are not whole digests; most of them nearly are.
HOSTILE = st.one_of(
    NAMES,
    NEARLY,
    SELECTORS,
    st.text(max_size=70),
    st.text("0123456789abcdef", max_size=130).filter(lambda text: len(text) != 64),
    DIGITS_64.map(str.upper).filter(lambda text: text != text.lower()),
    DIGITS_64.map("sha256:{}".format),
    st.tuples(st.sampled_from(["", "../", "/", "./", "\\", "..\\", "%2e%2e%2f", " "]), DIGITS_64)
    .map("".join)
    .filter(len),
    st.tuples(DIGITS_64, st.sampled_from(["\n", "\r\n", "\x00", "/", "/..", "/x", "\u200b", " ", ".", "%00"])).map(
        "".join
    ),
).filter(lambda text: not (len(text) == 64 and set(text) <= set("0123456789abcdef")))


@each_place
@given(digest=DIGITS_64)
def test_a_digest_has_its_place(kind: str, digest: str) -> None:
    place, folder = PLACES[kind]
    path = PurePosixPath(place(digest))
    assert path.name == digest
    assert path.is_relative_to(folder)
    assert ".." not in path.parts


@each_place
@given(digests=st.lists(DIGITS_64, min_size=2, max_size=8, unique=True))
def test_two_digests_never_share_a_place(kind: str, digests: list[str]) -> None:
    place, _ = PLACES[kind]
    # Nor where the file system takes upper and lower case for one, nor one inside the other.
    paths = {PurePosixPath(place(digest).casefold()) for digest in digests}
    assert len(paths) == len(digests)
    assert not any(one != two and one.is_relative_to(two) for one in paths for two in paths)


@each_place
@given(text=HOSTILE)
def test_what_is_no_digest_has_no_place(kind: str, text: str) -> None:
    place, _ = PLACES[kind]
    with pytest.raises((StorageError, BadRefError)) as caught:
        place(text)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@each_place
@given(digest=DIGITS_64, at=st.integers(0, 63), data=st.data())
def test_a_digest_has_no_second_spelling(kind: str, digest: str, at: int, data: st.DataObject) -> None:
    place, _ = PLACES[kind]
    with pytest.raises((StorageError, BadRefError)):
        place(digest[:at] + data.draw(st.sampled_from(other_forms(digest[at]))) + digest[at + 1 :])


@given(st.one_of(DIGITS_64, HOSTILE))
def test_what_travels_as_a_digest_is_one(text: str) -> None:
    try:
        travels = TypeAdapter(Sha256).validate_python(text, strict=True) == text
    except ValidationError:
        travels = False
    try:
        parses = parse_digest(text) == text
    except BadRefError:
        parses = False
    assert travels == parses
