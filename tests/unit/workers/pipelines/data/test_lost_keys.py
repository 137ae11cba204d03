"""Of random conversations nothing is lost: it is in what is learnt or in what is before it, or the row is refused by name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import templates

from sdk.formats.rows import RowsError, check_rows
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.errors import PipelineError

#: One of each kind: with and without tools, with and without reasoning, with parts, with a date, with arguments as text.
NAMES = ["qwen3", "llama3_2", "gptoss", "deepseekv3", "lfm2_2_5", "gemma4_v5", "smolvlm", "phi3", "glm4moe", "qwen2_5"]


class Words:
    """Words that occur once in a row, by what they are of."""

    def __init__(self) -> None:
        self._numbers: Iterator[int] = itertools.count()
        self.learnt: list[str] = []
        self.masked: list[str] = []
        self.anywhere: list[str] = []
        self.keys: list[str] = []

    def word(self, *of: list[str]) -> str:
        """Return a new one, and remember what it is of."""
        made = f"word{next(self._numbers)}x"
        for words in of:
            words.append(made)
        return made


@st.composite
def rows(draw: st.DrawFn) -> tuple[dict[str, Any], Words]:
    """A conversation whose texts are words, some of its keys unknown."""
    words = Words()
    flag = st.integers(0, 5).map(lambda number: number == 0)
    messages: list[dict[str, Any]] = []
    if draw(flag):
        messages.append({"role": "system", "content": words.word(words.anywhere)})
    turns = draw(st.integers(1, 3))
    for turn in range(turns):
        user: dict[str, Any] = {"role": "user", "content": words.word(words.anywhere)}
        if draw(flag):
            user["name"] = words.word(words.anywhere)
        if draw(flag):
            user["content"] = [{"type": "text", "text": user["content"]}]
        messages.append(user)
        weight = draw(st.sampled_from([None, None, 0, 1]))
        # The last answer is learnt, so that what is before it has to be rendered.
        weight = None if weight == 0 and turn == turns - 1 else weight
        where = words.masked if weight == 0 else words.learnt
        answer: dict[str, Any] = {"role": "assistant", "weight": weight}
        if draw(flag):
            name, key, value = (words.word(where) for _ in range(3))
            answer["tool_calls"] = [{"function": {"name": name, "arguments": {key: value, "days": 2}}}]
            answer["content"] = draw(st.sampled_from([None, ""]))
        else:
            answer["content"] = draw(st.sampled_from(["", " "])) + words.word(where) + draw(st.sampled_from(["", "\n"]))
        if draw(flag) and weight != 0:
            answer["reasoning_content"] = words.word(where)
        if draw(flag) and draw(flag):
            answer["mood"] = words.word(words.keys)
        messages.append(answer)
        if "tool_calls" in answer:
            messages.append({"role": "tool", "content": words.word(words.anywhere)})
            messages.append({"role": "assistant", "content": words.word(words.learnt)})
    row: dict[str, Any] = {"messages": messages}
    if draw(flag):
        row["tools"] = [{"type": "function", "function": {"name": words.word(words.anywhere)}}]
    if draw(flag) and draw(flag):
        row["id"] = words.word(words.keys)
    return row, words


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=rows())
def test_no_key_is_lost(name: str, case: tuple[dict[str, Any], Words]) -> None:
    row, words = case
    tokenizer = templates.tokenizer_of(name)
    try:
        checked = list(check_rows([("line 1", row)]))
        assert not words.keys
        found = tokenise(
            checked, tokenizer, loss_on=None, max_length=8192, day=date(2026, 3, 4), stop_ids=templates.stop_ids(name)
        )
    except (RowsError, PipelineError) as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert re.search(r"line 1 .*`\w+`|line 1 is refused by the base's chat template|line 1 has an answer", refusal)
        return
    learnt = "".join(
        tokenizer.decode([label for label in example.labels if label != IGNORED]) for example in found.examples
    )
    whole = "".join(tokenizer.decode(example.input_ids) for example in found.examples)
    for word in words.learnt:
        assert learnt.count(word) == 1
    for word in words.masked:
        assert word not in learnt
        assert word in whole
    for word in words.anywhere:
        assert word not in learnt
        assert word in whole
