"""The chat template by which a tokenizer renders: the base's own or a chosen one, with what a training gives it baked in.

Whatever renders afterwards needs no arguments, and what is stored with a version is what its rows were rendered with.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import jinja2

from sdk.formats.template_kwargs import GIVEN_BY_RENDERERS, bake
from sdk.schemas.failures import FailureReason
from sdk.schemas.template_fields import TemplateFields
from workers.pipelines.data.control_tokens import ControlTokens
from workers.pipelines.data.conversation import Conversation, forms
from workers.pipelines.data.render import PROCESSOR_S, SPARE_BYTES, Renderer, TemplateRefusal, compiled, names_read
from workers.pipelines.data.tokenizer import template_beside
from workers.pipelines.errors import PipelineError, first_line
from workers.pipelines.sandbox import TooCostly, bounded

_CALL = {"type": "function", "id": "call00001", "function": {"name": "look", "arguments": {"at": "it"}}}
_PARAMETERS = {"type": "object", "properties": {"at": {"type": "string", "description": "At what."}}}
_TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": _PARAMETERS}}
#: Between them, they have everything that a template may render of texts.
_PROBES = (
    Conversation([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], None, ()),
    Conversation(
        [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a", "reasoning_content": "r"},
            {"role": "user", "content": "v"},
            {"role": "assistant", "content": "b", "reasoning_content": "q"},
        ],
        None,
        (),
    ),
    Conversation(
        [
            {"role": "user", "content": "u"},
            {"role": "assistant", "reasoning_content": "r", "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "call00001", "name": "look", "content": "t"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "v"},
            {"role": "assistant", "content": "b"},
        ],
        [_TOOL],
        (),
    ),
)


#: Words that no template changes, or writes by itself.
_QUESTION, _ANSWER = {"role": "user", "content": "zqaskz"}, {"role": "assistant", "content": "zqsayz"}


def choose_template(tokenizer: Any, chosen: TemplateFields, day: date | None) -> None:
    """Make a tokenizer render as a training's options say; the template gets their values at its head.

    Raises PipelineError ("spec") for a template that can't be compiled, doesn't write a plain conversation, or lets no
    answer end in one of the tokenizer's control tokens; and for values that the template doesn't read, that change
    nothing of what it writes, or that renderers set.
    """
    if chosen.chat_template is not None:
        _require_usable(chosen.chat_template, tokenizer, day)
        tokenizer.chat_template = chosen.chat_template
    values = chosen.template_values
    if not values:
        return
    own = tokenizer.chat_template
    if own is None:
        raise PipelineError(
            FailureReason.SPEC, "The base has no chat template, so nothing reads template_kwargs; leave it out."
        )
    by_name = dict(own) if isinstance(own, dict) else {"default": own}
    _require_read(list(by_name.values()), values, Renderer(tokenizer.special_tokens_map, day))
    baked = {name: bake(template, values) for name, template in by_name.items()}
    tokenizer.chat_template = baked if isinstance(own, dict) else baked["default"]


def require_rendered(template: str | None, chosen: TemplateFields) -> None:
    """Raise PipelineError ("spec") if options are about a chat template and no row was rendered with one."""
    if template is None and (given := list(chosen.of_template)):
        raise PipelineError(
            FailureReason.SPEC,
            f"The rows are not conversations, so no chat template renders them; leave {' and '.join(given)} out.",
        )


def require_same_template(template: str | None, parent: Path) -> None:
    """Raise PipelineError ("spec") if rows are rendered with another template than the one that comes with an adapter,
    which a training continues.
    """
    theirs = template_beside(parent)
    if template is not None and theirs is not None and template != theirs:
        raise PipelineError(
            FailureReason.SPEC,
            "The version that is continued was trained with another chat template than this, which is as good as another "
            "tokenizer; give its own as chat_template.",
        )


def _require_usable(template: str, tokenizer: Any, day: date | None) -> None:
    """Raise PipelineError ("spec") for a template that no training could learn from."""
    _names_read(template)
    renderer, tails = Renderer(tokenizer.special_tokens_map, day), []
    for following in ([], [_QUESTION]):
        probe = Conversation([_QUESTION, _ANSWER, *following], None, ())
        text, refusal = _rendered(renderer, template, probe, prompt=False)
        if refusal is not None:
            raise _unusable(f"refuses a plain conversation ({refusal})")
        for message in (_QUESTION, _ANSWER):
            if message["content"] not in text:
                raise _unusable(f"does not write the content of {message['role']} messages")
        tails.append(text.rpartition(_ANSWER["content"])[2].partition(_QUESTION["content"])[0])
    if not ControlTokens(tokenizer).turn_ends(*tails).tokens:
        shown = f"{tails[0][:40]!a}" if tails[0] else "nothing"
        raise _unusable(
            f"writes {shown} after an answer, and no control token of the base's tokenizer at which generation could stop"
        )


def _unusable(what: str) -> PipelineError:
    return PipelineError(FailureReason.SPEC, f"The chat template {what}; correct it, or give another one.")


def _require_read(templates: list[str], values: Mapping[str, Any], renderer: Renderer) -> None:
    given = sorted(values.keys() & {*GIVEN_BY_RENDERERS, *renderer.special_tokens})
    if given:
        raise PipelineError(
            FailureReason.SPEC, f"{given[0]} is given to a chat template by whoever renders it; leave it out."
        )
    read = frozenset[str]().union(*map(_names_read, templates)) - GIVEN_BY_RENDERERS - renderer.special_tokens.keys()
    for name in values:
        if name not in read:
            advice = (
                f"it reads {', '.join(sorted(read))}" if read else "it reads no arguments; leave template_kwargs out"
            )
            raise PipelineError(FailureReason.SPEC, f"The chat template does not read {name}; {advice}.")
    for name, value in values.items():
        others = {key: each for key, each in values.items() if key != name}
        without = _written(renderer, templates, others)
        # If only another value has an effect, this one is the template's default.
        if all(_written(renderer, templates, {**others, name: one}) == without for one in (value, _other(value))):
            raise PipelineError(
                FailureReason.SPEC,
                f"The chat template reads {name}, and writes nothing else with the value that it is given; give another "
                "value, or leave it out.",
            )


def _names_read(template: str) -> frozenset[str]:
    try:
        with bounded(spare_bytes=SPARE_BYTES, processor_s=PROCESSOR_S):
            compiled(template)
            return names_read(template)
    except (jinja2.TemplateError, RecursionError, TooCostly) as error:
        raise PipelineError(
            FailureReason.SPEC,
            f"The chat template can't be compiled ({_place(error)}{first_line(error)}); correct it, or give another one.",
        ) from error


def _place(error: BaseException) -> str:
    return f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""


def _other(value: Any) -> Any:
    """Return another value of the same kind, if it is a plain one."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}zq"
        case _:
            return value


def _written(renderer: Renderer, templates: list[str], values: Mapping[str, Any]) -> list[str]:
    """Return what templates with these values make of each probe, with and without the beginning of an answer; or why
    they refuse it.
    """
    return [
        "".join(filter(None, _rendered(renderer, bake(template, values), probe, prompt=prompt)))
        for template in templates
        for probe in _PROBES
        for prompt in (False, True)
    ]


def _rendered(renderer: Renderer, template: str, probe: Conversation, *, prompt: bool) -> tuple[str, str | None]:
    """Return the text of a conversation, or "" and why the template refuses it in every form."""
    said: str | None = None
    for form in forms(probe):
        messages = [form.message(message) for message in probe.messages]
        try:
            return renderer.render(template, messages, tools=probe.tools, prompt=prompt).text, None
        except TemplateRefusal as error:
            said = said or str(error)
    return "", said
