r"""Tokens that a training adds to a vocabulary, written as one text for flags, records and digests.

A text with line ends has a token on each line, any other one has commas between them; the canonical one has a line end after
each token, so that a token may have commas.

>>> canonical_tokens("<red>,<blue>")
'<red>\n<blue>\n'
>>> parse_tokens("1,2-dichloroethane\n"), parse_tokens("<red>, <blue>")
(['1,2-dichloroethane'], ['<red>', '<blue>'])
"""

from __future__ import annotations

from collections.abc import Iterable

#: A tokenizer looks for each of them in every text.
MOST_TOKENS = 4096
MOST_CHARACTERS = 200


def parse_tokens(text: str) -> list[str]:
    """Return the tokens of a text, in its order. Raises ValueError for an empty one, one that comes twice, or blanks at an
    edge.
    """
    lines = "\n" in text
    tokens = text.removesuffix("\n").split("\n") if lines else [token.strip() for token in text.split(",")]
    if len(tokens) > MOST_TOKENS:
        raise ValueError(f"it has {len(tokens):,} tokens; add at most {MOST_TOKENS:,}, the most frequent ones")
    for number, token in enumerate(tokens, start=1):
        place = f"line {number}" if lines else f"number {number}"
        if not token:
            raise ValueError(f"the token of {place} is empty; leave it out")
        if token != token.strip() or not token.isprintable():
            raise ValueError(
                f"the token of {place}, {token[:40]!r}, has a blank at an edge, or what can't be printed; write it without"
            )
        if len(token) > MOST_CHARACTERS:
            raise ValueError(
                f"the token of {place} has {len(token)} characters; add words of at most {MOST_CHARACTERS}"
            )
    if twice := _first_repeated(tokens):
        raise ValueError(f"{twice!r} is given twice; name each token once")
    return tokens


def _first_repeated(tokens: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for token in tokens:
        if token in seen:
            return token
        seen.add(token)
    return None


def write_tokens(tokens: Iterable[str]) -> str:
    """Return tokens as `parse_tokens` reads them."""
    return "".join(f"{token}\n" for token in tokens)


def canonical_tokens(text: str) -> str:
    """Return a text with the same tokens, as `write_tokens` writes them. Raises ValueError."""
    return write_tokens(parse_tokens(text))
