"""Whatever the installed PEFT can say of an adapter is in its record: the configs here are PEFT's own."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.packages import config_of, pack
from support.small import write_adapter

from registry.artifacts.admission.inspection import inspect_config
from registry.errors import Verification
from sdk.errors import InvalidInput
from sdk.formats.peft_config import DROPPED_KEYS, KEYS, examine
from sdk.lora.adapter_config import lora_of
from sdk.schemas.lora_config import LoraConfig


def saved_by_peft(folder: Path, **settings: Any) -> Path:
    """Write an adapter whose config the installed PEFT saved; return its folder."""
    from peft import LoraConfig as PeftLoraConfig

    write_adapter(folder)
    PeftLoraConfig(**{"target_modules": ["q_proj", "v_proj"], **settings}).save_pretrained(str(folder))
    return folder


def plain_record(**changed: Any) -> LoraConfig:
    """Return the record of a config that leaves everything at PEFT's defaults."""
    plain = {"rank": 8, "alpha": 8.0, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
    return LoraConfig.model_validate({**plain, **changed})


def sub_configs() -> dict[str, Any]:
    """Return what PEFT is told for each variant of LoRA that has a config of its own."""
    from peft.tuners.lora.config import ArrowConfig, BdLoraConfig, CordaConfig, EvaConfig, KasaConfig

    return {
        "eva": {"init_lora_weights": "eva", "eva_config": EvaConfig(rho=1.5)},
        "corda": {"init_lora_weights": "corda", "corda_config": CordaConfig(cache_file="corda.pt", corda_method="kpm")},
        "kasa": {"kasa_config": KasaConfig(beta=0.5)},
        "arrow": {"arrow_config": ArrowConfig(top_k=2)},
        "bdlora": {"use_bdlora": BdLoraConfig(target_modules_bd_a=["q_proj", "v_proj"], nblocks=4)},
    }


#: What PEFT is told, and what of the record differs from the plain one then.
SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    (
        {"r": 4, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": ["v_proj"], "task_type": "CAUSAL_LM"},
        {"rank": 4, "alpha": 32.0, "dropout": 0.1, "target_modules": ["v_proj"], "task_type": "CAUSAL_LM"},
    ),
    ({"rank_pattern": {"v_proj": 2}, "use_rslora": True}, {"rank_pattern": {"v_proj": 2}, "use_rslora": True}),
    ({"alpha_pattern": {"v_proj": 2}, "use_dora": True}, {"alpha_pattern": {"v_proj": 2.0}, "use_dora": True}),
    (
        {"modules_to_save": ["score", "lm_head"], "bias": "all", "init_lora_weights": "orthogonal"},
        {"modules_to_save": ["lm_head", "score"], "bias": "all", "init": "orthogonal"},
    ),
    ({"fan_in_fan_out": True, "lora_bias": True}, {"fan_in_fan_out": True, "lora_bias": True}),
    ({"exclude_modules": ["z", "a"]}, {"exclude_modules": ["a", "z"]}),
    ({"exclude_modules": r".*\.mlp\..*"}, {"other": {"exclude_modules": r".*\.mlp\..*"}}),
    (
        {"layers_to_transform": [3, 1], "layers_pattern": ["layers", "h"]},
        {"layers_to_transform": [1, 3], "layers_pattern": ["layers", "h"]},
    ),
    ({"layers_to_transform": 0, "layers_pattern": "h"}, {"layers_to_transform": [0], "layers_pattern": ["h"]}),
    ({"target_parameters": ["experts.up", "experts.down"]}, {"target_parameters": ["experts.down", "experts.up"]}),
    ({"trainable_token_indices": [7, 3]}, {"trainable_token_indices": [7, 3]}),
    ({"trainable_token_indices": {"wte": [7]}}, {"trainable_token_indices": {"wte": [7]}}),
    (
        {"use_qalora": True, "qalora_group_size": 32, "ensure_weight_tying": True},
        {"other": {"ensure_weight_tying": True, "qalora_group_size": 32, "use_qalora": True}},
    ),
]


@pytest.mark.parametrize(("settings", "recorded"), SETTINGS, ids=lambda value: ",".join(value))
def test_what_peft_saved_is_recorded(settings: dict[str, Any], recorded: dict[str, Any], tmp_path: Path) -> None:
    package = pack(saved_by_peft(tmp_path / "adapter", **settings), tmp_path / "staging")
    assert package.lora == plain_record(**recorded)
    assert list(package.lora.other) == sorted(package.lora.other)
    # The record travels and is kept as JSON.
    assert LoraConfig.model_validate_json(package.lora.model_dump_json()) == package.lora
    assert lora_of(config_of(tmp_path / "staging")) == package.lora


@pytest.mark.parametrize(
    ("variant", "recorded"),
    [
        ("eva", {"eva_config.rho": 1.5, "eva_config.tau": 0.99, "eva_config.use_label_mask": True}),
        (
            "bdlora",
            {"use_bdlora.nblocks": 4, "use_bdlora.target_modules_bd_a.0": "q_proj", "use_bdlora.match_strict": True},
        ),
    ],
)
def test_settings_of_a_variant_are_recorded_by_dotted_names(
    variant: str, recorded: dict[str, Any], tmp_path: Path
) -> None:
    package = pack(saved_by_peft(tmp_path / "adapter", **sub_configs()[variant]), tmp_path / "staging")
    assert recorded.items() <= package.lora.other.items()
    assert all(name.count(".") >= 1 for name in package.lora.other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights is 'pissa', .*path_initial_model_for_weight_conversion=INITIAL",
        ),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "lora_ga"}, "path_initial_model_for_weight_conversion"),
        ("corda", "path_initial_model_for_weight_conversion"),
        ("kasa", "kasa_config takes the smallest singular values out of the base"),
        ("arrow", "arrow_config chooses among other adapters"),
        ({"layer_replication": [(0, 4), (2, 5)]}, "layer_replication repeats the base's layers"),
        (
            {"alora_invocation_tokens": [9, 4], "task_type": "CAUSAL_LM"},
            "alora_invocation_tokens makes the adapter act on",
        ),
    ],
)
def test_what_is_no_update_of_the_base_is_refused_by_name(
    settings: dict[str, Any] | str, said: str, tmp_path: Path
) -> None:
    asked = sub_configs()[settings] if isinstance(settings, str) else settings
    folder = saved_by_peft(tmp_path / "adapter", **asked)
    with pytest.raises(InvalidInput, match=said):
        pack(folder, tmp_path / "staging")
    # The registry refuses what another client sends, by the same words.
    raw = json.loads((folder / "adapter_config.json").read_text())
    with pytest.raises(Verification, match=said):
        inspect_config(
            io.BytesIO(
                json.dumps({key: raw[key] for key in raw.keys() & KEYS.keys()} | {"corda_config": None}).encode()
            )
        )


