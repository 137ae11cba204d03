"""Variants of LoRA: what a training hands in must be the variant that was asked for."""

from __future__ import annotations

from typing import Any

import pytest
from support import calls

from registry.catalog.models import NamedBase
from registry.errors import Verification
from registry.jobs.forecasts import of_training
from registry.jobs.kinds.training_outcome import require_asked
from sdk.schemas.job_requests import BaseChoice, TrainingRequest, used_fields
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.training import TrainingSpec

MANIFEST = Manifest(
    kind="checkpoint", base_fingerprint="b" * 64, files=[ManifestFile(path="a", size_bytes=1, sha256="a" * 64)]
)
ASKED: dict[str, Any] = {
    "use_rslora": True,
    "alpha": 4.0,
    "use_dora": True,
    "rank_pattern": "q_proj=2",
    "alpha_pattern": "q_proj=3",
    "modules_to_save": "model.norm",
    "trainable_token_indices": "5-6",
}
MADE: dict[str, Any] = {
    "use_rslora": True,
    "use_dora": True,
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"q_proj": 3.0},
    "modules_to_save": ["model.norm"],
    "trainable_token_indices": [5, 6],
}


#: As a training without options hands it in.
CAUSAL: dict[str, Any] = {"alpha": 8.0, "task_type": "CAUSAL_LM"}


def asked(**options: Any) -> TrainingRequest:
    spec = TrainingSpec(**{"method": "lora", "rank": 4, "targets": "q_proj,v_proj", **options})
    return TrainingRequest(adapter="a", base=BaseChoice(id="b", fingerprint="b" * 64), data="d" * 64, spec=spec)


def hand_in(request: TrainingRequest, training: dict[str, Any] | None = None, **lora: Any) -> None:
    made = {"rank": 4, "alpha": 4.0, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"], **lora}
    require_asked(request, MANIFEST, calls.training_report(LoraConfig(**made), training=training or {}))


def test_the_variant_that_was_asked_for_is_taken() -> None:
    hand_in(asked(**ASKED), {"use_dora": True, "rank_pattern": "q_proj=2"}, **MADE)
    hand_in(asked(bias="all"), alpha=8.0, bias="all")


@pytest.mark.parametrize("name", MADE)
def test_another_one_is_refused(name: str) -> None:
    plain = LoraConfig(rank=1, alpha=1.0, dropout=0.0, target_modules=["-"])
    with pytest.raises(Verification, match=rf"lora\.{name}"):
        hand_in(asked(**ASKED), **{**MADE, name: getattr(plain, name)})
    with pytest.raises(Verification, match=rf"lora\.{name}"):
        hand_in(asked(), alpha=8.0, **{name: MADE[name]})


def test_a_report_that_says_another_option_is_refused() -> None:
    with pytest.raises(Verification, match="rank_pattern is q_proj=3, not q_proj=2"):
        hand_in(asked(**ASKED), {"rank_pattern": "q_proj=3"}, **MADE)


MOVED: dict[str, Any] = {
    "rank_pattern": {"h.0.q_proj": 7, "h.1.q_proj": 1},
    "alpha_pattern": {"h.0.q_proj": 14.0, "h.1.q_proj": 2.0},
}


def test_ranks_that_eva_moved_are_taken_within_rho_and_at_the_scale_asked_for() -> None:
    eva = {"init_lora_weights": "eva", "eva_rho": 1.75}
    hand_in(asked(**eva), {"eva_rho": 1.75, "init_lora_weights": "eva"}, alpha=8.0, **MOVED)
    hand_in(asked(**eva), alpha=8.0)
    with pytest.raises(Verification, match=r"lora\.rank_pattern"):
        hand_in(asked(init_lora_weights="eva"), alpha=8.0, **MOVED)
    with pytest.raises(Verification, match=r"lora\.rank_pattern"):
        hand_in(asked(init_lora_weights="eva", eva_rho=1.5), alpha=8.0, **MOVED)
    with pytest.raises(Verification, match=r"lora\.rank_pattern"):
        hand_in(asked(**eva), alpha=8.0, rank_pattern=MOVED["rank_pattern"], alpha_pattern={"h.0.q_proj": 14.0})
    # A worker that passes over it moves none, and says so by its silence.
    with pytest.raises(Verification, match="eva_rho"):
        hand_in(asked(**eva), {"init_lora_weights": "eva"}, alpha=8.0)


def test_a_training_in_8_bits_hands_in_8_bits() -> None:
    request = asked(method="qlora", quant_type="int8")
    recipe = QuantizationRecipe(type="int8", double_quant=False, block_size=None)
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    report = calls.training_report(lora, quantization=recipe)
    require_asked(request, MANIFEST, report)
    for other in (QuantizationRecipe(), recipe.model_copy(update={"double_quant": True})):
        with pytest.raises(Verification, match="quantization"):
            require_asked(request, MANIFEST, report.model_copy(update={"quantization": other}))


def test_modules_are_those_of_the_layers_that_were_asked_for() -> None:
    request = asked(targets="attention", layers_to_transform="1-2")
    whole = [f"model.layers.{n}.self_attn.q_proj" for n in (1, 2)]
    hand_in(request, alpha=8.0, target_modules=whole)
    for other in (whole[:1], [*whole, "model.layers.3.self_attn.q_proj"], ["q_proj"]):
        with pytest.raises(Verification, match=r"lora\.target_modules"):
            hand_in(request, alpha=8.0, target_modules=other)


def test_each_option_that_is_used_is_one_to_know() -> None:
    plain = used_fields(asked())
    every = {**ASKED, "bias": "all", "layers_to_transform": "1"}
    for name in set(every) - {"alpha"}:
        options = {name: every[name]} | ({"alpha": 4.0} if name == "use_rslora" else {})
        assert used_fields(asked(**options)) - plain >= {f"training.spec.{name}"}, name


def test_a_report_that_says_nothing_of_an_option_that_shows_nowhere_else_is_refused() -> None:
    """As a worker hands it in that has never heard of the option."""
    with pytest.raises(Verification, match="neftune_noise_alpha is None, not 5"):
        hand_in(asked(neftune_noise_alpha=5.0), {"rank": 4}, alpha=8.0)
    hand_in(asked(neftune_noise_alpha=5.0), {"rank": 4, "neftune_noise_alpha": 5.0}, alpha=8.0)
    with pytest.raises(Verification, match=r"holdout is None, not 0\.1"):
        hand_in(asked(holdout=0.1), {"rank": 4}, alpha=8.0)


def test_a_preference_training_says_so_and_how() -> None:
    request = asked(objective="dpo", beta=0.3)
    hand_in(request, {"objective": "dpo", "beta": 0.3}, **CAUSAL)
    with pytest.raises(Verification, match="objective is sft, not dpo"):
        hand_in(request, {"objective": "sft", "beta": 0.3}, **CAUSAL)
    with pytest.raises(Verification, match=r"beta is None, not 0\.3"):
        hand_in(request, {"objective": "dpo"}, **CAUSAL)


@pytest.mark.parametrize("said", ["sft", "dpo"])
def test_where_only_the_worker_looks_into_the_rows_it_says_what_they_are_for(said: str) -> None:
    hand_in(asked(), {"objective": said}, **CAUSAL)
    with pytest.raises(Verification, match="objective is classify, not sft"):
        hand_in(asked(), {"objective": "classify"}, **CAUSAL)


def hand_in_experts(targets: str, modules: list[str], parameters: list[str], exclude: str | None = None) -> None:
    spec = TrainingSpec(method="lora", rank=4, dropout=0.0, targets=targets, exclude=exclude)
    request = TrainingRequest(adapter="a", base=BaseChoice(id="b", fingerprint="b" * 64), data="d" * 64, spec=spec)
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.0, target_modules=modules, target_parameters=parameters)
    require_asked(request, MANIFEST, calls.training_report(lora))


