"""What a row says, as text: all of it; what it asks and what it answers; normalised; and what characters it has.

>>> from sdk.formats.rows import Row
>>> row = Row("line 1", "prompt", {"prompt": "How  warm?", "completion": "Ｗarm"})
>>> asked_and_answered(row), normalised_row(row)
(('How  warm?', 'Ｗarm'), 'how warm?\\nwarm')
>>> odd_characters("zero\\u200bwidth, NUL \\x00")
['U+0000', 'U+200B ZERO WIDTH SPACE']
>>> odd_characters("نمی\\u200cخواهم")
[]
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from sdk.formats.rows import Row

_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
#: How many consecutive combining characters stay together, and what is put after them, as in the Stream-Safe Text
#: Format of Unicode's annex 15: normalising sorts each run, which takes time in proportion to its length squared. No
#: language uses as many.
_MOST_COMBINING, _JOINER = 30, "\u034f"
#: All combining characters, and all letters whose normalised forms begin with one, are below this.
_COMBINING_BELOW = 0x20000


def normalised(text: str) -> str:
    """Return a text in Unicode's form NFKC, casefolded, with one space for any white space between words; runs of
    combining characters that are longer than in any language are divided.
    """
    if not text.isascii():
        text = stream_safe(text)
        # Casefolding may take apart letters that NFKC composes.
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.lower().split() if text.isascii() else text.split())


def stream_safe(text: str) -> str:
    """Return a text that can be normalised in time proportional to its length: it divides long runs of combining
    characters.
    """
    return text if text.isascii() else _long_runs().sub(rf"\g<0>{_JOINER}", text)


@cache
def _long_runs() -> re.Pattern[str]:
    """Return a pattern for `_MOST_COMBINING` combining characters that another one follows."""
    combining = "".join(
        character
        for character in map(chr, range(0x300, _COMBINING_BELOW))
        if unicodedata.combining(unicodedata.normalize("NFKD", character)[0])
    )
    return re.compile(f"[{combining}]{{{_MOST_COMBINING}}}(?=[{combining}])")


def said(row: Row) -> bytes:
    """Return all fields of a row as bytes. Only equal rows have the same bytes; the order of keys doesn't matter."""
    return _CANONICAL.encode(row.fields).encode()


def row_digest(row: Row) -> bytes:
    """Return the SHA-256 of all fields of a row."""
    return hashlib.sha256(said(row)).digest()


def row_key(text: bytes) -> int:
    """Return 64 bits of the digest of a text; never 0."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") or 1


def asked_and_answered(row: Row) -> tuple[str, str]:
    """Return what a row asks and what it answers. A plain text is all answer; a labelled text is answered by its label,
    choices by the right one, and several references by the first.

    A preference asks which of two sorted answers is better, and answers with the number of that one; an answer with a label
    asks whether it is desirable.
    """
    fields = row.fields
    if row.shape == "text":
        return "", fields["text"]
    if row.shape == "text-label":
        return fields["text"], fields["label"]
    if row.shape == "messages":
        messages = fields["messages"]
        last = max((at for at, one in enumerate(messages) if one["role"] == "assistant"), default=len(messages))
        return _conversation(messages[:last]), _conversation(messages[last:])
    if row.shape == "preference":
        chosen, rejected = _text(fields["chosen"]), _text(fields["rejected"])
        answers = sorted((chosen, rejected), key=normalised)
        return "\n".join([_text(fields["prompt"]), *answers]), str(answers.index(chosen) + 1)
    if row.shape == "unpaired-preference":
        return "\n".join([_text(fields["prompt"]), _text(fields["completion"])]), str(row.label)
    if row.shape == "choices":
        return fields["prompt"], fields["choices"][fields["answer"]]
    if row.shape == "references":
        return _text(fields["prompt"]), fields["references"][0]
    return _text(fields["prompt"]), _text(fields["completion"])


def normalised_row(row: Row) -> str:
    """Return all that a row says, normalised: two rows count as the same text if this is the same."""
    return joined(*(normalised(part) for part in asked_and_answered(row)))


def joined(asked: str, answered: str) -> str:
    """Return what is asked and answered as one text; a normalised part has no line break of its own."""
    return f"{asked}\n{answered}" if asked else answered


def split_key(row: Row) -> bytes:
    """Return the digest of the text that may not be on both sides of a split: of a labelled text, without its label; of
    preferences, the prompt alone; otherwise all that the row says.
    """
    asked = {"text-label": "text", "preference": "prompt", "unpaired-preference": "prompt"}.get(row.shape)
    text = normalised_row(row) if asked is None else normalised(_text(row.fields[asked]))
    return hashlib.sha256(text.encode()).digest()


def _text(said: str | list[dict[str, Any]]) -> str:
    return said if isinstance(said, str) else _conversation(said)


def _conversation(messages: list[dict[str, Any]]) -> str:
    return "\n".join(part for message in messages for part in _message(message))


def _message(message: dict[str, Any]) -> list[str]:
    parts = [message["role"]]
    parts += [message[key] for key in ("reasoning_content", "content") if message.get(key)]
    if message.get("tool_calls"):
        parts.append(_CANONICAL.encode(message["tool_calls"]))
    return parts


#: Control characters except tab and line ends; characters that have no width or change the direction of writing; and
#: those that stand for bytes that could not be read. Joiners have a use in Persian, Hindi and emoji; they are odd after
#: Latin letters.
_ODD = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffd]"
    "|(?<=[\x00-\u024f])[\u200c\u200d]"
)
_ODD_ASCII = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
#: The scripts of letters whose Unicode names begin with something else.
_SCRIPTS = {"CJK": "Han", "IDEOGRAPHIC": "Han", "KANGXI": "Han", "HALFWIDTH": "Katakana", "MODIFIER": "Common"}


def has_odd(text: str) -> bool:
    """Whether a text has an odd character."""
    return (_ODD_ASCII if text.isascii() else _ODD).search(text) is not None


def odd_characters(text: str) -> list[str]:
    """Return the odd characters of a text, each once, by number and name."""
    return [f"U+{ord(one):04X} {unicodedata.name(one, '')}".rstrip() for one in sorted(set(_ODD.findall(text)))]


def scripts_of(counts: Mapping[int, int]) -> dict[str, float]:
    """Return each script's share among letters, the largest first; `counts` is how often each code point occurs."""
    scripts: Counter[str] = Counter()
    for point, count in counts.items():
        if (script := _script(point)) is not None:
            scripts[script] += count
    total = sum(scripts.values())
    return {script: count / total for script, count in scripts.most_common()}


@cache
def _script(point: int) -> str | None:
    character = chr(point)
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "")
    first = name.partition(" ")[0].partition("-")[0]
    return _SCRIPTS.get(first, first.capitalize() or "Other")
