"""Bytes of a training: against published figures, against bitsandbytes, and against what autograd really keeps."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from typing import Any

import pytest

from sdk.lora.planning import tables as configs
from sdk.lora.planning.adapter import adapter_of
from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.footprint import (
    full_parts,
    int8_bytes,
    layer_bytes,
    logits_bytes,
    moment_bytes,
    nf4_bits,
    packed_bytes,
    pass_parts,
    rows_bytes,
    weights_parts,
)
from sdk.lora.planning.job_forecasts import PlannedTraining
from sdk.schemas.optimizers import OPTIMIZERS
from sdk.schemas.training import TrainingSpec

LLAMA = blueprint_of(configs.LLAMA_2_7B)


def test_full_fine_tuning_in_16_bit_takes_8_bytes_a_parameter() -> None:
    """Of 7·10⁹ parameters: 14 GB of weights, 14 of gradients, 28 of moments, 56 before activations."""
    parts = {**weights_parts(LLAMA, "full"), **full_parts(LLAMA)}
    assert {name: size / LLAMA.parameters for name, size in parts.items()} == {
        "weights": 2,
        "gradients": 2,
        "optimizer": 4,
    }
    assert round(sum(parts.values()) / LLAMA.parameters * 7) == 56


def test_a_weight_in_nf4_takes_so_many_bits() -> None:
    assert nf4_bits(double_quant=False) == 4.5
    assert round(nf4_bits(double_quant=True), 3) == 4.127
    assert round(nf4_bits(double_quant=False) - nf4_bits(double_quant=True), 3) == 0.373


def test_llama_2_7b_in_nf4() -> None:
    parts = weights_parts(LLAMA, "qlora")
    assert (round(parts["packed"] / 1e9, 2), round(parts["kept"] / 1e9, 3)) == (3.34, 0.525)
    assert weights_parts(LLAMA, "qlora", double_quant=False)["packed"] == pytest.approx(
        4.5 / 8 * (LLAMA.parameters - parts["kept"] / 2)
    )


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", [(64, 64), (100, 48), (1024, 320)])
def test_bitsandbytes_packs_a_matrix_into_as_many_bytes(shape: tuple[int, int], double_quant: bool) -> None:
    torch, functional = pytest.importorskip("torch"), pytest.importorskip("bitsandbytes.functional")
    packed, state = functional.quantize_4bit(
        torch.randn(shape), quant_type="nf4", compress_statistics=double_quant, quant_storage=torch.uint8
    )
    kept = [packed, state.absmax] + ([state.state2.absmax] if double_quant else [])
    assert packed_bytes(math.prod(shape), double_quant=double_quant) == sum(
        tensor.numel() * tensor.element_size() for tensor in kept
    )


def test_bitsandbytes_has_8_bits_in_as_many_bytes_and_a_plan_says_so() -> None:
    torch, functional = pytest.importorskip("torch"), pytest.importorskip("bitsandbytes.functional")
    codes, scales, _ = functional.int8_vectorwise_quant(torch.randn(100, 48, dtype=torch.float16))
    assert int8_bytes(100, 48) == sum(tensor.numel() * tensor.element_size() for tensor in (codes, scales))
    four, eight = weights_parts(LLAMA, "qlora"), weights_parts(LLAMA, "qlora", eight_bits=True)
    assert eight["packed"] == sum(out * into + 4 * out for out, into in LLAMA.linear.values())
    assert four["kept"] == eight["kept"]
    found = PlannedTraining(configs.LLAMA_2_7B, {}, TrainingSpec(quant_type="int8")).forecast().card
    assert [part.size_bytes for part in found.parts if part.name == "weights in 8 bits"] == [eight["packed"]]


def test_what_optimisers_keep() -> None:
    """Of 64 modules of rank 8 over 4,096 numbers in and out."""
    adapter = adapter_of(LLAMA, TrainingSpec(targets="qv"))
    sizes = {name: sum(moment_bytes(adapter, optimizer)) for name, optimizer in OPTIMIZERS.items()}
    assert adapter.trainable == 4_194_304
    assert sizes == {
        "adamw": 8 * 4_194_304,
        "paged_adamw": 8 * 4_194_304,
        "adamw_8bit": 2 * 4_194_304 * (1 + 4 / 256),
        "paged_adamw_8bit": 2 * 4_194_304 * (1 + 4 / 256),
        "adafactor": 64 * 2 * 4 * (8 + 4096),
        "lion": 4 * 4_194_304,
        "schedule_free_adamw": 8 * 4_194_304,
    }


def test_experts_stay_in_16_bit() -> None:
    base = blueprint_of(configs.QWEN3_30B_A3B)
    experts = sum(map(math.prod, base.stacked.values()))
    assert weights_parts(base, "qlora")["kept"] > 2 * experts > 0.9 * 2 * base.parameters


def test_logits_are_there_whole_or_in_chunks() -> None:
    whole = logits_bytes(tokens=4096, vocabulary=262_208)
    assert whole == 4096 * 262_208 * 12
    assert logits_bytes(tokens=4096, vocabulary=262_208, chunk_tokens=512) == whole // 8
    assert logits_bytes(tokens=100, vocabulary=10, chunk_tokens=512) == 100 * 10 * 12
    assert logits_bytes(tokens=100, vocabulary=10, capped_width=2) == 100 * 10 * 14


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer_beyond_the_logits() -> None:
    adapter = adapter_of(LLAMA, TrainingSpec())

    def activations(**options: Any) -> int:
        return pass_parts(LLAMA, adapter, tokens=4096, length=1024, dropout=0.05, **options)["activations"]

    layer = layer_bytes(LLAMA, adapter, tokens=4096, length=1024, mask=1)
    inputs = 32 * 2 * 4096 * 4096
    gone = 4096 * 32000 * 12
    assert layer < gone
    assert activations(checkpointing=False) - activations(checkpointing=True) == 32 * layer - inputs
    chunked = activations(checkpointing=True, chunk_tokens=256)
    assert chunked - activations(checkpointing=True) == layer - gone // 16


@pytest.mark.parametrize("tied", [True, False])
def test_rows_that_are_trained_in_a_head_take_a_copy_of_it_and_the_logits_of_all_tokens(tied: bool) -> None:
    def parts(**options: Any) -> dict[str, int]:
        spec = TrainingSpec(method="lora", max_length=4096, batch_size=1, **options)
        found = PlannedTraining(configs.LLAMA_2_7B | {"tie_word_embeddings": tied}, {}, spec).forecast().card
        return {part.name: part.size_bytes for part in found.parts if part.name in ("trained rows", "logits")}

    matrix, whole = 2 * 32000 * 4096, logits_bytes(tokens=4096, vocabulary=32000)
    plain = parts()
    assert plain.keys() == {"logits"}
    assert plain["logits"] < whole
    assert parts(add_tokens="<a>") == {"logits": whole, "trained rows": matrix}
    # A head of its own lacks these.
    assert parts(trainable_token_indices="5") == ({"logits": whole, "trained rows": matrix} if tied else plain)
    assert parts(add_tokens="<a>", objective="classify") == {"trained rows": matrix}


def test_gradients_of_a_whole_matrix_come_when_logits_go() -> None:
    matrix = 2 * 32000 * 4096
    tied = replace(LLAMA, tied=True)
    for base, spec in ((LLAMA, TrainingSpec(add_tokens="<a>")), (tied, TrainingSpec(trainable_token_indices="5"))):
        assert rows_bytes(base, adapter_of(base, spec), width=2, logits=600) == 2 * matrix - 400
    own = adapter_of(LLAMA, TrainingSpec(trainable_token_indices="5"))
    assert rows_bytes(LLAMA, own, width=2, logits=600) == matrix - 600
    assert rows_bytes(LLAMA, adapter_of(LLAMA, TrainingSpec()), width=2, logits=600) == 0


_SHAPE = {"hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 4, "vocab_size": 64, "pad_token_id": 0}
_GROUPED = _SHAPE | {"num_key_value_heads": 2, "head_dim": 32, "bos_token_id": 1, "eos_token_id": 1}
_GPT_2 = {
    "model_type": "gpt2",
    "n_embd": 128,
    "n_head": 4,
    "vocab_size": 64,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_LLAMA = {"model_type": "llama"} | _GROUPED
_MASKED = {"dropout": 0.05}


@pytest.mark.parametrize(
    ("config", "options", "dtype", "attention", "most"),
    [
        (_LLAMA, _MASKED, "bfloat16", "sdpa", 1.03),
        (_LLAMA, {"dropout": 0.0}, "bfloat16", "sdpa", 1.03),
        (_LLAMA, {"targets": "all-linear", "rank": 16}, "bfloat16", "sdpa", 1.03),
        (_LLAMA, _MASKED, "float32", "sdpa", 1.03),
        (_LLAMA, {"dropout": 0.0}, "float32", "sdpa", 1.03),
        (_LLAMA, {"use_dora": True}, "bfloat16", "sdpa", 1.03),
        (_LLAMA, _MASKED, "bfloat16", "eager", 1.08),
        (_LLAMA, None, "bfloat16", "sdpa", 1.03),
        ({"model_type": "qwen3"} | _GROUPED, _MASKED, "bfloat16", "sdpa", 1.03),
        ({"model_type": "gemma3_text"} | _GROUPED, _MASKED, "bfloat16", "sdpa", 1.03),
        ({"model_type": "gemma2"} | _GROUPED, _MASKED, "bfloat16", "eager", 1.1),
        ({"model_type": "phi3"} | _GROUPED, _MASKED, "bfloat16", "sdpa", 1.2),
        (
            {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
            | _GROUPED,
            _MASKED,
            "bfloat16",
            "sdpa",
            1.15,
        ),
        ({"model_type": "mixtral", "num_local_experts": 4} | _GROUPED, _MASKED, "bfloat16", "sdpa", 1.25),
        (_GPT_2, _MASKED, "bfloat16", "sdpa", 1.1),
        (
            {"model_type": "gpt_neox"} | _SHAPE | {"bos_token_id": 1, "eos_token_id": 1},
            _MASKED,
            "bfloat16",
            "sdpa",
            1.3,
        ),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else None,
)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_layer_keeps_what_autograd_keeps(
    config: dict[str, Any], options: dict[str, Any] | None, dtype: str, attention: Any, most: float
) -> None:
    """At most 2 % too little, and as much too much as each case says; on a CPU, whose dropout keeps a float32 mask."""
    spec = TrainingSpec.model_validate(options or {})
    base = blueprint_of(config | {"num_hidden_layers": 2, "n_layer": 2})
    adapter = None if options is None else adapter_of(base, spec)
    kept = _kept_by(config, 3, spec, dtype, attention, options) - _kept_by(config, 2, spec, dtype, attention, options)
    ours = layer_bytes(
        base,
        adapter,
        tokens=64,
        length=32,
        width=2 if dtype == "bfloat16" else 4,
        attention=attention,
        mask=4 if spec.dropout and adapter else 0,
        masked=True,
    )
    assert 0.98 <= ours / kept <= most


def _kept_by(
    config: dict[str, Any], layers: int, spec: TrainingSpec, dtype: str, attention: str, options: dict[str, Any] | None
) -> int:
    """Bytes that are alive for the backward pass of two rows of 32 tokens, without parameters."""
    torch, transformers, peft = map(pytest.importorskip, ("torch", "transformers", "peft"))
    key = "n_layer" if config["model_type"] == "gpt2" else "num_hidden_layers"
    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    settings = {name: value for name, value in config.items() if name != "model_type"} | {key: layers}
    model = transformers.AutoModelForCausalLM.from_config(
        kind(**settings), attn_implementation=attention, dtype=getattr(torch, dtype)
    )
    if options is not None:
        adapter = adapter_of(blueprint_of(config | {key: layers}), spec)
        wanted = peft.LoraConfig(
            r=spec.rank,
            lora_dropout=spec.dropout,
            target_modules=sorted(adapter.modules),
            use_dora=spec.use_dora,
            fan_in_fan_out=config["model_type"] == "gpt2",
        )
        model = peft.get_peft_model(model, wanted)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Saved:
        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor
            alive.add(self)

    ids = torch.arange(64).reshape(2, 32)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        # The graph lives as long as its result.
        result = model.train()(input_ids=ids, attention_mask=mask, use_cache=False).logits
    storages = {(place := saved.tensor.untyped_storage()).data_ptr(): place.nbytes() for saved in list(alive)}
    del result
    return sum(size for place, size in storages.items() if place not in own)
