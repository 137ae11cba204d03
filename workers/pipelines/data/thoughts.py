"""How a template writes thoughts and the headers of answers, and what of an answer's tokens comes after them.

Both sides of a comparison are cut alike: the answer that is expected, and the one that a model wrote.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from workers.pipelines.data.render import TemplateRefusal

Message = dict[str, Any]
#: Stand for a content, or a name, and for a thought; Unicode reserves them for private use, so no template looks for them.
WORD, _THOUGHT = "\U000f0004", "\U000f0005"
#: What some templates end a thought at that is written into a content.
THOUGHT_ENDS = "</think>"
#: From messages, and whether the beginning of an answer follows them, to text. Raises TemplateRefusal.
RenderAll = Callable[[Sequence[Message], bool], str]


class Notation(NamedTuple):
    """How a thought is written, with control tokens and without blanks around."""

    opens: str
    #: What may end it, the longest first.
    closes: tuple[str, ...]


#: Notations in use, for models that write another one than their template, or whose template writes none.
_COMMON = (
    Notation("<think>", (THOUGHT_ENDS,)),
    Notation("<|channel>thought", ("<channel|>",)),
    Notation("<|channel|>analysis<|message|>", ("<|end|><|start|>assistant<|channel|>final<|message|>", "<|end|>")),
)
_COMMON_HEADERS = ("<|channel|>final<|message|>",)


@dataclass(frozen=True)
class Thoughts:
    """How thoughts are written, and the headers of answers without any."""

    notations: tuple[Notation, ...] = _COMMON
    headers: tuple[str, ...] = _COMMON_HEADERS
    #: What the template writes between a thought and a content, with blanks; the first notation is its own then. "": nothing.
    closing: str = ""

    def within(self, text: str) -> bool:
        """Whether a text ends at the beginning of a thought."""
        return text.rstrip().endswith(tuple(notation.opens for notation in self.notations))

    def appear_in(self, text: str) -> bool:
        """Whether a text has a mark of a thought or a header in it."""
        marks = (*self.headers, *(mark for each in self.notations for mark in (each.opens, *each.closes)))
        return any(mark in text for mark in marks)


def find_thoughts(render: RenderAll, controls: str) -> Thoughts:
    """Return how a template writes thoughts, by the difference that a reasoning makes; `controls` matches control tokens."""
    asked = {"role": "user", "content": "a"}
    answers = (
        {"role": "assistant", "content": WORD},
        {"role": "assistant", "reasoning_content": _THOUGHT, "content": WORD},
        {"role": "assistant", "reasoning_content": _THOUGHT, "tool_calls": [_call(WORD)]},
    )
    prompt = _rendered(render, [asked], True)
    plain, thought, called = (_rendered(render, [asked, answer], False) for answer in answers)
    before, _, rest = thought.partition(_THOUGHT)
    middle, found, _ = rest.partition(WORD)
    own = []
    if found and middle.strip() and (opens := _opening(before, prompt, controls)):
        before_call = called.partition(_THOUGHT)[2].partition(WORD)[0]
        shared = middle[: common_start(middle, before_call)].strip()
        own.append(Notation(opens, tuple(dict.fromkeys(filter(None, (middle.strip(), shared))))))
    before, found, _ = plain.partition(WORD)
    header = before.removeprefix(prompt).strip() if found and before.startswith(prompt) else ""
    headers = tuple(filter(None, (header, *_COMMON_HEADERS)))
    return Thoughts((*own, *_COMMON), headers, middle if own else "")


def _call(name: str) -> dict[str, Any]:
    return {"type": "function", "id": "call00000", "function": {"name": name, "arguments": {}}}


def _rendered(render: RenderAll, messages: Sequence[Message], prompt: bool) -> str:
    try:
        return render(messages, prompt)
    except TemplateRefusal:
        return ""


def _opening(before: str, prompt: str, controls: str) -> str:
    """Return what comes before a thought and is not in the prompt, or with what the prompt has opened it."""
    written = before[common_start(before, prompt) :].strip()
    last = re.search(rf"(?:{controls}|<[^<>\s]+>)\s*\Z", before)
    return written or (last[0].strip() if last else "")


def common_start(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


class Cut(NamedTuple):
    """What comes after the thoughts and headers with which tokens begin."""

    #: The first of the tokens after them, and what the token before it has of the text after them.
    first: int = 0
    lead: str = ""
    reasoning: str = ""
    #: False for a thought that has no end.
    closed: bool = True


def cut_leading(ids: Sequence[int], tokenizer: Any, thoughts: Thoughts, *, within: bool) -> Cut:
    """Return what comes after the leading thoughts and headers; `within`: the first token is part of a thought already."""
    text, at, reasoning = _decoded(ids, tokenizer), 0, list[str]()
    while (found := _next(text, at, thoughts, within=within and at == 0)) is not None:
        begins, ends, after = found
        reasoning.append(text[begins:ends].strip())
        if after is None:
            return Cut(0, "", "\n".join(filter(None, reasoning)), closed=False)
        at = after
    first = bisect_left(range(len(ids)), at, key=lambda count: len(_decoded(ids[:count], tokenizer)))
    lead = _decoded(ids[:first], tokenizer)[at:]
    return Cut(first, lead, "\n".join(filter(None, reasoning)))


def _next(text: str, at: int, thoughts: Thoughts, *, within: bool) -> tuple[int, int, int | None] | None:
    """Return where the thought that begins there has its text, and where it ends, None if it doesn't; a header is one
    without a text. None if there is neither.
    """
    start = at + len(text[at:]) - len(text[at:].lstrip())
    opened = next((each for each in thoughts.notations if text.startswith(each.opens, start)), None)
    if opened is None and not within:
        header = next((each for each in thoughts.headers if text.startswith(each, start)), None)
        return None if header is None else (start, start, start + len(header))
    begins = at if opened is None else start + len(opened.opens)
    closes = opened.closes if opened else tuple(close for each in thoughts.notations for close in each.closes)
    ends = sorted((place, -len(close)) for close in closes if (place := text.find(close, begins)) >= 0)
    return (begins, ends[0][0], ends[0][0] - ends[0][1]) if ends else (begins, len(text), None)


def _decoded(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class Scaffold:
    """What a template writes of one row's answer besides its content and calls."""

    thoughts: Thoughts
    #: The tokens before the content: with the row's own reasoning; and what the last of them has of the content.
    head: tuple[int, ...] = ()
    lead: str = ""
    #: Whether the prompt ends within a thought, and whether the row's own answer begins within one.
    prompt_within: bool = False
    row_within: bool = False
    #: Whether the row's own content begins as a thought does that has no end.
    unclosed: bool = False

    def reasoning(self, tokenizer: Any) -> str:
        """The row's own thought; "" if it has none."""
        cut = cut_leading(self.head, tokenizer, self.thoughts, within=self.prompt_within or self.row_within)
        return cut.reasoning if cut.closed else ""


