"""Messages, help and pages use the words of the trade: none of those that `support.words` lists."""

from __future__ import annotations

import re

import pytest
from support import words
from support.words import WORDS, Word


def test_no_message_help_or_page_has_one_of_the_words() -> None:
    assert [str(hit) for hit in words.hits()] == [], "run: PYTHONPATH=tests python -m support.words"


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.wrong)
def test_a_word_is_found_in_a_message(word: Word) -> None:
    source = f'raise ValueError(f"{{name}}: "\n    "{word.wrong}")\n'
    assert any(re.search(word.pattern, text) for _, text in words.of_python(source))
    assert word.why


def test_docstrings_comments_and_code_are_no_messages() -> None:
    source = 'def said(beside):\n    """What was said beside it."""\n    # It was told.\n    return beside\n'
    assert not [text for _, text in words.of_python(source) if words.ANY.search(text)]
    page = "It is `said`.\n\n```python\nsaid = 1\n```\n"
    assert not [text for _, text in words.of_page(page) if words.ANY.search(text)]
