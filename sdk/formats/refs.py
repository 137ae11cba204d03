"""The grammar of names, refs and digests: parsed here and nowhere else.

>>> Ref.parse("team/code-review@v3")
Ref(adapter='team/code-review', selector='v3')
>>> Ref.parse("code-review@production").alias
'production'
>>> parse_scope("team/*"), namespace_of("team/code-review"), namespace_of("code-review")
('team/*', 'team', '')
>>> parse_ref_or_member("sweep:3f1c2a9b7d20/4"), parse_ref_or_member("code-review@v3").adapter
(MemberRef(sweep='3f1c2a9b7d20', number=4), 'code-review')
>>> parse_name("../x")
Traceback (most recent call last):
sdk.formats.refs.BadNameError: '../x' is not an adapter name: use lower-case letters, digits, '.', '_' and '-', beginning \
and ending with a letter or digit, at most 64 characters, with at most one namespace before a '/'
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_PART}/)?{_PART}")
_ALIAS = _NAMESPACE = re.compile(_PART)
_SCOPE = re.compile(rf"\*|{_PART}/\*|{_NAME.pattern}")
_NUMBER = re.compile(r"v([1-9][0-9]{0,8})")
_RESERVED = re.compile(r"latest|v[0-9]+|sha256.*")
_DIGEST = re.compile(r"sha256:([0-9a-f]{12,64})")
_MEMBER = re.compile(r"sweep:([a-z0-9]{1,32})/([1-9][0-9]{0,5})")
#: As images of containers are named.
_WITH_COLON = re.compile(rf"(?!(?:base|data|decision|job|sweep):)({_NAME.pattern}):({_PART})")
_WHOLE_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIGITS = re.compile(r"[0-9a-f]{12,64}")
#: Also upper-case digits and too many of them: no reader would take those for a name.
_LIKE_DIGEST = re.compile(r"sha256.*|[0-9a-f]{12,}", re.IGNORECASE | re.DOTALL)

#: What the ref of a sweep's member begins with. No name has a colon.
SWEEP = "sweep:"

_RULE = (
    "use lower-case letters, digits, '.', '_' and '-', beginning and ending with a letter or digit, "
    "at most 64 characters"
)


class BadNameError(ValueError):
    """A name outside the grammar; the message says which rule and how to spell it."""


class BadRefError(ValueError):
    """A ref or digest outside the grammar; the message says which part."""


def _shown(text: str) -> str:
    """Return `text` quoted for a message: escaped, and cut if it is long."""
    shown = ascii(text)
    # An escape has up to ten characters.
    return shown if len(shown) <= 120 else shown[:117] + "..."


def _fits(grammar: re.Pattern[str], text: str) -> bool:
    return grammar.fullmatch(text) is not None and ".." not in text


def _parse(kind: str, grammar: re.Pattern[str], text: str, rule: str) -> str:
    """Return `text` if it matches the grammar. A name has one spelling, so nothing is normalised."""
    if _fits(grammar, text):
        return text
    # A look-alike from another script may become ASCII in lower case; it is not another spelling of that name.
    if text.isascii() and _fits(grammar, text.lower()):
        raise BadNameError(f"{_shown(text)} is not {kind}: upper case is not used; write {_shown(text.lower())}")
    raise BadNameError(f"{_shown(text)} is not {kind}: {rule}")


def parse_name(text: str) -> str:
    """Return `text` if it is the name of an adapter, `name` or `namespace/name`. Raises BadNameError otherwise."""
    return _parse("an adapter name", _NAME, text, _RULE + ", with at most one namespace before a '/'")


def parse_namespace(text: str) -> str:
    """Return `text` if it can be the namespace of an adapter's name. Raises BadNameError otherwise."""
    return _parse("a namespace", _NAMESPACE, text, _RULE)


def namespace_of(name: str) -> str:
    """Return the namespace of an adapter's name, "" if it has none. Raises BadNameError if `name` isn't a name."""
    return parse_name(name).rpartition("/")[0]


def parse_scope(text: str) -> str:
    """Return `text` if it says which adapters are meant: `*` all, `NAMESPACE/*` those of one namespace, a name one.

    Raises BadNameError otherwise.
    """
    return _parse("a scope", _SCOPE, text, "write '*', 'NAMESPACE/*' or the name of one adapter")


def parse_alias(text: str) -> str:
    """Return `text` if it can name an alias. Raises BadNameError otherwise."""
    if _RESERVED.fullmatch(text.lower()):
        raise BadNameError(f"{_shown(text)} can't be an alias: 'latest', 'v<digits>' and 'sha256…' have other meanings")
    return _parse("an alias", _ALIAS, text, _RULE)


