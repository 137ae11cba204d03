"""Which parts of a rendered conversation are learnt: found in the text, in characters, by the first method that is sure.

The methods, in this order: the template's own `{% generation %}` marks; what comes after the prompt that the answer is
generated from ("prefix"); the marks of TRL's variant of a known template, if it renders exactly the same text
("variant"); one sample for each answer, rendered as for generating it ("turns"); TRL's variant if it renders another
text ("changed"). A conversation for which all of them fail is refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Any, Literal

from sdk.formats.template_kwargs import names_in, unbake, with_head
from workers.pipelines.data.contents import AnswerText, ContentFinder, Span
from workers.pipelines.data.control_tokens import ControlTokens, TurnEnds
from workers.pipelines.data.conversation import Conversation, Form, Probed, RowRefused, forms, missing_from, probe
from workers.pipelines.data.render import (
    PROCESSOR_S,
    SPARE_BYTES,
    Rendered,
    Renderer,
    TemplateRefusal,
    has_marks,
    names_read,
)
from workers.pipelines.data.thoughts import Thoughts
from workers.pipelines.data.tokenizer import default_template
from workers.pipelines.sandbox import bounded

Method = Literal["marks", "prefix", "variant", "turns", "changed", "all"]


@dataclass(frozen=True)
class SupervisedText:
    """A text with the parts that are learnt; a row may have several texts."""

    text: str
    #: In characters, [start, end), in order.
    spans: tuple[Span, ...]
    method: Method
    #: The text from which the last learnt answer is generated; "" if there is none.
    prompt: str
    #: Index of that answer.
    answer: int | None
    #: Whether the template wrote the date.
    dated: bool
    #: The template that rendered it, or the one that TRL's variant belongs to.
    template: str
    #: The answers in it, in order; none if they weren't asked for.
    answers: tuple[AnswerText, ...] = ()
    #: How its template writes thoughts; None if that wasn't asked for.
    thoughts: Thoughts | None = None


class ChatTemplate:
    """The chat template of a tokenizer, on one day. Raises RowRefused for conversations that it can't render.

    Generation stops at `stop_ids` and at the tokenizer's end of text. With `contents`, what each answer says is found
    in the text, which takes one more rendering of an answer.
    """

    def __init__(
        self, tokenizer: Any, day: date | None, stop_ids: Iterable[int] = (), *, contents: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer.special_tokens_map, day)
        self._eos = str(tokenizer.eos_token)
        self._controls = ControlTokens(tokenizer, stop_ids)
        self._known_ends: dict[tuple[str, Form], TurnEnds] = {}
        self._contents = ContentFinder(self._render, self._controls) if contents else None

    def whole(self, conversation: Conversation) -> SupervisedText:
        """Return a conversation whose tokens are all learnt."""
        template = self._template(conversation)
        # No answer may lack its reasoning.
        answers = tuple(i for i, message in enumerate(conversation.messages) if message["role"] == "assistant")
        fitting = self._fit(template, replace(conversation, learnt=answers))
        if fitting.lost:
            raise _lost(fitting.lost)
        text = fitting.rendered.text
        for index in answers:
            missing = missing_from(conversation.messages[index], text)
            if missing is not None:
                raise _lost([f"`{missing}` of message {index + 1} as it is given"])
        answer = answers[-1] if answers else None
        prompt = "" if not answer else self._prompt(fitting, answer)
        span = (len(prompt) if text.startswith(prompt) else 0, len(text))
        return SupervisedText(
            text,
            ((0, len(text)),),
            "all",
            prompt,
            answer,
            fitting.rendered.dated,
            template,
            **self._said(fitting, text, {index: span if index == answer else (0, len(text)) for index in answers}),
        )

    def learnt(self, conversation: Conversation) -> list[SupervisedText]:
        """Return samples in which exactly the learnt answers and their ends are marked."""
        template = self._template(conversation)
        try:
            fitting = self._fit(template, conversation)
            sample = None if fitting.lost else self._sample(fitting)
            if sample is not None:
                return [sample]
        except RowRefused:
            # The template may accept the conversation up to each answer, as when generating it.
            pass
        problems = _Problems()
        samples = []
        for answer in conversation.learnt:
            fitting = self._fit(template, conversation.until(answer))
            if fitting.lost:
                raise _lost(fitting.lost)
            sample = self._sample(fitting, problems)
            if sample is None:
                sample = self._changed(fitting)
            if sample is None:
                raise problems.refusal(answer)
            samples.append(sample)
        if len(samples) == 1:
            return samples
        return [sample if sample.method == "changed" else replace(sample, method="turns") for sample in samples]

    def _template(self, conversation: Conversation) -> str:
        try:
            return str(self._tokenizer.get_chat_template(None, conversation.tools))
        except ValueError as error:
            raise RowRefused(
                f"needs a chat template that the base doesn't have: {str(error).splitlines()[0]}"
            ) from error

    def _fit(self, template: str, conversation: Conversation) -> _Fitting:
        """Return the conversation in the first form that the template renders completely, or else the one that loses least."""
        probed = probe(conversation)
        best: _Fitting | None = None
        refusal: TemplateRefusal | None = None
        for form in forms(conversation):
            try:
                rendered = self._render(template, conversation, form)
                found = self._render(template, probed.conversation, form)
            except TemplateRefusal as error:
                refusal = refusal or error
                continue
            fitting = _Fitting(template, conversation, form, rendered, probed, found, probed.lost(found.text))
            if not fitting.lost:
                return fitting
            if best is None or len(fitting.lost) < len(best.lost):
                best = fitting
        if best is None:
            raise RowRefused(f"is refused by the base's chat template ({refusal})")
        return best

    def _render(self, template: str, conversation: Conversation, form: Form, *, prompt: bool = False) -> Rendered:
        messages = [form.message(message) for message in conversation.messages]
        return self._renderer.render(template, messages, tools=conversation.tools, prompt=prompt)

    def _prompt(self, fitting: _Fitting, answer: int) -> str:
        """Return the text from which the answer is generated. Raises RowRefused if the template renders none."""
        if answer not in fitting.prompts:
            fitting.prompts[answer] = self._render_prompt(fitting, answer)
        return fitting.prompts[answer]

    def _render_prompt(self, fitting: _Fitting, answer: int) -> str:
        before = replace(fitting.conversation, messages=fitting.conversation.messages[:answer])
        try:
            return self._render(fitting.template, before, fitting.form, prompt=True).text
        except TemplateRefusal as error:
            if answer == 0:
                raise RowRefused(
                    "begins with an answer, for which the base's chat template has no prompt; give that answer a `weight` of 0,"
                    " or put a message before it"
                ) from error
            raise RowRefused(
                f"has no prompt for message {answer + 1}: the base's chat template says {error}"
            ) from error

    def _sample(self, fitting: _Fitting, problems: _Problems | None = None) -> SupervisedText | None:
        """Return the sample of the first method that is sure of every learnt answer."""
        methods: dict[Method, Callable[[_Fitting], dict[int, Span] | None]] = {
            "marks": self._by_marks,
            "prefix": self._by_prefix,
            "variant": self._by_variant,
        }
        for method, find in methods.items():
            found = find(fitting)
            settled = None if found is None else self._settled(fitting, found, problems)
            if settled is not None:
                return self._made(fitting, *settled, method, fitting)
        return None

    def _changed(self, fitting: _Fitting) -> SupervisedText | None:
        other = self._fit_variant(fitting)
        spans = None if other is None else _turns(other)
        if other is None or spans is None:
            return None
        settled = self._settled(other, spans, None)
        return None if settled is None else self._made(fitting, *settled, "changed", other)

    def _made(
        self, fitting: _Fitting, text: str, spans: tuple[Span, ...], method: Method, rendered_by: _Fitting
    ) -> SupervisedText:
        learnt = fitting.conversation.learnt
        return SupervisedText(
            text,
            spans,
            method,
            self._prompt(fitting, learnt[-1]),
            learnt[-1],
            rendered_by.rendered.dated,
            fitting.template,
            **self._said(rendered_by, text, dict(zip(learnt, spans, strict=True))),
        )

    def _said(self, fitting: _Fitting, text: str, spans: Mapping[int, Span]) -> dict[str, Any]:
        """Return what the answers say, given by their indices and places in the text, and how thoughts are written."""
        if self._contents is None:
            return {}
        template, form, conversation = fitting.template, fitting.form, fitting.conversation
        found = []
        for answer, (start, end) in spans.items():
            content = self._contents.content(template, form, conversation, fitting.rendered.text, answer) or (end, end)
            # The token that ends the turn is no part of it.
            last = min(content[1], self._controls.last_control(text, start, end))
            found.append(AnswerText((start, end), (max(content[0], start), last), answer))
        return {"answers": tuple(found), "thoughts": self._contents.thoughts(template, form)}

    def _by_marks(self, fitting: _Fitting) -> dict[int, Span] | None:
        if not has_marks(fitting.template):
            return None
        return _turns(fitting)

    def _by_prefix(self, fitting: _Fitting) -> dict[int, Span] | None:
        text, found = fitting.rendered.text, {}
        for answer in fitting.conversation.learnt:
            try:
                before = self._prompt(fitting, answer)
                through = fitting.conversation.until(answer)
                after = self._render(fitting.template, through, fitting.form).text.rstrip()
            except (RowRefused, TemplateRefusal):
                return None
            if not text.startswith(before) or not text.startswith(after) or len(after) <= len(before):
                return None
            found[answer] = (len(before), len(after))
        return found

    def _by_variant(self, fitting: _Fitting) -> dict[int, Span] | None:
        other = self._fit_variant(fitting)
        if other is None or other.rendered.text != fitting.rendered.text:
            return None
        return _turns(other)

    def _fit_variant(self, fitting: _Fitting) -> _Fitting | None:
        """Return the conversation for TRL's variant of the template, if that renders all of it."""
        variant = self._variant(fitting.template)
        if variant is None:
            return None
        try:
            other = self._fit(variant, fitting.conversation)
        except RowRefused:
            return None
        return None if other.lost else other

    def _variant(self, template: str) -> str | None:
        """Return TRL's variant with marks of a template that it knows."""
        return self._default_variant if template == default_template(self._tokenizer) else None

    @cached_property
    def _default_variant(self) -> str | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                from trl.chat_template_utils import get_training_chat_template

                known = copy(self._tokenizer)
                head, original = unbake(default_template(known) or "")
                if head:
                    # TRL knows templates as they are published.
                    known.chat_template = original
                # It renders the template by itself.
                with bounded(spare_bytes=SPARE_BYTES, processor_s=PROCESSOR_S):
                    variant: str | None = get_training_chat_template(known)
                    if variant is None or not names_in(head) <= names_read(variant):
                        return None
                    return with_head(head, variant)
            except Exception:  # noqa: BLE001 - whatever that raises says: none
                return None

    def _settled(
        self, fitting: _Fitting, found: dict[int, Span], problems: _Problems | None
    ) -> tuple[str, tuple[Span, ...]] | None:
        """Return the text and the spans of the learnt answers, each from its first token to its end of turn.

        None if one doesn't contain the answer's text, or doesn't end in a token at which a model could stop.
        """
        problems = problems or _Problems()
        text = fitting.rendered.text
        ends = self._ends(fitting.template, fitting.form)
        spans = []
        for answer in fitting.conversation.learnt:
            if answer not in found:
                problems.add("the answer is not found in the rendered text")
                return None
            start, end = found[answer]
            start = self._after_header(fitting, answer, text, start, end)
            end = self._controls.end_of_turn(text, start, end, ends)
            if not self._controls.stops(text[start:end], ends):
                if answer != fitting.conversation.learnt[-1] or text[end:].strip():
                    problems.add("the template writes no end of turn after the answer")
                    return None
                # As after completions: the model has to learn to stop.
                text = text[:end] + self._eos
                end = len(text)
            missing = missing_from(fitting.conversation.messages[answer], text[start:end])
            if missing is not None:
                problems.add(f"the template changes its `{missing}`")
                return None
            spans.append((start, end))
        return text, tuple(spans)

    def _after_header(self, fitting: _Fitting, answer: int, text: str, start: int, end: int) -> int:
        """Return where an answer begins, after the tokens that its prompt already has."""
        prompt = self._prompt(fitting, answer)
        if text.startswith(prompt) and start <= len(prompt) < end:
            return len(prompt)
        header = re.match(rf"(?:{self._controls.pattern})+", text[start:end])
        if header is None:
            return start
        for token in re.findall(self._controls.pattern, header[0]):
            if prompt[: start + len(token)] != text[: start + len(token)]:
                break
            start += len(token)
        return start

    def _ends(self, template: str, form: Form) -> TurnEnds:
        if (template, form) not in self._known_ends:
            self._known_ends[template, form] = self._find_ends(template, form)
        return self._known_ends[template, form]

    def _find_ends(self, template: str, form: Form) -> TurnEnds:
        """Return what the template writes after a plain answer, whether it is the last message or not."""
        word = "zqendz"
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": word}]
        tails = []
        for messages in (turn, [*turn, {"role": "user", "content": "b"}]):
            try:
                text = self._render(template, Conversation(messages, None, ()), form).text
            except TemplateRefusal:
                return TurnEnds("", frozenset())
            tails.append(text.rpartition(word)[2])
        return self._controls.turn_ends(*tails)


