"""Over each architecture, answers in the loop are those of plain transformers, whether texts share a cache or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import served
from support.architectures import save_model
from support.served import Listener
from support.soak import MATRIX

from workers.serving.decoding.errors import BaseRefused
from workers.serving.decoding.loop import DecodeLoop
from workers.serving.decoding.requests import DecodeQuestion, ServedPlacement

# What silences it where PEFT reads it is a context of filters, which is not of one thread alone.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

#: Those that are tried in each run; the others in a matrix.
ALWAYS = ("qwen3", "bloom", "mistral", "qwen3.5")
#: Whether texts share a cache: windows, and states from token to token, can't be joined.
JOINS = {
    "qwen3": True,
    "phi3": True,
    "bloom": True,
    "opt": True,
    "falcon": True,
    "qwen2.5-vl": True,
    "mistral": False,
    "gemma3": False,
    "qwen3.5": False,
}
PROMPTS = ((40, 41, 99, 120, 77, 30, 31), (33, 150, 60), tuple(range(50, 62)))


@pytest.mark.parametrize("name", JOINS if MATRIX else ALWAYS)
def test_texts_beside_each_other_are_those_of_each_alone(tmp_path: Path, name: str) -> None:
    base = save_model(tmp_path / name, name, seed=5 if name == "qwen3" else 3)
    if name == "mistral":
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, "sliding_window": 6}))
    model = served.whole(base) if name == "qwen2.5-vl" else served.plain(base, None)
    with DecodeLoop(base, dtype="float32") as loop:
        assert loop.joins is JOINS[name]
        answers = [Listener() for _ in PROMPTS]
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            loop.submit(DecodeQuestion(prompt, None, 9), answer)
        assert [answer.wait() for answer in answers] == [served.alone(model, prompt, 9) for prompt in PROMPTS]


def test_a_version_that_cannot_be_mixed_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    """OPT's `fc1` reads all tokens of all texts as rows, which PEFT can't mix adapters by."""
    base = save_model(tmp_path / "opt", "opt")
    folder = served.save_adapter(base, tmp_path / "adapter", seed=6, target_modules=["fc1", "q_proj"])
    truth = [served.alone(served.plain(base, each), PROMPTS[0], 6) for each in (None, folder)]
    with DecodeLoop(base, dtype="float32") as loop:
        assert loop.load("a@v1", folder) is ServedPlacement.OWN_BATCH
        answers = [Listener() for _ in truth]
        for name, answer in zip((None, "a@v1"), answers, strict=True):
            loop.submit(DecodeQuestion(PROMPTS[0], name, 6), answer)
        assert [answer.wait() for answer in answers] == truth


def test_a_text_that_comes_to_other_frequencies_is_read_again(tmp_path: Path) -> None:
    """Phi's long texts: transformers reads all of it anew at the first token beyond the length of its training."""
    base = save_model(tmp_path / "base", "phi3", seed=4)
    config = json.loads((base / "config.json").read_text())
    turning = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
    }
    (base / "config.json").write_text(
        json.dumps({**config, "rope_parameters": turning, "original_max_position_embeddings": 16})
    )
    model = served.plain(base, None)
    short, crossing, long = (40, 41, 99), (33, 150, 60, 77, 31, 32, 90, 91, 92, 93), tuple(range(50, 70))
    with DecodeLoop(base, dtype="float32") as loop:
        assert loop.joins
        answers = [Listener() for _ in range(3)]
        for prompt, answer in zip((short, crossing, long), answers, strict=True):
            loop.submit(DecodeQuestion(prompt, None, 10), answer)
        texts = [answer.wait() for answer in answers]
    assert texts == [served.alone(model, prompt, 10) for prompt in (short, crossing, long)]


def test_a_base_that_sees_later_tokens_is_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "bert", "bert")
    with pytest.raises(BaseRefused, match=r"choose|causal|token"):
        DecodeLoop(base, dtype="float32")
