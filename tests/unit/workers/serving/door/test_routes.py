"""The engine program's routes over the real decode loop: OpenAI's wire, versions that come and go, and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from support import tiny
from support.serving_engines import RunningEngine, answering
from support.waiting import wait_until

from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.model.device import choose_device
from workers.serving.decoding.loop import DecodeLoop, Running
from workers.serving.decoding.requests import DecodeQuestion, Ended, OnPiece, Token

MESSAGES = [{"role": "user", "content": "the cat"}]
CHAT = {"model": "base", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
#: PEFT reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
V1, V2 = "cats@v1", "cats@v2"
OTHER_TEMPLATE = "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ strftime_now('%Y') }}:"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def versions(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters; the second was rendered by a template of its own, with a date."""
    folder = tmp_path_factory.mktemp("versions")
    found = {name: save_adapter(base, folder / str(seed), seed=seed) for seed, name in enumerate((V1, V2), start=1)}
    (found[V2] / "chat_template.jinja").write_text(OTHER_TEMPLATE)
    rendering = {"templates": [], "methods": {}, "template_date": "2024-02-29", "stop_ids": [70]}
    (found[V2] / "rendering.json").write_text(json.dumps(rendering))
    return found


@pytest.fixture(scope="module")
def engine(base: Path, versions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    loop = DecodeLoop(base, dtype="float32", device=choose_device())
    with answering(base, loop, tmp_path_factory.mktemp("socket")) as engine:
        for name, folder in versions.items():
            assert engine.post("/load", name=name, folder=str(folder)).json() == {"placement": "shares a batch"}
        yield engine


def save_adapter(base: Path, folder: Path, *, seed: int) -> Path:
    """An adapter with an effect that shows."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    written = json.loads((folder / "adapter_config.json").read_text())
    # As registries keep it.
    kept = {key: value for key, value in written.items() if not key.startswith("megatron")}
    (folder / "adapter_config.json").write_text(json.dumps(kept))
    return folder


def by_peft(base: Path, adapter: Path | None, ids: list[int], tokens: int) -> tuple[list[int], list[float]]:
    """Greedy tokens of plain PEFT, and the log-probability of each."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    model = model if adapter is None else PeftModel.from_pretrained(model, adapter)
    model.eval()
    found, logprobs = list(ids), []
    for _ in range(tokens):
        with torch.no_grad():
            scores = model(torch.tensor([found])).logits[0, -1].float().log_softmax(-1)
        found.append(int(scores.argmax()))
        logprobs.append(float(scores.max()))
    return found[len(ids) :], logprobs


def test_chat_is_what_peft_answers_to_what_the_template_renders(
    base: Path, versions: dict[str, Path], engine: RunningEngine
) -> None:
    tokenizer = load_tokenizer(base)
    texts = {
        "base": tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True),
        # Its own template and day, not today's.
        V2: "[the cat]2024:",
    }
    texts[V1] = texts["base"]
    answers = {}
    for name, text in texts.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        expected, logprobs = by_peft(base, versions.get(name), ids, 12)
        answer = engine.post("/v1/chat/completions", **{**CHAT, "model": name}, logprobs=True, top_logprobs=1).json()
        (choice,) = answer["choices"]
        answers[name] = choice["message"]["content"]
        stops = engine.engine.texts.bare.stop_ids | ({70} if name == V2 else set())
        whole = next((at for at, token in enumerate(expected) if token in stops), 12)
        assert choice["message"]["content"] == tokenizer.decode(expected[:whole], skip_special_tokens=True)
        assert answer["usage"]["prompt_tokens"] == len(ids)
        shown = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        assert shown == pytest.approx(logprobs[:whole], abs=1e-4)
    assert len(set(answers.values())) == 3


