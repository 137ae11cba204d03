"""Thoughts that end after so many tokens: what is forced under each template that writes thoughts, and what a model answers."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import templates, tiny
from support.evaluated import evaluated
from support.trainings import save_jsonl

from sdk.formats.rows import check_rows
from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, RowScore
from workers.pipelines.data.examples import Example
from workers.pipelines.data.thoughts import read_answer
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError
from workers.pipelines.scoring.generation import generate
from workers.pipelines.scoring.thought_limit import LimitedCompletion, ThoughtLimit, thought_limits

pytestmark = pytest.mark.filterwarnings("ignore")

SPEC = EvaluationSpec(max_thought_tokens=5, max_new_tokens=6)
#: What templates write between a thought and a content; under the others nothing is forced.
CLOSINGS = {
    "diffusion_gemma": "\n<channel|>",
    "gemma4_v5": "\n<channel|>",
    "glm4moe": "</think>\n",
    "gptoss": "<|end|><|start|>assistant<|channel|>final<|message|>",
    "lfm2_2_5": "</think>",
    "lfm2_2_5_v2": "</think>",
    "lfm2_2_5_vl": "</think>",
    "muse_glimmer": "<|eom|><|start|>assistant to=user<|message|>",
    "nemotron_3_5_lightning": "</think>",
    "nemotron_3_nano": "\n</think>\n",
    "nemotron_3_super": "\n</think>\n",
    "nemotron_3_ultra": "</think>",
    "qwen3": "\n</think>\n\n",
    "qwen3_5_nothink": "\n</think>\n\n",
    "qwen3_5_think": "\n</think>\n\n",
    "qwen3_6": "\n</think>\n\n",
    "qwen3_8": "\n</think>\n\n",
}


def row_with(question: str, content: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": content}]}


def example_of(name: str) -> Example:
    how: dict[str, Any] = {"day": date(2026, 3, 4), "stop_ids": templates.stop_ids(name), "contents": True}
    rows = list(check_rows([("line 1", row_with("Is it warm?", "Yes."))]))
    return tokenise(rows, templates.tokenizer_of(name), loss_on=None, max_length=8192, **how).examples[-1]


def limit_of(name: str, example: Example) -> ThoughtLimit:
    (limit,) = thought_limits(SPEC, [example], templates.tokenizer_of(name), templates.stop_ids(name))
    return limit


def generated(
    name: str, limit: ThoughtLimit, wanted: list[int], stop_ids: list[int]
) -> tuple[LimitedCompletion, list[int]]:
    """What becomes of a model's tokens."""
    completion, ids = LimitedCompletion(limit, templates.tokenizer_of(name), stop_ids), list[int]()
    for token in wanted:
        while completion.forced is not None:
            ids.append(completion.forced)
            completion.add(ids[-1])
        if completion.done:
            break
        ids.append(token)
        completion.add(token)
    assert len(completion) == len(ids)
    return completion, ids


@pytest.mark.parametrize("name", ["llama3", "qwen2_5", *CLOSINGS])
def test_a_thought_without_an_end_gets_that_of_its_template(name: str) -> None:
    example, tokenizer = example_of(name), templates.tokenizer_of(name)
    if name not in CLOSINGS:
        with pytest.raises(
            PipelineError, match="max_thought_tokens needs a chat template that writes how a thought ends"
        ):
            limit_of(name, example)
        return
    limit = limit_of(name, example)
    assert tokenizer.decode(limit.closing) == CLOSINGS[name]
    thought, said = tokenizer("so it goes on and on, my friend")["input_ids"], tokenizer("xyzxyzxyz")["input_ids"]
    completion, ids = generated(name, limit, [*limit.opening, *thought[:5], *said], [example.stop])
    assert ids == [*limit.opening, *thought[:5], *limit.closing, *said[:6]]
    assert completion.done
    assert completion.ended_thought
    assert len(ids) == limit.most_tokens
    answer = read_answer(ids, tokenizer, example.scaffold, ended=False)
    assert (answer.content.strip(), answer.reasoning) == (
        tokenizer.decode(said[:6]).strip(),
        tokenizer.decode(thought[:5]).strip(),
    )
    assert not answer.unfinished


