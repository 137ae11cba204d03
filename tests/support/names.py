"""Strategies for names, scopes, aliases and refs, and for texts that are nearly one of them."""

from __future__ import annotations

import string
from collections.abc import Callable

from hypothesis import strategies as st

from sdk.formats.refs import (
    BadNameError,
    BadRefError,
    parse_alias,
    parse_digest,
    parse_name,
    parse_namespace,
    parse_scope,
)

PART = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", fullmatch=True).filter(lambda text: ".." not in text)
NAMES = st.one_of(PART, st.tuples(PART, PART).map("/".join))
ALIASES = PART.filter(lambda t: t != "latest" and not t.startswith("sha256") and not (t[0] == "v" and t[1:].isdigit()))
DIGESTS = st.from_regex(r"sha256:[0-9a-f]{12,64}", fullmatch=True)
DIGITS_64 = st.text("0123456789abcdef", min_size=64, max_size=64)
SCOPES = st.one_of(st.just("*"), PART.map("{}/*".format), NAMES)
SELECTORS = st.one_of(st.integers(1, 999_999_999).map("v{}".format), st.just("latest"), ALIASES, DIGESTS)

#: Each parser that returns its text, with what it accepts.
PARSERS: dict[str, tuple[Callable[[str], str], st.SearchStrategy[str]]] = {
    "name": (parse_name, NAMES),
    "namespace": (parse_namespace, PART),
    "scope": (parse_scope, SCOPES),
    "alias": (parse_alias, ALIASES),
    "digest": (parse_digest, DIGITS_64),
}

#: Texts that are sometimes in the grammar, and mostly one character away from it.
NEARLY = st.one_of(
    st.text("ab1v.-_/", max_size=12),
    st.text("aA0v._-/*@:%\\ \n\u0131\u212a\u200b", max_size=6),
    st.tuples(NAMES, st.sampled_from(["", "/", "/*", "@", ".", "\n"]), NAMES).map("".join),
    st.integers(60, 70).map("x".__mul__),
    st.integers(0, 10**12).map("v{}".format),
    st.integers(60, 70).map(lambda count: f"team/{'x' * count}"),
)
#: Texts that nearly select a version.
NEARLY_SELECTORS = st.one_of(
    SELECTORS,
    SELECTORS.map(str.upper),
    st.tuples(
        st.sampled_from(["v", "V", "latest", "sha256", "sha256:"]), st.text("0a9f.-:v\u0661\uff11", max_size=70)
    ).map("".join),
)

#: Other characters that a reader, a font or a normalisation takes for a character of a name.
LOOK_ALIKES = {
    "a": "\u0430\u00aa\u1d43",
    "e": "\u0435\u212f",
    "i": "\u0131\u0130\u0456\u2170",
    "k": "\u212a",
    "o": "\u043e\u03bf\u00ba",
    "s": "\u017f",
    "v": "\u2174\u03bd",
    "1": "\u00b9\u0661\u2460",
    "2": "\u00b2",
    ".": "\u2024\u3002\u00b7",
    "-": "\u2010\u2011\u2012\u2013\u2212\u00ad",
    "_": "\u203f\ufe4d",
    "/": "\u2044\u2215\u29f8\\",
}


def other_forms(char: str) -> list[str]:
    """Return texts that may be taken for `char` in its place in a name: never `char` itself."""
    forms = [chr(ord(char) + 0xFEE0), *LOOK_ALIKES.get(char, ""), f"%{ord(char):02x}", f"%{ord(char):02X}"]
    forms += [f"%25{ord(char):02x}", f"&#{ord(char)};", f"\\x{ord(char):02x}", char + "\u0301", char + "\u0327"]
    return forms + ([char.upper()] if char.isalpha() else [])


def is_part(text: str) -> bool:
    """The rule for one part of a name, written a second time and without a pattern."""
    ends, inner = set(string.ascii_lowercase + string.digits), set(string.ascii_lowercase + string.digits + "._-")
    return 0 < len(text) <= 64 and {text[0], text[-1]} <= ends and set(text) <= inner and ".." not in text


def is_name(text: str) -> bool:
    """The rule for an adapter's name, written a second time."""
    return text.count("/") <= 1 and all(map(is_part, text.split("/")))


def accepted(parse: Callable[[str], str], text: str) -> bool:
    """Tell whether a parser accepts `text`; one that does must return it unchanged."""
    try:
        assert parse(text) == text
    except (BadNameError, BadRefError):
        return False
    return True