def test_taught_stop_token_ends_an_answer(engine: RunningEngine, base: Path, versions: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(base)
    expected, _ = by_peft(base, None, tokenizer("the cat")["input_ids"], 8)
    asked = {"model": "base", "prompt": "the cat", "temperature": 0, "max_tokens": 8}
    at = next(at for at in range(3, 8) if expected[at] not in expected[:at])
    answer = engine.post("/v1/completions", **asked, stop_token_ids=[expected[at]]).json()
    assert answer["choices"][0]["text"] == tokenizer.decode(expected[:at], skip_special_tokens=True)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == at + 1


def test_prompt_is_scored_as_peft_does(engine: RunningEngine, base: Path, versions: dict[str, Path]) -> None:
    ids = load_tokenizer(base)("the cat sat on the mat")["input_ids"]
    asked = {"model": V1, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1}
    answer = engine.post("/v1/completions", **asked).json()
    (choice,) = answer["choices"]
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), versions[V1]).eval()
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    expected = [float(scores[at, token]) for at, token in enumerate(ids[1:])]
    assert choice["text"] == "the cat sat on the mat"
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    assert choice["logprobs"]["text_offset"] == [len(load_tokenizer(base).decode(ids[:at])) for at in range(len(ids))]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert answer["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)}


def test_stream_joins_to_the_whole_answer(engine: RunningEngine) -> None:
    asked = {"model": V1, "prompt": "two and", "max_tokens": 20, "temperature": 0, "logprobs": 2, "echo": True}
    whole = engine.post("/v1/completions", **asked).json()["choices"][0]
    chunks = [
        json.loads(line.removeprefix("data: "))["choices"][0]
        for line in engine.post("/v1/completions", **asked, stream=True).text.split("\n\n")
        if line and line != "data: [DONE]"
    ]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    for key in ("tokens", "token_logprobs", "text_offset"):
        joined = [value for chunk in chunks if chunk["logprobs"] for value in chunk["logprobs"][key]]
        assert (
            joined == pytest.approx(whole["logprobs"][key])
            if key == "token_logprobs"
            else joined == whole["logprobs"][key]
        )
    assert chunks[-1]["finish_reason"] == whole["finish_reason"]


def test_openai_s_client_reads_answers_and_errors(engine: RunningEngine) -> None:
    import openai

    with engine.openai() as client:
        assert [model.id for model in client.models.list()] == ["base", V1, V2]
        whole = client.chat.completions.create(**{**CHAT, "model": V1}, logprobs=True, top_logprobs=2)
        with client.chat.completions.create(
            **{**CHAT, "model": V1}, stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = list(stream)
        pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
        assert "".join(pieces) == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage
        assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2
        text = client.completions.create(model="base", prompt="two", max_tokens=3, temperature=0)
        assert text.usage.completion_tokens == 3
        with pytest.raises(openai.NotFoundError, match="no version of this name is loaded"):
            client.chat.completions.create(**{**CHAT, "model": "cats@v3"})
        with pytest.raises(openai.BadRequestError, match="`lora_path` is not known here"):
            client.chat.completions.create(**CHAT, extra_body={"lora_path": "/etc/passwd"})


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"model": "cats"}, 404, "model_not_found"),
        ({"best_of": 2}, 400, "unknown_field"),
        ({"n": 2}, 400, "invalid_value"),
        ({"max_tokens": 400}, 400, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "two " * 300}], "max_tokens": None}, 400, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "unknown_field"),
        ({"messages": []}, 400, "invalid_value"),
        ({"stop": ["a"] * 17}, 400, "invalid_value"),
        ({"stop": ""}, 400, "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "unsupported"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported"),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_value"),
        ({"top_logprobs": 2}, 400, "invalid_value"),
        ({"temperature": 3.0}, 400, "invalid_value"),
    ],
)
def test_request_that_cannot_be_answered_is_refused(
    engine: RunningEngine, changed: dict[str, Any], status: int, code: str
) -> None:
    response = engine.post("/v1/chat/completions", **{**CHAT, **changed})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text


def test_text_far_beyond_the_context_is_refused_before_all_of_it_is_read(engine: RunningEngine) -> None:
    for path, asked in (
        ("/v1/completions", {"model": "base", "prompt": "two " * 200_000}),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "two " * 200_000}]}),
    ):
        response = engine.post(path, **asked)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        # Not its 200,000.
        assert "the prompt has more than 512 tokens, and the context 256" in error["message"]


def test_body_that_is_no_json_or_too_long_is_refused(engine: RunningEngine) -> None:
    assert engine.client.post("/v1/completions", content=b"{").json()["error"]["code"] == "invalid_json"
    assert engine.client.post("/v1/completions", content=b" " * (4 * 2**20 + 1)).status_code == 413


