"""Reasoning apart from the content while an answer arrives: as what reads whole answers does it."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
from support.templates import tokenizer_with

from workers.pipelines.data.thoughts import Notation, Scaffold, Thoughts, read_answer
from workers.serving.decoding.requests import Token
from workers.serving.texts.answers import AnswerStream
from workers.serving.texts.texts import TextVocabulary

MARKS = "<|im_start|><|im_end|><|end|><|start|><|channel|><|message|><think></think>"
COMMON = Thoughts()
LED = Thoughts(
    (Notation("<think>", ("</think>\n\n", "</think>")), *Thoughts().notations), ("<|im_start|>", "assistant:")
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_with(MARKS, bos="<|im_start|>", eos="<|im_end|>")


@cache
def vocabulary_of(tokenizer: Any) -> TextVocabulary:
    return TextVocabulary(tokenizer)


def shown(tokenizer: Any, ids: list[int], thoughts: Thoughts, *, within: bool = False) -> tuple[str, str]:
    answer = AnswerStream(vocabulary_of(tokenizer), thoughts=thoughts, within=within)
    deltas = [answer.add(Token(token, None)) for token in ids] + [answer.end()]
    assert answer.tokens == len(ids)
    assert not answer._waiting or not any(delta.content for delta in deltas)
    return "".join(delta.content for delta in deltas), "".join(delta.reasoning for delta in deltas)


def expected(tokenizer: Any, ids: list[int], thoughts: Thoughts, *, within: bool = False) -> tuple[str, str]:
    answer = read_answer(ids, tokenizer, Scaffold(thoughts, prompt_within=within), ended=True)
    return answer.content.lstrip(), answer.reasoning


PARTS = ["<think>", "</think>", "\n\n", " ", "so", "<th", "</th", "ink>", "<|channel|>analysis<|message|>", "<|end|>"]
PARTS += [
    "<|start|>assistant<|channel|>final<|message|>",
    "<|channel|>final<|message|>",
    "<|im_start|>",
    "assistant:",
    "é",
    "€",
]


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("thoughts", [COMMON, LED], ids=["common", "led"])
def test_any_answer_is_split_as_a_whole_one_is(tokenizer: Any, thoughts: Thoughts, within: bool) -> None:
    chance, reasoned = random.Random(3), 0
    for _ in range(300):
        text = chance.choice(["", "<think>so"]) + "".join(chance.choices(PARTS, k=chance.randint(0, 8)))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        content, reasoning = shown(tokenizer, ids, thoughts, within=within)
        wanted = expected(tokenizer, ids, thoughts, within=within)
        assert (content.lstrip(), reasoning) == wanted, text
        reasoned += bool(reasoning) and bool(content)
    assert reasoned > 20


def test_reasoning_comes_before_its_end_is_known(tokenizer: Any) -> None:
    answer = AnswerStream(TextVocabulary(tokenizer), thoughts=COMMON)
    ids = tokenizer("<think>one two", add_special_tokens=False)["input_ids"]
    deltas = [answer.add(Token(token, None)) for token in ids]
    assert "".join(delta.reasoning for delta in deltas) == "one two"


def test_blanks_before_a_content_without_thoughts_are_its_own(tokenizer: Any) -> None:
    ids = tokenizer("\n one", add_special_tokens=False)["input_ids"]
    assert shown(tokenizer, ids, COMMON) == ("\n one", "")


def test_stop_text_in_a_reasoning_ends_nothing(tokenizer: Any) -> None:
    answer = AnswerStream(TextVocabulary(tokenizer), thoughts=COMMON, stops=["END"])
    ids = tokenizer("<think>a END b</think>c END d", add_special_tokens=False)["input_ids"]
    deltas = [answer.add(Token(token, None)) for token in ids]
    assert "".join(delta.reasoning for delta in deltas) == "a END b"
    assert "".join(delta.content for delta in deltas) == "c "
    assert answer.stopped


def test_tokens_of_the_content_are_those_that_are_shown(tokenizer: Any) -> None:
    answer = AnswerStream(TextVocabulary(tokenizer), thoughts=COMMON, stops=["STOP"])
    ids = tokenizer("<think>a</think>\n\none two STOP three", add_special_tokens=False)["input_ids"]
    tokens = [token for each in ids for token in answer.add(Token(each, -1.0)).tokens] + list(answer.end().tokens)
    assert tokenizer.decode([token.id for token in tokens]).strip() == "one two"
    assert answer.tokens == len(tokenizer("<think>a</think>\n\none two STOP", add_special_tokens=False)["input_ids"])
