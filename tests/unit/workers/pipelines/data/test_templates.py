"""What is learnt of conversations under each chat template that TRL ships: the answers whole, with an end, and nothing
else.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from support import templates

from sdk.formats.rows import Row, check_rows
from workers.pipelines.data.conversation import Form
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.render import Renderer, TemplateRefusal
from workers.pipelines.data.tokenise import Tokenised, tokenise
from workers.pipelines.errors import PipelineError

DAY = date(2026, 3, 4)
TABLE = Path(__file__).parents[5] / "docs" / "data.md"
NAMES = templates.names()
SHAPES = list(templates.SHAPES)

#: What ends a plain answer.
ENDS = {
    "cohere2": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "diffusion_gemma": "<turn|>",
    "gemma4": "<turn|>",
    "gemma": "<end_of_turn>",
    "glm": "<|endoftext|>",
    "gptoss": "<|return|>",
    "idefics": "<end_of_utterance>",
    "lfm": "<|im_end|>",
    "llama": "<|eot_id|>",
    "llava": "</s>",
    "muse": "<|eot|>",
    "nemotron": "<|im_end|>",
    "phi": "<|end|>",
    "qwen": "<|im_end|>",
    "smol": "<end_of_utterance>",
}
#: What a template may write of an answer before its content, where no reasoning is given.
BEFORE = {
    "glm": "\n<think></think>\n",
    "gptoss": "<|channel|>final<|message|>",
    "idefics": " ",
    "llava": " ",
    "muse": " to=user<|message|>",
    "nemotron": "</think>",
    "qwen3_5_think": "\n</think>\n\n",
    "qwen3_6": "\n</think>\n\n",
    "qwen3_8": "\n</think>\n\n",
    "qwen3_instruct": "",
    "qwen3_vl": "",
    "qwen3_5_nothink": "",
    "qwen3": "<think>\n\n</think>\n\n",
    "smol": " ",
}


def of_family(table: dict[str, str], name: str) -> str:
    return next((text for family, text in table.items() if name.startswith(family)), "")


def row_of(shape: str) -> Row:
    (row,) = check_rows([("line 1", templates.SHAPES[shape])])
    return row


def tokenised(name: str, row: Row, **options: Any) -> Tokenised:
    given = {"loss_on": None, "max_length": 8192, "day": DAY, "stop_ids": templates.stop_ids(name), **options}
    return tokenise([row], templates.tokenizer_of(name), **given)


def attempted(name: str, row: Row, **options: Any) -> Tokenised | str:
    """What is made of a row, or why nothing is."""
    try:
        return tokenised(name, row, **options)
    except PipelineError as error:
        return str(error)


def learnt(name: str, example: Example) -> list[str]:
    """The learnt parts of an example, decoded."""
    parts: list[list[int]] = [[]]
    for label in example.labels:
        if label == IGNORED:
            parts.append([])
        else:
            parts[-1].append(label)
    return [templates.tokenizer_of(name).decode(part) for part in parts if part]


def outcome(name: str, shape: str) -> str:
    """How a template serves a shape, as the table has it."""
    found = attempted(name, row_of(shape))
    if not isinstance(found, str):
        return ", ".join(found.rendering.methods)
    lost = re.search(r"holds (.*?), which the base's chat template does not render", found)
    if lost is None:
        return "refused by the template"
    return "no " + ", ".join(f"`{key}`" for key in sorted(set(re.findall(r"`(\w+)`", lost[1]))))


def table() -> str:
    lines = [f"| template | {' | '.join(SHAPES)} |", f"|---|{'---|' * len(SHAPES)}"]
    for name in NAMES:
        lines.append(f"| {name} | {' | '.join(outcome(name, shape) for shape in SHAPES)} |")
    return "\n".join(lines) + "\n"


def test_the_documents_table_is_what_is_done() -> None:
    """To write it anew, put what this expects in its place."""
    assert table() in TABLE.read_text(encoding="utf-8"), table()


def test_all_templates_serve_several_turns() -> None:
    served = [name for name in NAMES if outcome(name, "several turns") in ("marks", "prefix", "variant", "turns")]
    assert len(NAMES) == 41
    assert served == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_of_plain_answers_the_content_and_its_end_are_learnt(name: str) -> None:
    end, before = of_family(ENDS, name), of_family(BEFORE, name)
    for shape in ("one turn", "several turns"):
        row = row_of(shape)
        answers = [message["content"] for message in row.fields["messages"] if message["role"] == "assistant"]
        found = tokenised(name, row)
        assert [part for example in found.examples for part in learnt(name, example)] == [
            f"{before}{answer}{end}" for answer in answers
        ]
        assert found.rendering.stop_ids == [templates.tokenizer_of(name).convert_tokens_to_ids(end[end.rindex("<") :])]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_learnt_whole_or_the_row_is_refused_by_name(name: str, shape: str) -> None:
    row = row_of(shape)
    messages = row.fields["messages"]
    found = attempted(name, row)
    if isinstance(found, str):
        assert found.startswith("1 of 1 rows can't be used over this base: line 1 ")
        assert re.search("holds `(tools|tool_calls|reasoning_content)`|System role not supported", found)
        return
    tokenizer = templates.tokenizer_of(name)
    parts = [part for example in found.examples for part in learnt(name, example)]
    answers = [message for message in messages if message["role"] == "assistant"]
    assert len(parts) == len(answers)
    for part, answer in zip(parts, answers, strict=True):
        for text in (answer.get("content") or "", answer.get("reasoning_content", "")):
            assert text.strip() in part
        if "tool_calls" in answer:
            assert "get_weather" in part
            assert "Rome" in part
        for message in messages:
            if message["role"] not in ("assistant", "tool"):
                assert message["content"] not in part
        assert "sunny, 21 degrees" not in part
    for example in found.examples:
        assert example.stop == [label for label in example.labels if label != IGNORED][-1]
        assert example.stop in {*tokenizer.added_tokens_decoder}
    text = tokenizer.decode(found.examples[-1].input_ids)
    for message in messages:
        assert (message.get("content") or "").strip() in text
    if "tools" in row.fields:
        assert "Says how the weather is." in text


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learnt_comes_after_what_generation_starts_from(name: str) -> None:
    (*_, example) = tokenised(name, row_of("several turns")).examples
    masked = [label == IGNORED for label in example.labels]
    prompt = len(example.prompt_ids)
    if example.input_ids[:prompt] == example.prompt_ids:
        assert masked[prompt - 1 : prompt + 1] == [True, False]
    else:
        # Its prompt begins with a reasoning that is not rendered of an answer without one.
        assert name.startswith(("deepseek", "nemotron"))


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_of_weight_nothing_is_not_learnt(name: str) -> None:
    row = row_of("several turns")
    for index, other, kept in ((1, 3, "No, it rains."), (3, 1, "Yes, it is.")):
        messages = [dict(message) for message in row.fields["messages"]]
        messages[index]["weight"], messages[other]["weight"] = 0, 1
        found = tokenised(name, Row("line 1", "messages", {"messages": messages}))
        parts = [part for example in found.examples for part in learnt(name, example)]
        assert len(parts) == 1
        assert kept in parts[0]


@pytest.mark.parametrize("name", NAMES)
def test_conversations_are_rendered_as_transformers_renders_them(name: str) -> None:
    tokenizer = templates.tokenizer_of(name)
    for shape in SHAPES:
        row = templates.SHAPES[shape]
        messages = [
            Form(parts=name.startswith(("idefics", "llava", "smol"))).message(m)
            for m in row_of(shape).fields["messages"]
        ]
        for prompt in (False, True):
            given = {"tools": row.get("tools"), "add_generation_prompt": prompt}
            try:
                theirs = tokenizer.apply_chat_template(messages, tokenize=False, **given)
            except Exception:  # noqa: BLE001 - what it refuses, ours refuses
                continue
            ours = Renderer(tokenizer.special_tokens_map, datetime.now().date())  # noqa: DTZ005 - as theirs
            assert ours.render(tokenizer.chat_template, messages, tools=row.get("tools"), prompt=prompt).text == theirs


@pytest.mark.parametrize("name", ["llama3_2", "gptoss", "muse_glimmer"])
def test_the_date_is_the_one_that_is_given(name: str) -> None:
    row = row_of("one turn")
    found = tokenised(name, row)
    assert found.rendering.template_date == "2026-03-04"
    text = templates.tokenizer_of(name).decode(found.examples[0].input_ids)
    assert "04 Mar 2026" in text or "2026-03-04" in text
    assert tokenised(name, row, day=date(2026, 3, 5)).examples[0].input_ids != found.examples[0].input_ids
    with pytest.raises(PipelineError, match="asks for the date, but none is given"):
        tokenised(name, row, day=None)


def asked(content: str | None, **rest: Any) -> Row:
    answer = {"role": "assistant", "content": content, **rest}
    (row,) = check_rows([("line 1", {"messages": [{"role": "user", "content": "Is it warm?"}, answer]})])
    return row


def test_an_answer_that_the_template_shortens_is_refused_or_changed() -> None:
    row = asked("<think>They ask.</think>Yes.")
    assert "message 2, and the" in str(attempted("deepseekv3", row))
    assert "changes its `content`" in str(attempted("deepseekv3", row))
    found = tokenised("deepseek_r1_distill", row)
    assert found.rendering.methods == {"changed": 1}
    assert learnt("deepseek_r1_distill", found.examples[0]) == ["They ask.</think>Yes.<｜end▁of▁sentence｜>"]


def test_the_end_of_a_call_is_no_end_of_a_turn() -> None:
    row = asked(None, tool_calls=[{"function": {"name": "look", "arguments": {}}}])
    (part,) = learnt("deepseek_r1_distill", tokenised("deepseek_r1_distill", row).examples[0])
    assert part.endswith("<｜tool▁call▁end｜><｜end▁of▁sentence｜>")
    (part,) = learnt("gptoss", tokenised("gptoss", row).examples[0])
    assert part.endswith("{}<|call|>")


def test_a_template_that_writes_no_date_says_none() -> None:
    assert tokenised("qwen2_5", row_of("one turn")).rendering.template_date is None


def test_a_row_that_is_cut_gets_no_stop() -> None:
    row = row_of("several turns")
    whole = tokenised("glm4moe", row).examples[-1]
    assert whole.stop is not None
    found = tokenised("glm4moe", row, max_length=len(whole.input_ids) - 2)
    assert found.cut == 1
    assert found.examples[-1].stop is None
    assert templates.tokenizer_of("glm4moe").eos_token_id not in found.examples[-1].input_ids


def test_a_loss_on_all_refuses_what_is_lost_and_what_it_cannot_leave_out() -> None:
    assert "holds `reasoning_content` of message 2" in str(attempted("qwen3", row_of("reasoning"), loss_on="all"))
    assert tokenised("qwen3", row_of("tools"), loss_on="all").rendering.methods == {"all": 1}
    messages = [dict(message) for message in row_of("one turn").fields["messages"]]
    messages[1]["weight"] = 0
    with pytest.raises(PipelineError, match="has a `weight` of 0, which a loss on all can't leave out"):
        tokenised("qwen3", Row("line 1", "messages", {"messages": messages}), loss_on="all")


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ ''.__class__.__mro__[1] }}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n.__init__ = 1 %}",
        "{{ dict.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_reaches_nothing_of_python(hostile: str) -> None:
    with pytest.raises(TemplateRefusal):
        Renderer({}, DAY).render(hostile, [{"role": "user", "content": "a"}])
