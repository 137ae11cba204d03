"""A folder whose weights are not what its configuration, or its base, says is a "yes" of no engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.small import HIDDEN, write_adapter, write_base, write_safetensors

from sdk.errors import InvalidInput
from sdk.lora.compatibility import ENGINES, judge
from sdk.lora.compatibility.reading import facts_of_folder

_MODEL = {
    "vocab_size": 16,
    "tie_word_embeddings": False,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
_LAYER = "base_model.model.model.layers.0.self_attn"
_Q, _V = f"{_LAYER}.q_proj", f"{_LAYER}.v_proj"
_PLAIN = {
    f"{module}.lora_{half}.weight": shape
    for module in (_Q, _V)
    for half, shape in (("A", [2, HIDDEN]), ("B", [HIDDEN, 2]))
}


def _answers(tmp_path: Path, tensors: dict[str, list[int]], base: Path | None = None, **config: Any) -> dict[str, str]:
    folder = write_adapter(tmp_path / "a", **config)
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    facts = facts_of_folder(folder, base or write_base(tmp_path / "base", **_MODEL))
    answers = {engine: judge(facts, engine) for engine in ENGINES}
    return {
        engine: f"{found.answer} {next((one.reason for one in found.against if one.rule == 'weights'), '')}".strip()
        for engine, found in answers.items()
    }


def _of_layer(layer: int) -> dict[str, list[int]]:
    return {name.replace("layers.0", f"layers.{layer}"): shape for name, shape in _PLAIN.items()}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({**_PLAIN, f"{_Q}.lora_magnitude_vector": [HIDDEN]}, "has lora_magnitude_vector, and its configuration does not say use_dora"),
        ({**_PLAIN, f"{_Q}.lora_B.bias": [HIDDEN]}, "has lora_B.bias, and its configuration does not say lora_bias"),
        (
            {**_PLAIN, f"{_Q}.lora_A.weight": [4, HIDDEN], f"{_Q}.lora_B.weight": [HIDDEN, 4]},
            "has A and B of the rank 4, and its configuration says 2",
        ),
        ({name: shape for name, shape in _PLAIN.items() if name != f"{_Q}.lora_B.weight"}, "has only one of A and B"),
        ({**_PLAIN, f"{_Q}.lora_A.weight": [4, HIDDEN]}, "A of 4×8 and B of 8×2, which have no product"),
        (_of_layer(9), "and the base has 2 layers"),
        ({**_PLAIN, f"{_Q}.lora_A.weight": [2, 5]}, "is adapted as one of 8×5, and the base's is 8×8"),
        (
            {**_PLAIN, f"{_LAYER}.k_proj.lora_A.weight": [2, HIDDEN], f"{_LAYER}.k_proj.lora_B.weight": [HIDDEN, 2]},
            "k_proj, which is none of its target modules",
        ),
        ({**_PLAIN, f"{_Q}.weight": [HIDDEN, HIDDEN]}, "q_proj.weight, which its configuration does not ask for"),
        ({**_PLAIN, "other.weight": [2]}, "its weights have other.weight, which"),
        ({"base_model.model.lm_head.weight": [16, HIDDEN]}, "its weights have no A and B at all"),
    ],
)  # fmt: skip
def test_what_its_configuration_does_not_say(tmp_path: Path, tensors: dict[str, list[int]], said: str) -> None:
    for engine, answer in _answers(tmp_path, tensors).items():
        assert answer.startswith("no "), engine
        assert said in answer


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (_PLAIN, {}),
        (_of_layer(1), {}),
        (_PLAIN, {"target_modules": r".*self_attn\.[qv]_proj"}),
        (_PLAIN, {"target_modules": "all-linear"}),
        ({**_PLAIN, f"{_Q}.lora_A.weight": [4, HIDDEN], f"{_Q}.lora_B.weight": [HIDDEN, 4]}, {"rank_pattern": {"q_proj": 4}}),
        ({**_PLAIN, **{f"{one}.lora_magnitude_vector": [HIDDEN] for one in (_Q, _V)}}, {"use_dora": True}),
        ({**_PLAIN, **{f"{one}.lora_B.bias": [HIDDEN] for one in (_Q, _V)}}, {"lora_bias": True}),
        ({**_PLAIN, "base_model.model.score.weight": [2, HIDDEN]}, {"modules_to_save": ["classifier", "score"]}),
        ({**_PLAIN, f"{_Q}.base_layer.bias": [HIDDEN]}, {"bias": "lora_only"}),
        ({**_PLAIN, "base_model.model.model.embed_tokens.weight": [16, HIDDEN]}, {}),
        (
            {**_PLAIN, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": [1, HIDDEN]},
            {"trainable_token_indices": [3]},
        ),
        (
            {**_PLAIN, **{f"base_model.model.model.layers.0.mlp.experts.lora_{h}.weight": s for h, s in (("A", [8, HIDDEN]), ("B", [HIDDEN, 8]))}},
            {"target_parameters": ["experts.down_proj"]},
        ),
    ],
)  # fmt: skip
def test_what_it_says(tmp_path: Path, tensors: dict[str, list[int]], config: dict[str, Any]) -> None:
    folder = write_adapter(tmp_path / "a", **config)
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    assert facts_of_folder(folder, write_base(tmp_path / "base", **_MODEL)).contradiction is None


def test_patterns_that_can_not_be_tried_leave_it_open(tmp_path: Path) -> None:
    assert set(_answers(tmp_path, _PLAIN, rank_pattern={"(a+)+q": 4}).values()) != {"yes"}


@pytest.mark.parametrize(
    ("config", "said"),
    [({"lora_alpha": "16"}, "'lora_alpha' is not"), ({"r": "8"}, "'r' is not"), ({"lora_alpha": -1e999}, "lora_alpha"), ({"r": 0}, r"\(r can't be 0"), ({"target_modules": None}, "target_modules")],
)  # fmt: skip
def test_a_setting_that_can_not_be_is_called_as_the_file_does(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        facts_of_folder(write_adapter(tmp_path / "a", **config), None)
    assert "pattern" not in str(caught.value)
