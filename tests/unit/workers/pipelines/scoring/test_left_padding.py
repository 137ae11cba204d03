"""Bases that read what a prompt is padded with: no answer depends on the prompts beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
import transformers
from support.architectures import config_of

from sdk.schemas.evaluation import EvaluationSpec
from workers.pipelines.model.packed import multiplies_in_eight_bits
from workers.pipelines.scoring.generation import generate, reads_left_padding

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPTS = [[(7 * at + 3 * length) % 250 + 5 for at in range(length)] for length in (3, 17, 8, 8, 12)]
SMALL: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "bos_token_id": 0}


def model_of(config: Any) -> Any:
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    # A padding token begins as zeros, and is seldom that once it was trained.
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    return model


def rwkv() -> Any:
    return transformers.RwkvConfig(**SMALL, num_hidden_layers=2, attention_hidden_size=32, context_length=64)


def recurrent_gemma() -> Any:
    heads = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "lru_width": 32}
    return transformers.RecurrentGemmaConfig(**SMALL, **heads, attention_window_size=64)


def answers(model: Any, prompts: list[list[int]], rows: int, said: list[str | None]) -> list[str]:
    tokenizer = SimpleNamespace(pad_token_id=1, batch_decode=lambda found, **_: [str(row.tolist()) for row in found])
    target: Any = SimpleNamespace(
        tokenizer=tokenizer,
        device=SimpleNamespace(torch_device="cpu"),
        spec=EvaluationSpec(batch_size=rows, max_new_tokens=6),
        report=lambda progress: said.append(progress.message),
    )
    return [each.text for each in generate(model, prompts, target, [299])]


@pytest.mark.parametrize("config", [rwkv, recurrent_gemma])
def test_an_answer_is_that_of_its_prompt_alone(config: Any) -> None:
    model, said = model_of(config()), list[str | None]()
    alone = [answers(model, [prompt], 1, [])[0] for prompt in PROMPTS]
    assert answers(model, PROMPTS, 5, said) == alone
    assert "prompts are answered one at a time: this base reads what they are padded with" in said


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "qwen3.5", "mixtral", "gemma3"])
def test_others_are_answered_together(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = model_of(config_of(name)), list[int]()
    assert not reads_left_padding(model, 1)
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **how: passes.append(len(how["input_ids"])) or generate(**how))
    answers(model, PROMPTS, 5, [])
    assert passes[-1] == 5


def test_which_multiply_in_eight_bits() -> None:
    assert not multiplies_in_eight_bits(torch.nn.Sequential(bnb.nn.Linear4bit(64, 64), torch.nn.Linear(64, 64)))
    assert multiplies_in_eight_bits(torch.nn.Sequential(bnb.nn.Linear4bit(64, 64), bnb.nn.Linear8bitLt(64, 64)))
