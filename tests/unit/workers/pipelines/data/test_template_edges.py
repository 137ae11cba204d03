"""Templates and rows where something would end well and be wrong: tokens across a border, parts that are dropped,
hostile ones.
"""

from __future__ import annotations

from typing import Any

import pytest
from support import templates

from sdk.formats.rows import Row, check_rows
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.tokenise import Tokenised, tokenise
from workers.pipelines.errors import PipelineError

#: A prompt that ends in a blank, as many templates of people's own do.
NAMED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '<|end|>\n' if m.role == 'assistant' else '\n' }}{% endfor %}"
    "{{ 'assistant: ' if add_generation_prompt else '' }}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer(content: str, **rest: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **rest}


def made(template: str, *messages: dict[str, Any], **options: Any) -> tuple[Any, Tokenised]:
    """The tokenizer, and what it makes of one conversation."""
    tools = {"tools": options.pop("tools")} if "tools" in options else {}
    tokenizer = options.pop("tokenizer", None) or templates.tokenizer_with(template, bos="<s>", eos="<|endoftext|>")
    (row,) = check_rows([("line 1", {"messages": list(messages), **tools})])
    given: dict[str, Any] = {"loss_on": None, "max_length": 8192, **options}
    return tokenizer, tokenise([row], tokenizer, **given)


def learnt(tokenizer: Any, example: Example) -> str:
    return str(tokenizer.decode([label for label in example.labels if label != IGNORED]))


@pytest.mark.parametrize(
    ("template", "said", "end"),
    [(NAMED, "the", "<|end|>"), (CHATML, "\n\n\nyes", "<|im_end|>"), (CHATML, " the", "<|im_end|>")],
)
def test_an_answer_is_learnt_from_its_first_character(template: str, said: str, end: str) -> None:
    tokenizer, found = made(template, user("what is it"), answer(said), user("and"), answer(said))
    (example,) = found.examples
    assert learnt(tokenizer, example) == f"{said}{end}" * 2
    # Each is generated after the token that it was trained after.
    begins = [at for at, label in enumerate(example.labels) if label != IGNORED and example.labels[at - 1] == IGNORED]
    assert [example.input_ids[at - 1] for at in begins] == [example.prompt_ids[-1]] * 2


def test_the_tokenizer_of_these_tests_joins_what_stands_at_the_border() -> None:
    # Else the test above would hold for any code.
    tokenizer = templates.tokenizer_with(NAMED, bos="<s>", eos="<|endoftext|>")
    assert tokenizer.tokenize("assistant: the")[-1] == "Ġthe"


@pytest.mark.parametrize("name", ["qwen3", "deepseekv3", "deepseek_r1_distill", "glm4moe"])
def test_a_loss_on_all_loses_no_reasoning_that_is_written_into_an_answer(name: str) -> None:
    thought = [user("a"), answer("<think>They ask.</think>\n\nYes."), user("b"), answer("<think>Again.</think>\n\nNo.")]
    with pytest.raises(PipelineError, match="line 1 holds `content` of message"):
        made("", *thought, tokenizer=templates.tokenizer_of(name), loss_on="all")


def test_the_beginning_of_a_content_may_not_be_dropped() -> None:
    cutting = CHATML.replace("m.content", "m.content.split('###')[-1]")
    with pytest.raises(
        PipelineError, match="line 1 holds `content` of message 1, which the base's chat template does not"
    ):
        made(cutting, user("long context ### hello"), answer("yes"))


def test_what_a_tools_parameter_is_for_may_not_be_dropped() -> None:
    terse = (
        "{% for t in tools or [] %}{{ t.function.name + t.function.description }}"
        "{% for p in t.function.parameters.properties %}{{ p }}{% endfor %}{% endfor %}" + CHATML
    )
    with pytest.raises(PipelineError, match="line 1 holds `tools`, which the base's chat template does not render"):
        made(terse, user("a"), answer("yes"), tools=[templates.WEATHER])


@pytest.mark.timeout(60)
def test_blanks_that_are_tokens_take_no_time() -> None:
    tokenizer = templates.tokenizer_with(MARKED, bos="<s>", eos="<|endoftext|>")
    tokenizer.add_tokens([" " * count for count in range(2, 17)])
    said = f"yes<|im_end|>{' ' * 200}x"
    _, found = made("", user("a"), answer(said), tokenizer=tokenizer)
    assert learnt(tokenizer, found.examples[0]) == f"{said}<|im_end|>"


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "it calls itself endlessly"),
        ("{{ 'a' * 10000000000 }}", "it repeats a text more than 1,000,000 characters long"),
        ("{{ [1] * 10000000000 }}", "it repeats a text"),
        ("{{ 10 ** 10000000 }}", "it raises a number to too high a power"),
    ],
)
def test_a_template_that_would_take_all_memory_is_refused(hostile: str, said: str) -> None:
    with pytest.raises(PipelineError, match=f"line 1 is refused by the base's chat template .{said}"):
        made(hostile + CHATML, user("a"), answer("yes"))


def test_stops_that_are_no_tokens_are_passed_over() -> None:
    tokenizer, found = made(CHATML, user("a"), answer("yes"), stop_ids=[10**12, 10**6])
    assert found.rendering.stop_ids == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_a_conversation_that_begins_with_an_answer_is_told_what_to_do() -> None:
    greeting = [answer("Hello."), user("a"), answer("yes")]
    tokenizer = templates.tokenizer_of("qwen2_5")
    with pytest.raises(PipelineError, match=r"line 1 begins with an answer, .* give that answer a `weight` of 0"):
        made("", *greeting, tokenizer=tokenizer)
    _, found = made("", {**greeting[0], "weight": 0}, *greeting[1:], tokenizer=tokenizer)
    assert learnt(tokenizer, found.examples[0]) == "yes<|im_end|>"


def test_a_blank_that_is_cut_after_the_stop_takes_no_stop_along() -> None:
    tokenizer, whole = made(CHATML, user("a"), answer("yes"))
    length = len(whole.examples[0].input_ids)
    _, found = made(CHATML, user("a"), answer("yes"), max_length=length - 1)
    assert found.rendering.stop_ids == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    _, found = made(CHATML, user("a"), answer("yes"), max_length=length - 2)
    assert found.rendering.stop_ids == []


def test_keys_that_hold_nothing_lose_nothing() -> None:
    bare = [user("a"), answer("yes")]
    padded = [{**message, "name": "", "tool_calls": [], "tool_call_id": None} for message in bare]
    (plain,), (row,) = (list(check_rows([("line 1", {"messages": messages})])) for messages in (bare, padded))
    assert row == plain
    assert isinstance(row, Row)
