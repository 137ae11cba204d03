"""Where the content of an answer is in a rendered conversation, found by rendering another answer in its place and comparing.

Around content and calls a template writes scaffold: an empty thought, the header of a channel, the end of the turn. The
reasoning is part of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from workers.pipelines.data.control_tokens import ControlTokens
from workers.pipelines.data.conversation import Conversation, Form
from workers.pipelines.data.render import Rendered, TemplateRefusal
from workers.pipelines.data.thoughts import THOUGHT_ENDS, WORD, Message, Thoughts, common_start, find_thoughts

#: [start, end) in characters.
Span = tuple[int, int]
#: From a message in the place of the answer to the rendered conversation. Raises TemplateRefusal.
RenderWith = Callable[[Message], str]


class AnswerText(NamedTuple):
    """An answer in a text."""

    #: From what follows its prompt to its end of turn.
    span: Span
    #: Its content and calls; empty if it has neither.
    content: Span
    #: Its message's index.
    message: int


class ContentFinder:
    """Finds the contents of answers in what the templates of one tokenizer render.

    `render` takes a template, a conversation, the form in which the template reads it, and `prompt`.
    """

    def __init__(self, render: Callable[..., Rendered], controls: ControlTokens) -> None:
        self._render, self._controls = render, controls
        self._thoughts: dict[tuple[str, Form], Thoughts] = {}

    def content(self, template: str, form: Form, conversation: Conversation, text: str, answer: int) -> Span | None:
        """Return where the content and calls of an answer, given by its index, are in the rendered text; None if it has
        neither.
        """
        messages = conversation.messages

        def render(message: Message) -> str:
            changed = replace(conversation, messages=[*messages[:answer], message, *messages[answer + 1 :]])
            return self._render(template, changed, form).text

        try:
            return content_span(messages[answer], text, render, self._controls.pattern)
        except TemplateRefusal:
            return 0, len(text)

    def thoughts(self, template: str, form: Form) -> Thoughts:
        """Return how a template writes thoughts."""

        def render(messages: Sequence[Message], prompt: bool) -> str:
            return self._render(template, Conversation(list(messages), None, ()), form, prompt=prompt).text

        if (template, form) not in self._thoughts:
            self._thoughts[template, form] = find_thoughts(render, self._controls.pattern)
        return self._thoughts[template, form]


def content_span(message: Message, text: str, render: RenderWith, controls: str) -> Span | None:
    """Return where the content and the calls of an answer are in the text of its conversation, which `render` makes with
    other answers; None if it has neither, apart from a thought. `controls` matches the tokenizer's control tokens.

    Raises TemplateRefusal if the template refuses what is rendered for comparison.
    """
    said = _said(message, render, text)
    if "tool_calls" not in message:
        return said
    bare = render({**{key: value for key, value in message.items() if key != "tool_calls"}, "content": WORD})
    first, last = _differing(text, bare, controls)
    if said is None:
        return first, last
    return (first, said[1]) if _name_at(message, render) < said[0] else (said[0], max(last, said[1]))


def _said(message: Message, render: RenderWith, text: str) -> Span | None:
    """Return where the content is: what stands in the text between what the template writes around another one.

    A template that reads a thought in the content writes that in its own way, so the other one has the same thought.
    """
    content = message.get("content", "")
    if not content.strip():
        return None
    for head in _heads(content):
        before, _, after = render({**message, "content": head + WORD}).partition(WORD)
        found = len(before), len(text) - len(after)
        if found[0] <= found[1] and text.startswith(before) and text.endswith(after):
            said = text[slice(*found)]
            if said.strip() == content[len(head) :].strip():
                return found if said.strip() else None
    raise TemplateRefusal("it writes the content in a way of its own")


def _heads(content: str) -> Iterator[str]:
    """Yield the beginnings of a content that a template may read as a thought; most read none."""
    yield ""
    if THOUGHT_ENDS in content:
        yield content[: content.rindex(THOUGHT_ENDS) + len(THOUGHT_ENDS)]


def _differing(text: str, other: str, controls: str) -> Span:
    """Return the part of a text that another one doesn't have; no control token crosses its borders."""
    first = common_start(text, other)
    last = len(text) - common_start(text[first:][::-1], other[first:][::-1])
    for token in re.finditer(controls, text):
        if token.start() < first < token.end():
            first = token.start()
        if token.start() < last < token.end():
            last = token.end()
    return first, last


def _name_at(message: Message, render: RenderWith) -> int:
    """Return where the name of the first call is."""
    call, *others = message["tool_calls"]
    named = {**call, "function": {**call["function"], "name": WORD}}
    return render({**message, "tool_calls": [named, *others]}).find(WORD)
