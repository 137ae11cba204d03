"""Conversations rendered by the templates of versions, in a program of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import date, datetime

import pytest

from workers.serving.texts.prompts import (
    PromptRenderer,
    PromptRenderers,
    RenderingRefused,
    RenderingTakesLong,
    TemplateInUse,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = [{"role": "user", "content": "hi"}]
THINKING = CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")


def template(text: str, day: date | None = None) -> TemplateInUse:
    return TemplateInUse(text, {"bos_token": "<s>"}, r"<\|im_start\|>|<\|im_end\|>", day)


@pytest.fixture(scope="module")
def renderer() -> Iterator[PromptRenderer]:
    renderer = PromptRenderer(processor_s=1.0, most_s=20.0)
    yield renderer
    renderer.close()


def test_prompt_ends_where_the_answer_begins(renderer: PromptRenderer) -> None:
    assert renderer.prompt(template(CHATML), ASKED) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_prompt_is_what_transformers_renders(renderer: PromptRenderer) -> None:
    from support.templates import new_tokenizer_of

    tokenizer = new_tokenizer_of("qwen3")
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "r"},
        {"role": "user", "content": "c"},
    ]
    used = TemplateInUse(tokenizer.chat_template, tokenizer.special_tokens_map, "", None)
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert renderer.prompt(used, messages) == expected


def test_day_is_the_version_s_and_else_today(renderer: PromptRenderer) -> None:
    dated = "{{ strftime_now('%d %B %Y') }}" + CHATML
    assert renderer.prompt(template(dated, date(2024, 2, 29)), ASKED).startswith("29 February 2024<|im_start|>")
    assert renderer.prompt(template(dated), ASKED).startswith(f"{datetime.now().astimezone():%d %B %Y}<|im_start|>")


def test_contents_as_parts_reach_a_template_that_wants_them(renderer: PromptRenderer) -> None:
    parts = CHATML.replace("{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}")
    assert "\nhi<|im_end|>" in renderer.prompt(template(parts), ASKED)


def test_tools_are_rendered_as_a_row_has_them(renderer: PromptRenderer) -> None:
    tools = [{"type": "function", "function": {"parameters": {"b": 1, "a": 2}, "name": "look"}}]
    listing = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}" + CHATML
    written = '{"type": "function", "function": {"parameters": {"b": 1, "a": 2}, "name": "look"}}<|im_start|>user'
    assert renderer.prompt(template(listing), ASKED, tools).startswith(written)
    with pytest.raises(RenderingRefused, match="it leaves out `tools`"):
        renderer.prompt(template(CHATML), ASKED, tools)


def test_part_that_the_template_leaves_out_is_refused_by_name(renderer: PromptRenderer) -> None:
    deaf = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    with pytest.raises(RenderingRefused, match="it leaves out `content` of message 1"):
        renderer.prompt(template(deaf), [{"role": "system", "content": "Be short."}, *ASKED])


def test_refusal_of_a_template_is_passed_on(renderer: PromptRenderer) -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
    with pytest.raises(RenderingRefused, match="no system here"):
        renderer.prompt(template(strict), [{"role": "system", "content": "x"}, *ASKED])


def test_thoughts_are_those_that_the_template_writes(renderer: PromptRenderer) -> None:
    from support.templates import new_tokenizer_of

    tokenizer = new_tokenizer_of("qwen3")
    used = TemplateInUse(tokenizer.chat_template, tokenizer.special_tokens_map, r"<\|im_start\|>|<\|im_end\|>", None)
    assert renderer.thoughts(used).closing == "\n</think>\n\n"
    assert renderer.thoughts(template(THINKING)).within(renderer.prompt(template(THINKING), ASKED))


def test_template_cannot_reach_the_program(renderer: PromptRenderer) -> None:
    with pytest.raises(RenderingRefused):
        renderer.prompt(template("{{ ''.__class__.__mro__[1].__subclasses__() }}" + CHATML), ASKED)


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + CHATML


def test_template_without_end_is_ended_and_the_next_conversation_rendered(renderer: PromptRenderer) -> None:
    with pytest.raises(RenderingTakesLong, match="takes too much"):
        renderer.prompt(template(ENDLESS), ASKED)
    assert renderer.prompt(template(CHATML), ASKED).endswith("assistant\n")


def test_program_that_does_not_answer_is_killed() -> None:
    renderer = PromptRenderer(processor_s=60.0, most_s=0.5)
    with pytest.raises(RenderingTakesLong, match="takes too much"):
        renderer.prompt(template(ENDLESS), ASKED)
    assert renderer._child is None
    renderer.close()


def test_conversation_that_takes_long_keeps_no_other_waiting() -> None:
    async def main() -> None:
        renderers = PromptRenderers()
        slow = [asyncio.create_task(renderers.prompt(template(ENDLESS), ASKED)) for _ in range(2)]
        while not renderers._patient._child:
            await asyncio.sleep(0.01)
        assert (await renderers.prompt(template(CHATML), ASKED)).endswith("assistant\n")
        assert not slow[0].done()
        renderers._patient._child.kill()
        for each in slow:
            each.cancel()
        renderers.close()

    asyncio.run(main())


def test_program_that_was_killed_is_started_again(renderer: PromptRenderer) -> None:
    assert renderer.prompt(template(CHATML), ASKED)
    renderer._child.kill()
    renderer._child.wait()
    assert renderer.prompt(template(CHATML), ASKED).endswith("assistant\n")


def test_no_program_is_started_once_it_is_closed() -> None:
    closed = PromptRenderer(processor_s=1.0, most_s=20.0, starts=False)
    closed.close()
    with pytest.raises(RenderingRefused, match="is ending"):
        closed.prompt(template(CHATML), ASKED)


def test_what_a_template_leaves_out_is_the_reason_that_is_told(renderer: PromptRenderer) -> None:
    # The other forms of the message have a list of parts, to which this template adds a text.
    named = CHATML.replace("{{ m.content }}", "{{ m.content + '.' }}")
    with pytest.raises(RenderingRefused, match="leaves out"):
        renderer.prompt(template(named), [{"role": "user", "content": "hi", "name": "bob"}])
