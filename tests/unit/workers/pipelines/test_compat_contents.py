"""What PEFT itself writes contradicts itself nowhere, whatever it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.architectures import save_model

from sdk.lora.compatibility import judge
from sdk.lora.compatibility.reading import facts_of_folder

_QV = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bases")
    for family in ("llama", "gemma3-vision"):
        save_model(root / family, family)
    return root


def _saved(base: Path, folder: Path, auto: str, **config: Any) -> Path:
    import peft
    import transformers

    model = getattr(transformers, auto).from_pretrained(base)
    peft.get_peft_model(model, peft.LoraConfig(r=4, **config)).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": _QV, "lora_bias": True, "bias": "all"},
        {"target_modules": [*_QV, "embed_tokens", "lm_head"]},
        {"target_modules": _QV, "modules_to_save": ["lm_head"], "trainable_token_indices": {"embed_tokens": [1, 2]}},
        {"target_modules": r".*[qv]_proj", "rank_pattern": {"q_proj": 8, r"layers\.1\..*v_proj": 2}},
        {"target_modules": _QV, "layers_to_transform": [1]},
        {"target_modules": [], "target_parameters": ["mlp.down_proj.weight"]},
    ],
)
def test_of_text(bases: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    folder = _saved(bases / "llama", tmp_path / "a", "AutoModelForCausalLM", **config)
    assert facts_of_folder(folder, bases / "llama").contradiction is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("targets", "answer"),
    [(r".*language_model.*\.(q|v)_proj", "yes"), (["o_proj", "down_proj"], "yes"), (_QV, "unknown")],
)
def test_of_text_and_images(bases: Path, tmp_path: Path, targets: Any, answer: str) -> None:
    base = bases / "gemma3-vision"
    folder = _saved(base, tmp_path / "a", "AutoModelForImageTextToText", target_modules=targets)
    facts = facts_of_folder(folder, base)
    assert (facts.contradiction, judge(facts, "llama.cpp").answer) == (None, answer)
