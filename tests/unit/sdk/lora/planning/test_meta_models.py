"""The table of families against the models that transformers builds, on torch's meta device."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sdk.lora.planning import tables as configs
from sdk.lora.planning.adapter import adapter_of
from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.families import FAMILIES
from sdk.schemas.training import TrainingSpec

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_SMALL = {
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_NEOX = {name: value for name, value in _SMALL.items() if name not in ("num_key_value_heads", "head_dim")}
CASES: list[dict[str, Any]] = [
    *({"model_type": name} | _SMALL for name in sorted(FAMILIES) if name not in ("gpt2", "gpt_neox")),
    {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True} | _SMALL,
    {"model_type": "qwen3", "attention_bias": True} | _SMALL,
    {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": [1],
    }
    | _SMALL,
    {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 2} | _SMALL,
    {"model_type": "mixtral", "num_local_experts": 4} | _SMALL,
    {"model_type": "gemma", "tie_word_embeddings": False} | _SMALL,
    {"model_type": "gpt_neox"} | _NEOX,
    {"model_type": "gpt_neox", "attention_bias": False, "tie_word_embeddings": True} | _NEOX,
    {"model_type": "gpt2", "n_layer": 2, "n_embd": 24, "n_head": 3, "vocab_size": 50, "n_positions": 32},
    {"model_type": "gpt2", "n_layer": 2, "n_embd": 24, "n_head": 3, "vocab_size": 50, "n_inner": 30},
]


def meta_model(config: dict[str, Any]) -> Any:
    """The model without memory for its numbers."""
    # Ids of special tokens beyond a small vocabulary are only warned of.
    transformers.logging.set_verbosity_error()
    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(
            kind(**{name: value for name, value in config.items() if name != "model_type"})
        )


def shapes(model: Any) -> dict[str, list[int]]:
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("config", CASES, ids=lambda config: config["model_type"])
def test_a_family_has_the_parameters_of_its_model(config: dict[str, Any]) -> None:
    model = meta_model(config)
    found = blueprint_of(config)
    assert found.tensors == shapes(model)
    linear = {
        name: (module.weight.shape[::-1] if found.transposed else module.weight.shape)
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D") and name != "lm_head"
    }
    assert found.linear == {name: tuple(shape) for name, shape in linear.items()}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_number_that_a_config_lacks_is_the_familys_own(name: str) -> None:
    kind = transformers.CONFIG_MAPPING[name]()
    for key, value in FAMILIES[name].defaults.items():
        assert getattr(kind, key) == value, key
    assert bool(kind.tie_word_embeddings) == FAMILIES[name].tied


@pytest.mark.parametrize("name", ["QWEN3_30B_A3B", "GPT_2_MEDIUM", "LLAMA_3_8B", "MISTRAL_7B"])
def test_a_published_config_has_the_parameters_of_its_model(name: str) -> None:
    config = getattr(configs, name)
    assert blueprint_of(config).tensors == shapes(meta_model(config))


def test_gemma_3_27b_is_counted_as_the_text_part_of_its_model() -> None:
    text = configs.GEMMA_3_27B["text_config"]
    found = blueprint_of(configs.GEMMA_3_27B)
    assert found.tensors == shapes(meta_model(text))
    assert found.parameters == 27_009_346_304
    assert found.left_out


def test_an_adapter_has_the_parameters_and_the_bytes_that_peft_gives_it(tmp_path: Any) -> None:
    peft = pytest.importorskip("peft")
    for options in (
        {"targets": "all-linear", "rank": 4, "rank_pattern": "q_proj=2,layers.0.mlp.up_proj=8"},
        {"targets": "attention", "use_dora": True},
    ):
        spec = TrainingSpec.model_validate(options)
        config = {"model_type": "llama"} | _SMALL
        found = adapter_of(blueprint_of(config), spec)
        model = peft.get_peft_model(
            meta_model(config).to_empty(device="cpu"),
            peft.LoraConfig(
                r=spec.rank,
                target_modules=found.targets,
                rank_pattern=spec.ranks,
                use_dora=spec.use_dora,
                init_lora_weights=False,
            ),
        )
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert found.trainable == sum(math.prod(parameter.shape) for parameter in trained)
        model.save_pretrained(tmp_path)
        assert (tmp_path / "adapter_model.safetensors").stat().st_size == found.size_bytes


def test_each_stacked_parameter_of_a_module_has_bytes_of_its_own(tmp_path: Any) -> None:
    peft = pytest.importorskip("peft")
    spec = TrainingSpec(targets="experts.gate_up_proj,experts.down_proj", rank=4, dropout=0)
    config = {"model_type": "mixtral", "num_local_experts": 4} | _SMALL
    found = adapter_of(blueprint_of(config), spec)
    model = peft.get_peft_model(
        meta_model(config).to_empty(device="cpu"),
        peft.LoraConfig(
            r=spec.rank,
            target_modules=[],
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            init_lora_weights=False,
        ),
    )
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size == found.size_bytes