def parse_digest(text: str) -> str:
    """Return `text` if it is a whole digest without its prefix; paths and keys are made only of such digests.

    Raises BadRefError otherwise.
    """
    if not _WHOLE_DIGEST.fullmatch(text):
        raise BadRefError(f"{_shown(text)} is not a digest: give all 64 lower-case hexadecimal digits")
    return text


def digest_digits(text: str) -> str | None:
    """Return the 12 to 64 hexadecimal digits of a digest or its beginning, given with or without `sha256:`; None otherwise.

    >>> digest_digits("sha256:3f1c2a9b7d20"), digest_digits("reviews.jsonl")
    ('3f1c2a9b7d20', None)
    """
    digits = text.removeprefix("sha256:")
    return digits if _DIGITS.fullmatch(digits) else None


def looks_like_digest(text: str) -> bool:
    """Whether a text looks like a digest, so that it can't be a dataset's name and is never looked up as one.

    >>> [looks_like_digest(text) for text in ("3F1C2A9B7D20", "sha256-of-it", "3f1c2a9b7d20.jsonl", "facade")]
    [True, True, False, False]
    """
    return _LIKE_DIGEST.fullmatch(text.strip()) is not None


def parse_number(text: str) -> int:
    """Return 3 for "v3". Raises BadRefError otherwise."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise BadRefError(f"{_shown(text)} is not a version: write v1, v2, …")
    return int(match[1])


@dataclass(frozen=True)
class Ref:
    """An adapter and the selector of one of its versions: `vN`, `latest`, an alias, or `sha256:…`."""

    adapter: str
    selector: str

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Parse `NAME` or `NAME@SELECTOR`; a bare name means `@latest`.

        Raises BadNameError for the name, BadRefError for the selector, and for a sweep's member.
        """
        if text.startswith(SWEEP):
            raise BadRefError(_no_version(MemberRef.parse(text)))
        name, at, selector = text.partition("@")
        if (meant := _WITH_COLON.fullmatch(text)) is not None:
            raise BadRefError(f"{_shown(text)} is not a ref: write {meant[1]}@{meant[2]}")
        parse_name(name)
        if not at:
            return cls(name, "latest")
        if selector == "latest" or _NUMBER.fullmatch(selector) or _DIGEST.fullmatch(selector):
            return cls(name, selector)
        if selector.startswith("sha256") or re.fullmatch(r"v[0-9]+", selector):
            raise BadRefError(
                f"{_shown(text)} is not a ref: after '@' comes vN, latest, an alias, or sha256: with 12 to 64 hex digits"
            )
        try:
            parse_alias(selector)
        except BadNameError as error:
            raise BadRefError(f"{_shown(text)} is not a ref: {error}") from None
        return cls(name, selector)

    def __str__(self) -> str:
        return f"{self.adapter}@{self.selector}"

    @property
    def number(self) -> int | None:
        """The version number if the selector is one."""
        match = _NUMBER.fullmatch(self.selector)
        return int(match[1]) if match else None

    @property
    def digest_prefix(self) -> str | None:
        """The 12 to 64 hex digits if the selector is a digest."""
        match = _DIGEST.fullmatch(self.selector)
        return match[1] if match else None

    @property
    def alias(self) -> str | None:
        """The alias if the selector is one."""
        if self.selector == "latest" or self.number is not None or self.digest_prefix is not None:
            return None
        return self.selector


@dataclass(frozen=True)
class MemberRef:
    """A member of a sweep, by its number: what its training has kept, which is not a version."""

    sweep: str
    number: int

    @classmethod
    def parse(cls, text: str) -> MemberRef:
        """Parse `sweep:ID/N`. Raises BadRefError."""
        match = _MEMBER.fullmatch(text)
        if match is None:
            raise BadRefError(
                f"{_shown(text)} is not a member of a sweep: write sweep:ID/N, with the sweep's id and a number from 1"
            )
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{SWEEP}{self.sweep}/{self.number}"


def _no_version(member: MemberRef) -> str:
    return (
        f"{member} is a member of a sweep and not a version, and only a version will do here; make one of it with "
        f"adapterctl jobs publish JOB, where adapterctl show {member} says which job"
    )


def parse_ref_or_member(text: str) -> Ref | MemberRef:
    """Parse what may be a version's ref or that of a sweep's member. Raises BadNameError, BadRefError."""
    return MemberRef.parse(text) if text.startswith(SWEEP) else Ref.parse(text)


def is_folder(base: str) -> bool:
    """Whether a `--base` names a folder: it starts with `/`, `./`, `../` or `~`, or is `.` or `..`."""
    return base.startswith(("/", "./", "../", "~")) or base in (".", "..")