def test_no_setting_of_the_installed_peft_is_passed_over() -> None:
    from peft import LoraConfig as PeftLoraConfig

    said_elsewhere = {"peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision"}
    said_elsewhere |= {"inference_mode", "megatron_config", "megatron_core", "runtime_config"}
    plain = {**PeftLoraConfig().to_dict(), "target_modules": ["q_proj"]}
    passed_over = set()
    for field in dataclasses.fields(PeftLoraConfig):
        try:
            record = lora_of({**plain, field.name: "something else"})
        except InvalidInput:
            continue
        if record == lora_of(plain):
            passed_over.add(field.name)
    assert passed_over == said_elsewhere


def test_every_setting_of_the_installed_peft_is_on_the_list() -> None:
    from peft import LoraConfig as PeftLoraConfig
    from peft.tuners.lora import config as module

    assert {field.name for field in dataclasses.fields(PeftLoraConfig)} <= KEYS.keys() | DROPPED_KEYS
    nested = {
        "runtime_config": module.LoraRuntimeConfig,
        "loftq_config": module.LoftQConfig,
        "eva_config": module.EvaConfig,
        "corda_config": module.CordaConfig,
        "lora_ga_config": module.LoraGAConfig,
        "velora_config": module.VeloraConfig,
        "monteclora_config": module.MontecloraConfig,
        "arrow_config": module.ArrowConfig,
        "kasa_config": module.KasaConfig,
        "use_bdlora": module.BdLoraConfig,
    }
    assert nested.keys() == {key for key, kind in KEYS.items() if isinstance(kind, Mapping)}
    for key, config in nested.items():
        known = KEYS[key]
        assert {field.name for field in dataclasses.fields(config) if field.init} <= known.keys() | DROPPED_KEYS, key
        # PEFT's own defaults are of the kinds that are listed.
        values = {f.name: f.default for f in dataclasses.fields(config) if f.init and f.name not in DROPPED_KEYS}
        assert list(examine({key: values})) == []
