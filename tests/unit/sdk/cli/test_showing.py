"""`show`: what a training has counted of its base."""

from __future__ import annotations

from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.version_facts import _first, _held, _releases, _variant
from sdk.schemas.version_records import TrainingRecord


def test_which_share_of_the_base_was_in_which_precision() -> None:
    counted = {"base_nf4_parameters": 117.0, "base_bfloat16_parameters": 883.0}
    assert _held({**counted, "base_parameters": 1000.0, "base_nf4_bytes": 60.0, "loss": 1.0}) == [
        "bfloat16 88.3 %, nf4 11.7 %"
    ]
    # Nothing was counted.
    assert _held({"base_parameters": 1000.0}) == []


def test_what_is_beyond_plain_lora_is_shown() -> None:
    plain = LoraConfig(rank=8, alpha=16.0, dropout=0.0, target_modules=["q_proj"])
    assert _variant(plain) == ""
    lora = plain.model_copy(
        update={
            "use_rslora": True,
            "use_dora": True,
            "rank_pattern": {"v_proj": 2, "q_proj": 4},
            "bias": "lora_only",
            "modules_to_save": ["norm"],
            "trainable_token_indices": [3, 5],
        }
    )
    assert _variant(lora) == ", rsLoRA, DoRA, rank_pattern q_proj=4 v_proj=2, bias lora_only, whole norm, tokens 3 5"


def test_many_target_modules_are_counted() -> None:
    names = [f"model.language_model.layers.{n}.self_attn.q_proj" for n in range(34)]
    assert _first(names) == [*names[:12], "and 22 more"]
    assert _first(names[:12]) == names[:12]


def test_which_releases_trained_is_shown_as_far_as_it_is_recorded() -> None:
    record = TrainingRecord.read({"python": "3.11.7", "adapterctl": "0.1.0", "driver": 550})
    assert _releases(record) == ["adapterctl 0.1.0", "python 3.11.7"]
    assert _releases(TrainingRecord()) == []