@pytest.mark.parametrize("name", CLOSINGS)
def test_a_thought_that_ends_by_itself_is_left_alone(name: str) -> None:
    example, tokenizer = example_of(name), templates.tokenizer_of(name)
    limit, stop = limit_of(name, example)._replace(thought_tokens=50, answer_tokens=20), example.stop
    thought, said = tokenizer("so")["input_ids"], tokenizer("xyz" * 9)["input_ids"]
    own = [*limit.opening, *thought, *limit.closing]
    completion, ids = generated(name, limit, [*own, *said], [stop])
    # The answer counts from where the end can be told: blanks and a header may follow.
    assert ids[: len(own)] == own
    assert 12 < len(ids) - len(own) <= 20
    assert completion.done
    assert not completion.ended_thought
    completion, ids = generated(name, limit, [*own, *said[:2], stop, *said], [stop])
    assert ids == [*own, *said[:2], stop]
    if limit.opening:
        # Nothing is a thought that doesn't begin as one.
        assert generated(name, limit, said, [stop])[1] == said[:20]
    # Nor is anything forced on a model that stops within its thought.
    assert generated(name, limit, [*limit.opening, *thought, stop, *said], [stop])[1][-1] == stop


@pytest.mark.parametrize("name", ["gptoss", "muse_glimmer", "qwen3", "qwen3_6"])
def test_an_end_that_has_begun_is_only_completed(name: str) -> None:
    example, tokenizer = example_of(name), templates.tokenizer_of(name)
    limit, said = limit_of(name, example), tokenizer("xyzxyzxyz")["input_ids"]
    whole = [*limit.opening, *tokenizer("so on")["input_ids"][-4:], limit.closing[0]]
    _, ids = generated(name, limit, [*whole, *said], [])
    assert ids == [*whole, *limit.closing[1:], *said[:6]]


def test_no_tokens_of_a_thought_are_none() -> None:
    for name in ("qwen3", "qwen3_6"):
        example, tokenizer = example_of(name), templates.tokenizer_of(name)
        limit = limit_of(name, example)._replace(thought_tokens=0)
        said = tokenizer("xyz")["input_ids"]
        assert generated(name, limit, [*limit.opening, *said], [])[1] == [*limit.opening, *limit.closing, *said]


