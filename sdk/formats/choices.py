"""Rows of multiple choice: a prompt, what may follow it, and which of these is right.

>>> choices({"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": " 4"})
{'prompt': '2 + 2 =', 'choices': [' 3', ' 4'], 'answer': 1}
>>> choices({"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 2})
Traceback (most recent call last):
ValueError: has the `answer` 2, and its 2 choices are numbered from 0 to 1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sdk.formats.row_faults import kind_of

#: The keys of such a row.
CHOICES = ("prompt", "choices", "answer")
#: The most choices in a row.
MOST_CHOICES = 100


def choices(
    given: Mapping[str, Any], text: Callable[[str, Any], str] = lambda name, value: str(value)
) -> dict[str, Any]:
    """Return the fields of a row, with its answer as a number from 0; `text` checks one text.

    Raises ValueError with what is wrong, as the rest of a sentence about the row.
    """
    prompt, found, answer = (given.get(key) for key in CHOICES)
    if not isinstance(found, list) or not 2 <= len(found) <= MOST_CHOICES:
        raise ValueError(f"has `choices` that are not a list of 2 to {MOST_CHOICES} texts")
    texts = [text(f"choices[{number}]", choice) for number, choice in enumerate(found)]
    if len(set(texts)) < len(texts):
        raise ValueError("has two choices that are the same")
    if answer is None:
        raise ValueError("has no `answer`; give the number of the right choice, from 0, or its text")
    if isinstance(answer, str):
        if answer not in texts:
            raise ValueError(
                f"has the `answer` {answer[:80]!r}, which is none of its choices; write it exactly as there"
            )
        answer = texts.index(answer)
    if type(answer) is not int:
        raise ValueError(f"has an `answer` that is neither a number nor a text but {kind_of(answer)}")
    if not 0 <= answer < len(texts):
        raise ValueError(
            f"has the `answer` {answer}, and its {len(texts)} choices are numbered from 0 to {len(texts) - 1}"
        )
    return {"prompt": text("prompt", prompt), "choices": texts, "answer": answer}