@dataclass(frozen=True)
class _Fitting:
    """A conversation in a form that a template accepts."""

    template: str
    conversation: Conversation
    form: Form
    rendered: Rendered
    probed: Probed
    #: The probe, rendered.
    found: Rendered
    #: The parts of it that are not rendered.
    lost: list[str]
    #: By answer, as they are rendered.
    prompts: dict[int, str] = field(default_factory=dict)


class _Problems:
    """Why the methods gave up, for the message."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, problem: str) -> None:
        self._found.append(problem)

    def refusal(self, answer: int) -> RowRefused:
        why = self._found[0] if self._found else "its prompt is not the beginning of the rendered text"
        return RowRefused(
            f"has an answer, message {answer + 1}, and the base's chat template doesn't show what to learn of it"
            f" ({why}); set loss_on to all, or take a base with another template"
        )


def _turns(fitting: _Fitting) -> dict[int, Span] | None:
    """Return where each message is by the template's marks; the probe tells which mark belongs to which message."""
    rendered, found, probed = fitting.rendered, fitting.found, fitting.probed
    if len(rendered.generated) != len(found.generated) or not rendered.generated:
        return None
    turns: dict[int, Span] = {}
    last: int | None = None
    for (start, end), (begins, stops) in zip(rendered.generated, found.generated, strict=True):
        of = probed.messages_in(found.text[begins:stops])
        if len(of) > 1 or (not of and last is None):
            return None
        last = of.pop() if of else last
        assert last is not None
        turns[last] = (turns[last][0] if last in turns else start, end)
    return turns


def _lost(names: list[str]) -> RowRefused:
    return RowRefused(
        f"holds {', '.join(names)}, which the base's chat template does not render; remove it, or take a base whose"
        " template does"
    )
