"""Rows with several right answers: a prompt, and all texts that are correct completions.

>>> references({"prompt": "Translate: chat", "references": ["cat", "a cat"]})
{'prompt': 'Translate: chat', 'references': ['cat', 'a cat']}
>>> references({"prompt": "Translate: chat", "references": "cat"})
Traceback (most recent call last):
ValueError: has `references` that are not a list of 1 to 100 texts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sdk.formats.messages import check_messages, check_tools

#: The keys of such a row.
REFERENCES = ("prompt", "references", "tools")
#: The most references of a row.
MOST_REFERENCES = 100


def references(
    given: Mapping[str, Any], text: Callable[[str, Any], str] = lambda name, value: str(value)
) -> dict[str, Any]:
    """Return the fields of a row; its prompt is a text or a list of messages, which may have tools. `text` checks one text.

    Raises ValueError with what is wrong, as the rest of a sentence about the row.
    """
    prompt, found = given.get("prompt"), given.get("references")
    if not isinstance(found, list) or not 1 <= len(found) <= MOST_REFERENCES:
        raise ValueError(f"has `references` that are not a list of 1 to {MOST_REFERENCES} texts")
    texts = [text(f"references[{number}]", reference) for number, reference in enumerate(found)]
    if not isinstance(prompt, list):
        if "tools" in given:
            raise ValueError("has `tools` for a prompt that is a text; write the prompt as a list of messages")
        return {"prompt": text("prompt", prompt), "references": texts}
    tools = {"tools": check_tools(given["tools"])} if "tools" in given else {}
    return {"prompt": check_messages("prompt", prompt, weights=False), "references": texts, **tools}