class Answer(NamedTuple):
    """What a model wrote."""

    #: Content and calls, with the blanks around them.
    content: str
    reasoning: str = ""
    #: Whether a thought has no end, so that there is no content.
    unfinished: bool = False


def read_answer(ids: Sequence[int], tokenizer: Any, scaffold: Scaffold, *, ended: bool) -> Answer:
    """Return what is said in generated tokens, without the one that `ended` them.

    The row's own scaffold is cut off, or, if the model wrote another one, whole leading thoughts and headers.
    """
    within, head = scaffold.prompt_within or scaffold.row_within, scaffold.head
    own = bool(head) and tuple(ids[: len(head)]) == head
    if own:
        return Answer(scaffold.lead + _content(ids[len(head) :], tokenizer), scaffold.reasoning(tokenizer))
    cut = cut_leading(ids, tokenizer, scaffold.thoughts, within=within)
    if not cut.closed and not scaffold.prompt_within:
        # Only the row's own answer has a thought that its prompt didn't ask for.
        cut = cut_leading(ids, tokenizer, scaffold.thoughts, within=False)
    if cut.closed or (ended and scaffold.unclosed):
        return Answer(cut.lead + _content(ids[cut.first :], tokenizer), cut.reasoning if cut.closed else "")
    return Answer("", cut.reasoning, unfinished=True)


def _content(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))