def test_an_end_at_which_generation_stops_is_refused() -> None:
    tokenizer = templates.tokenizer_of("gptoss")
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    with pytest.raises(PipelineError, match="generation stops at a token with which a thought ends") as caught:
        thought_limits(SPEC, [example_of("gptoss")], tokenizer, [end])
    assert caught.value.reason == "spec"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that has learnt nothing, whose template begins a thought in each prompt."""
    return tiny.save_llama(tmp_path_factory.mktemp("qwen3_6"), tokenizer=templates.new_tokenizer_of("qwen3_6"), seed=3)


ROWS = [
    row_with(question, "Yes.")
    for question in ("a?", "is it warm in Rome?", "and?", "what is the weather, do you know?")
]


def scored(base: Path, out: Path, **spec: Any) -> tuple[EvaluationReport, list[RowScore]]:
    out.mkdir(exist_ok=True)
    return evaluated(base, save_jsonl(out / "rows.jsonl", ROWS), out, SPEC.model_copy(update=spec))


def by_hand(base: Path, row: dict[str, Any], thought_tokens: int, answer_tokens: int) -> tuple[str, str]:
    """The thought and the answer: the likeliest tokens one by one, and in between what the template writes."""
    import torch
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), load_tokenizer(base)
    prompt = tokenizer.apply_chat_template(row["messages"][:1], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<think>\n")
    ids, parts = tokenizer(prompt, add_special_tokens=False)["input_ids"], list[str]()
    for count, after in ((thought_tokens, "\n</think>\n\n"), (answer_tokens, "")):
        begins = len(ids)
        for _ in range(count):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        parts.append(tokenizer.decode(ids[begins:], skip_special_tokens=True))
        ids += tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    return parts[0], parts[1]


def test_a_model_that_never_ends_its_thought_answers_after_the_limit(base: Path, tmp_path: Path) -> None:
    report, rows = scored(base, tmp_path / "limited")
    for given, row in zip(ROWS, rows, strict=True):
        thought, said = by_hand(base, given, 5, 6)
        assert "</think>" not in thought + said
        assert (row.reasoning, row.content) == (thought.strip(), said.strip())
        assert row.prediction == f"{thought}\n</think>\n\n{said}".strip()
    assert report.metrics["ended_thought_rows"] == 4
    assert "unfinished_thought_rows" not in report.metrics
    assert report.conditions.max_thought_tokens == 5
    free, rows = scored(base, tmp_path / "free", max_thought_tokens=None)
    assert free.metrics["unfinished_thought_rows"] == 4
    assert {row.content for row in rows} == {""}
    assert "max_thought_tokens" not in free.conditions.model_dump()
    # A prompt has less room before a thought and its end, too.
    most = 5 + len(load_tokenizer(base)("\n</think>\n\n")["input_ids"]) + 6
    assert report.conditions.prompt_tokens == 256 - most
    assert free.conditions.prompt_tokens == 256 - 6


def test_answers_do_not_depend_on_those_beside_them(base: Path, tmp_path: Path) -> None:
    _, alone = scored(base, tmp_path / "alone", batch_size=1)
    _, together = scored(base, tmp_path / "together", batch_size=4)
    written = [[(row.prediction, row.content, row.scores) for row in rows] for rows in (alone, together)]
    assert written[0] == written[1]
    assert len({row.prediction for row in alone}) > 1


def test_each_row_of_a_batch_has_its_own_limit(base: Path) -> None:
    """Rows that are done are padded with the token at which generation stops, and haven't stopped by themselves."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), load_tokenizer(base)
    limit, lengths = limit_of("qwen3_6", example_of("qwen3_6")), (2, 7, 4)
    target: Any = SimpleNamespace(
        tokenizer=tokenizer,
        device=SimpleNamespace(torch_device="cpu"),
        spec=SPEC.model_copy(update={"batch_size": 3}),
        report=lambda progress: None,
    )
    limits = [limit._replace(thought_tokens=length) for length in lengths]
    prompts = [tokenizer(text)["input_ids"] for text in ("a?", "is it", "and what of it?")]
    found = generate(model, prompts, target, [tokenizer.pad_token_id], limits)
    for length, completion in zip(lengths, found, strict=True):
        assert completion.ids[length : length + len(limit.closing)] == limit.closing
        assert len(completion.ids) == length + len(limit.closing) + 6
        assert not completion.ended
        assert completion.ended_thought


def test_a_limit_without_a_thought_to_end_is_refused(base: Path, llama_base: Path, tmp_path: Path) -> None:
    for rows, spec, said in (
        ([{"prompt": "a", "completion": "b"}], SPEC, "no template renders these rows; leave it out"),
        ([row_with("a?", "Yes.")], SPEC, "that of this base writes none; leave it out"),
        ([{"text": "a b"}], SPEC, "max_thought_tokens limits completions, and of these rows none is generated"),
    ):
        with pytest.raises(PipelineError, match=said) as caught:
            evaluated(llama_base, save_jsonl(tmp_path / "rows.jsonl", rows), tmp_path, spec)
        assert caught.value.reason == "spec"
    with pytest.raises(PipelineError, match="max_new_tokens 6 with max_thought_tokens 300 leaves none for a prompt"):
        scored(base, tmp_path, max_thought_tokens=300)
