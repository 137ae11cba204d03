"""Texts in one spelling: as Unicode has it, whatever strangers put into their rows."""

from __future__ import annotations

import random
import sys
import unicodedata
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.rows import texts
from sdk.rows.texts import normalised

ORDINARY = [
    "caf\u00e9 stra\u00dfe \ufb01ne \u2460 \uff37arm",
    "cafe\u0301 a\u0316\u0301 \u1fb3\u0345 \u0390 \u0130stanbul",
    "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0627\u0644\u0644\u0651\u064e\u0647\u0650 \u0915\u094d\u0937\u093f \u0bd7",
    "\u05d1\u05bc\u05b0\u05e8\u05b5\u05d0\u05e9\u05c1\u05b4\u05d9\u05ea \u1112\u1161\u11ab \ud55c \u304b\u3099 \u0f71\u0f72\u0f74 Z"
    + "\u0300\u0316" * 15
    + "algo",
]


def as_unicode_has_it(text: str) -> str:
    """The form without any limit."""
    form = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(form.split())


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_texts_are_as_unicode_has_them(text: str) -> None:
    assert normalised(text) == as_unicode_has_it(text) == normalised(text.upper().lower())


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_any_text_of_few_characters_is_as_unicode_has_it(text: str) -> None:
    assert normalised(text) == (" ".join(text.lower().split()) if text.isascii() else as_unicode_has_it(text))


# The form of the last is two characters that combine, and it is none of them.
@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0301\u0316\u0345\U0001d165", "\u0344", "\u0f73"])
def test_no_run_of_combining_characters_is_long(marks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0

    def watched(form: str, text: str) -> str:
        nonlocal longest
        runs = groupby(unicodedata.normalize("NFKD", text), lambda one: unicodedata.combining(one) > 0)
        longest = max([longest, *(len(list(run)) for combines, run in runs if combines)])
        return unicodedata.normalize(form, text)

    class Watched:
        normalize = staticmethod(watched)

    texts.stream_safe("\u00e9")
    monkeypatch.setattr(texts, "unicodedata", Watched)
    text = "a" + "".join(sorted(marks * 1000)) + "b"
    found = normalised(text)
    # A character may become two that combine, and the one before may end in three.
    assert longest <= 2 * 30 + 3
    assert found[-1] == "b"


def test_all_characters_that_combine_are_known() -> None:
    beyond = map(chr, range(texts._COMBINING_BELOW, sys.maxunicode + 1))
    assert not [one for one in beyond if unicodedata.combining(unicodedata.normalize("NFKD", one)[0])]
    before = map(chr, range(0x300))
    assert not [one for one in before if unicodedata.combining(unicodedata.normalize("NFKD", one)[0])]


def test_a_row_of_marks_alone_is_read_at_once() -> None:
    draw = random.Random(1)
    text = "".join(draw.choices("\u0301\u0316\u0327\u0345", k=400_000))
    # Sorting the run as a whole takes half an hour.
    assert len(normalised(text)) > 300_000