def test_seed_repeats_an_answer_and_another_changes_it(engine: RunningEngine) -> None:
    asked = {**CHAT, "temperature": 2.0}
    answers = [
        engine.post("/v1/chat/completions", **asked, seed=seed).json()["choices"][0]["message"]["content"]
        for seed in (5, 5, 6)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_name_never_means_another_folder(engine: RunningEngine, versions: dict[str, Path]) -> None:
    again = engine.post("/load", name=V1, folder=str(versions[V1]))
    assert again.json() == {"placement": "shares a batch"}
    other = engine.post("/load", name=V1, folder=str(versions[V2]))
    assert (other.status_code, other.json()["error"]["code"]) == (409, "name_taken")
    assert engine.post("/load", name="base", folder=str(versions[V2])).status_code == 409


def test_version_that_cannot_be_served_leaves_nothing(
    engine: RunningEngine, versions: dict[str, Path], tmp_path: Path
) -> None:
    assert engine.post("/load", name="bad@v1", folder=str(tmp_path / "none")).status_code == 422
    assert engine.post("/load", name="bad@v1", folder=str(tmp_path)).status_code == 422
    other = engine.post("/load", name="bad@v1", folder=str(versions[V2]), template="0" * 64)
    assert "rendered with another chat template" in other.json()["error"]["message"]
    assert [each["name"] for each in engine.client.get("/health").json()["adapters"]] == [V1, V2]


def test_released_version_is_unknown_and_may_come_back(engine: RunningEngine, versions: dict[str, Path]) -> None:
    name = "cats@v9"
    loaded = {"name": name, "folder": str(versions[V2]), "day": "2020-01-01", "stop_ids": [71]}
    for _ in range(2):
        assert engine.post("/load", **loaded).status_code == 200
        answer = engine.post("/v1/chat/completions", **{**CHAT, "model": name})
        assert answer.status_code == 200
        texts = engine.engine.versions[name].texts
        assert texts.template.day.isoformat() == "2020-01-01"
        assert {70, 71} <= texts.stop_ids
        assert engine.post("/release", name=name).status_code == 200
        assert engine.post("/v1/chat/completions", **{**CHAT, "model": name}).status_code == 404
    assert engine.post("/release", name=name).status_code == 200


def test_client_that_leaves_ends_its_answer_within_a_step(engine: RunningEngine) -> None:
    asked = {"model": V1, "prompt": "two", "max_tokens": 240, "temperature": 0, "stream": True}
    loop, taken = engine.engine.loop, list[int]()
    submit = loop.submit

    def counted(question: DecodeQuestion, on_piece: OnPiece) -> Running:
        return submit(question, lambda piece: (taken.append(isinstance(piece, Token)), on_piece(piece))[1])

    engine.engine.loop.submit = counted
    try:
        with engine.client.stream("POST", "/v1/completions", json=asked) as stream:
            next(stream.iter_lines())
        wait_until(lambda: taken and not taken[-1])
    finally:
        del engine.engine.loop.submit
    # It ended long before its length, and the loop has nothing left of it.
    assert 1 <= sum(taken) < 200
    wait_until(lambda: (loop.running, loop.queued) == (0, 0))


def test_health_says_what_is_served(engine: RunningEngine) -> None:
    health = engine.client.get("/health").json()
    assert health["context_tokens"] == 256
    assert health["running"] == health["queued"] == 0
    assert health["memory_bytes"] > 10_000_000
    assert len(health["template"]) == 64
    assert {each["placement"] for each in health["adapters"]} == {"shares a batch"}


def test_answers_of_several_versions_at_once_are_those_of_each_alone(engine: RunningEngine) -> None:
    asked = [
        {"model": name, "prompt": prompt, "max_tokens": 24, "temperature": 0}
        for name in ("base", V1, V2)
        for prompt in ("two and two", "the cat sat on the mat, and one")
    ]

    def text(body: dict[str, Any]) -> str:
        return str(engine.post("/v1/completions", **body).json()["choices"][0]["text"])

    alone = [text(body) for body in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(text, asked))
    assert together == alone
    assert len(set(alone)) > 3


def test_request_beyond_the_queue_is_refused_and_later_taken(base: Path, tmp_path: Path) -> None:
    import openai

    loop, begun, gate = DecodeLoop(base, dtype="float32", most_running=1, most_queued=1), Event(), Event()
    submit = loop.submit

    def held_back(question: DecodeQuestion, on_piece: OnPiece) -> Running:
        def wait(piece: Token | Ended) -> None:
            begun.set()
            # The loop can't go on before the gate is open.
            gate.wait(60)
            on_piece(piece)

        return submit(question, wait)

    loop.submit = held_back
    asked = {"model": "base", "prompt": "two", "temperature": 0, "max_tokens": 2}
    with answering(base, loop, tmp_path) as engine, engine.openai() as client, ThreadPoolExecutor(2) as pool:
        held = [pool.submit(engine.post, "/v1/completions", **asked)]
        assert begun.wait(30)
        held.append(pool.submit(engine.post, "/v1/completions", **asked))
        wait_until(lambda: loop.queued)
        with pytest.raises(openai.RateLimitError, match="ask again later"):
            client.completions.create(**asked)
        gate.set()
        assert [each.result().status_code for each in held] == [200, 200]
        assert client.completions.create(**asked).choices[0].finish_reason in ("stop", "length")