def test_names_are_modules_or_stacked_parameters_as_the_base_has_it() -> None:
    hand_in_experts("experts.down_proj,q_proj", ["q_proj"], ["experts.down_proj"])
    hand_in_experts("experts.down_proj,q_proj", ["experts.down_proj", "q_proj"], [])
    hand_in_experts("experts.down_proj", [], ["experts.down_proj"])
    hand_in_experts("attention", ["q_proj"], [])


@pytest.mark.parametrize(
    ("targets", "modules", "parameters"),
    [
        ("experts.down_proj,q_proj", ["q_proj"], []),
        ("experts.down_proj,q_proj", ["q_proj"], ["experts.gate_up_proj"]),
        ("experts.down_proj,q_proj", ["q_proj"], ["experts.down_proj", "experts.gate_up_proj"]),
        ("q_proj", ["q_proj"], ["experts.down_proj"]),
        ("attention", ["q_proj"], ["experts.down_proj"]),
    ],
)
def test_others_than_were_named_are_refused(targets: str, modules: list[str], parameters: list[str]) -> None:
    with pytest.raises(Verification, match=r"lora\.target_"):
        hand_in_experts(targets, modules, parameters)


def test_experts_that_were_trained_although_something_is_excluded_are_refused() -> None:
    for exclude in ("layers.0.q_proj", r".*layers\.0\..*"):
        with pytest.raises(Verification, match=r"lora\.target_parameters"):
            hand_in_experts("experts.down_proj,q_proj", ["layers.1.q_proj"], ["experts.down_proj"], exclude=exclude)


@pytest.mark.parametrize(
    ("config", "share"),
    [
        ({"num_experts": 4, "dtype": "bfloat16"}, 0.75 + 0.25 * 0.3),
        ({"text_config": {"num_local_experts": 4}, "torch_dtype": "bfloat16"}, 0.75 + 0.25 * 0.3),
        ({"dtype": "bfloat16"}, 0.3),
        ({"num_experts": 4, "dtype": "float32"}, 0.3),
    ],
)
def test_experts_stay_in_16_bit_where_the_rest_is_packed(config: dict[str, object], share: float) -> None:
    tensors = {f"model.layers.0.mlp.experts.{expert}.w.weight": [3, 8] for expert in range(4)}
    tensors |= {"model.layers.0.mlp.shared_experts.w.weight": [2, 8], "model.layers.0.self_attn.q_proj.weight": [2, 8]}
    base = NamedBase(config=config, tensors=tensors, facts="hashed", size_bytes=10**9)
    specs = (TrainingSpec(method=method) for method in ("qlora", "lora"))
    packed, wide = (of_training(base, spec, packed=False).needs.memory_bytes or 0 for spec in specs)
    assert wide - packed == pytest.approx(10**9 * (1 - share), abs=2)
