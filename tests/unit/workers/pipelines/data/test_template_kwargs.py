"""What a chat template is given is baked into it: whoever renders it without arguments gets the training's text."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest
from support import templates

from sdk.formats.rows import Row, check_rows
from sdk.formats.template_kwargs import GIVEN_BY_RENDERERS, bake, parse_kwargs, unbake
from sdk.schemas.failures import FailureReason
from sdk.schemas.template_fields import TemplateFields
from workers.pipelines.data.conversation import Form
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.render import Renderer, TemplateRefusal, names_read
from workers.pipelines.data.template_choice import choose_template
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.errors import PipelineError

DAY = date(2026, 3, 4)


def text_of(name: str) -> str:
    return (templates.folder() / f"{name}.jinja").read_text(encoding="utf-8")


#: The arguments that each template takes.
READ = {name: sorted(names_read(text_of(name)) - GIVEN_BY_RENDERERS) for name in templates.names()}
READING = [name for name, read in READ.items() if read]
VALUES = [
    {"enable_thinking": True, "preserve_thinking": True, "truncate_history_thinking": False, "reasoning_effort": "low"},
    {"enable_thinking": False, "tools_in_user_message": False, "reasoning_effort": 'a"\\%}{{ü\n', "low_effort": True},
    {"builtin_tools": ["browser", "python"], "custom_tools": [templates.WEATHER], "model_identity": "I'm {%- one %}."},
    {"knowledge_cutoff": None, "reasoning_strength": -1.5e-07, "medium_effort": True, "add_vision_id": True},
    {"tool_namespace_descriptions": {"browser": {"about": "It's 5 %}"}}, "reasoning_strength": {"a": {"b": {}}}},
]


def rendered(render: Any) -> str:
    """What is rendered, or that it is refused."""
    try:
        return str(render())
    except (TemplateRefusal, TypeError, ValueError):
        return "refused"
    except Exception as error:  # noqa: BLE001 - transformers passes on what Jinja raises
        return f"refused{'' if type(error).__module__.startswith('jinja2') else error!r}"


def conversations(name: str) -> list[tuple[list[dict[str, Any]], Any]]:
    form = Form(parts=name.startswith(("idefics", "llava", "smol")))
    rows = [row for _, row in sorted(templates.SHAPES.items())]
    checked = list(check_rows([(f"line {at}", row) for at, row in enumerate(rows)]))
    return [([form.message(message) for message in row.fields["messages"]], row.fields.get("tools")) for row in checked]


@pytest.mark.parametrize("name", READING)
def test_baked_template_renders_without_arguments_what_the_original_renders_with_them(name: str) -> None:
    tokenizer, changed = templates.tokenizer_of(name), set[str]()
    ours = Renderer(tokenizer.special_tokens_map, datetime.now().date())  # noqa: DTZ005 - as transformers takes it
    for values in VALUES:
        given = {key: value for key, value in values.items() if key in READ[name]}
        baked = bake(tokenizer.chat_template, given)
        for messages, tools in conversations(name) if given else ():
            for prompt in (False, True):

                def theirs(template: str, **more: Any) -> str:
                    asked = {"tools": tools, "add_generation_prompt": prompt, "chat_template": template}  # noqa: B023
                    return rendered(lambda: tokenizer.apply_chat_template(messages, tokenize=False, **asked, **more))  # noqa: B023

                expected = theirs(tokenizer.chat_template, **given)
                assert theirs(baked) == expected
                assert rendered(lambda: ours.render(baked, messages, tools=tools, prompt=prompt).text) == expected  # noqa: B023
                if expected != theirs(tokenizer.chat_template):
                    changed |= given.keys()
    # Not of images, which have no place in rows, and not of names that it sets itself first.
    assert changed or READ[name] == ["add_vision_id"]


def test_most_templates_take_arguments() -> None:
    assert len(READING) == 25
    assert READ["qwen3"] == ["enable_thinking"]
    assert READ["gptoss"] == ["builtin_tools", "model_identity", "reasoning_effort"]
    assert READ["llama3_1"] == ["builtin_tools", "custom_tools", "tools_in_user_message"]


@pytest.mark.parametrize("original", ["a", " {{ b }}", "\n{% if x %}\n  y{% endif %}", "{%- set a = 1 %}{{ a }}", ""])
def test_original_is_what_is_left_without_the_head(original: str) -> None:
    text = bake(bake(original, {"x": "{#- template_kwargs #}", "y": [{"z": "%}"}]}), {"v": 1})
    head, left = unbake(text)
    assert left == original
    assert head.startswith("{%- set v = 1 %}")
    assert unbake(original) == ("", original)
    renderer = Renderer({}, DAY)
    assert (
        renderer.render(text, []).text == renderer.render("{% set x = 1 %}" + original, []).text or original[:1] == "\n"
    )
    assert renderer.render(bake(original, {"v": 1}), []).text == renderer.render(original, []).text


def chosen(name: str, kwargs: str) -> Any:
    tokenizer = templates.new_tokenizer_of(name)
    choose_template(tokenizer, TemplateFields(template_kwargs=kwargs), DAY)
    return tokenizer


def row_of(shape: str) -> Row:
    (row,) = check_rows([("line 1", templates.SHAPES[shape])])
    return row


def learnt_by(tokenizer: Any, shape: str) -> tuple[list[str], dict[str, int], list[str]]:
    found = tokenise([row_of(shape)], tokenizer, loss_on=None, max_length=8192, day=DAY)
    parts = [[token for token in example.labels if token != IGNORED] for example in found.examples]
    return [tokenizer.decode(part) for part in parts], found.rendering.methods, found.rendering.templates


def test_what_is_learnt_begins_after_the_prompt_of_the_arguments() -> None:
    parts, methods, _ = learnt_by(templates.tokenizer_of("qwen3"), "one turn")
    assert (parts, methods) == (["<think>\n\n</think>\n\nYes, it is.<|im_end|>"], {"prefix": 1})
    parts, methods, _ = learnt_by(chosen("qwen3", "enable_thinking=false"), "one turn")
    assert (parts, methods) == (["Yes, it is.<|im_end|>"], {"prefix": 1})


def test_variant_of_a_known_template_gets_the_arguments_too() -> None:
    plain = learnt_by(templates.tokenizer_of("nemotron_3_super"), "several turns")
    given = learnt_by(chosen("nemotron_3_super", "low_effort=true"), "several turns")
    assert plain[:2] == (["</think>Yes, it is.<|im_end|></think>No, it rains.<|im_end|>"], {"variant": 1})
    # The marks begin at the reasoning of a prompt that this argument makes another one.
    assert given[:2] == (["<think></think>Yes, it is.<|im_end|></think>No, it rains.<|im_end|>"], {"variant": 1})


def test_variant_that_does_not_read_the_arguments_is_not_used() -> None:
    with pytest.raises(PipelineError, match="doesn't show what to learn of it"):
        learnt_by(chosen("qwen3_6", "enable_thinking=false,preserve_thinking=true"), "reasoning")


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("qwen3", "thinking=false", "does not read thinking; it reads enable_thinking."),
        ("qwen2_5", "enable_thinking=false", "does not read enable_thinking; it reads no arguments; leave"),
        ("qwen3", 'enable_thinking="false"', "reads enable_thinking, and writes nothing else with the value"),
        ("qwen2_5_vl", "add_vision_id=true", "reads add_vision_id, and writes nothing else with the value"),
        ("gptoss", "builtin_tools=null", "reads builtin_tools, and writes nothing else with the value"),
    ],
)
def test_arguments_that_change_nothing_are_refused(name: str, kwargs: str, said: str) -> None:
    with pytest.raises(PipelineError, match=said) as caught:
        chosen(name, kwargs)
    assert caught.value.reason is FailureReason.SPEC


@pytest.mark.parametrize(
    ("name", "kwargs"), [("qwen3", "enable_thinking=true"), ("gptoss", 'reasoning_effort="medium"'), ("gemma4_v5", "preserve_thinking=true")]
)  # fmt: skip
def test_default_of_a_template_may_be_given(name: str, kwargs: str) -> None:
    assert unbake(chosen(name, kwargs).chat_template) == (bake("", parse_kwargs(kwargs)), text_of(name))


def test_tokens_that_the_tokenizer_names_are_given_by_renderers() -> None:
    tokenizer = templates.new_tokenizer_of("qwen3")
    tokenizer.chat_template = "{{ image_token }}{{ messages }}"
    tokenizer._set_model_specific_special_tokens({"image_token": "<image>"})
    assert "image_token" in tokenizer.special_tokens_map
    with pytest.raises(PipelineError, match="image_token is given to a chat template by whoever renders it"):
        choose_template(tokenizer, TemplateFields(template_kwargs='image_token="x"'), DAY)


def test_each_template_of_several_gets_the_arguments() -> None:
    tokenizer = templates.new_tokenizer_of("qwen3")
    tokenizer.chat_template = {"default": text_of("qwen2_5"), "tool_use": text_of("qwen3")}
    choose_template(tokenizer, TemplateFields(template_kwargs="enable_thinking=false"), DAY)
    assert {name: unbake(text)[1] for name, text in tokenizer.chat_template.items()} == {
        "default": text_of("qwen2_5"),
        "tool_use": text_of("qwen3"),
    }
    tokenizer.chat_template = None
    with pytest.raises(PipelineError, match="has no chat template, so nothing reads template_kwargs"):
        choose_template(tokenizer, TemplateFields(template_kwargs="enable_thinking=false"), DAY)
