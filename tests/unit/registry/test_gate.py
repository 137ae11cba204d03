"""The gate: each rule refuses what it is for, by the facts that were kept of an adapter's files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from support.adapters import BASE_TENSORS, lora_tensors
from support.weights import (
    LORA,
    PREFIX,
    QA,
    QB,
    VB,
    Tensors,
    agreeing,
    changed,
    check,
    check_config,
    config_facts,
    packed,
    weight_facts,
)

from registry.artifacts.gate import judge
from registry.errors import Verification
from sdk.bases import scan_base
from sdk.cache import Cache
from sdk.packing import pack_adapter

TURNED = {name: shape[::-1] for name, shape in BASE_TENSORS.items()}


class TestWeights:
    def test_b_zero_throughout_changes_nothing(self) -> None:
        def zero(tensors: Tensors) -> None:
            tensors[QB][:] = 0
            tensors[VB][:] = 0

        with pytest.raises(Verification, match="changes nothing"):
            check(changed(zero))
        check(changed(lambda tensors: tensors[QB].fill(0)))

    @pytest.mark.parametrize(
        "extra", [f"{PREFIX}.q_proj.lora_magnitude_vector", "base_model.model.model.x.lora_embedding_B"]
    )
    def test_what_an_untrained_adapter_has_too_is_no_change(self, extra: str) -> None:
        tensors = {key: value * ("lora_A" in key) for key, value in lora_tensors().items()}
        tensors[extra] = np.ones((8, 1), "float32")
        with pytest.raises(Verification, match="changes nothing"):
            check(save(tensors))

    @pytest.mark.parametrize(
        "name",
        [
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            f"{PREFIX}.q_proj.lora_A.default.weight",
            f"{PREFIX}.q_proj.weight",
            "base_model.model.lm_head.weight",
            f"{PREFIX}.q_proj.lora_C.weight",
        ],
    )
    def test_a_foreign_key_is_refused(self, name: str) -> None:
        with pytest.raises(Verification, match="no LoRA weight"):
            check(changed(lambda tensors: tensors.update({name: np.ones((2, 2), "float32")})))

    def test_a_saved_module_is_allowed_where_the_record_names_it(self) -> None:
        raw = changed(lambda tensors: tensors.update({"base_model.model.lm_head.weight": np.ones((2, 2), "float32")}))
        check(raw, LORA.model_copy(update={"modules_to_save": ["lm_head"]}))

    def test_half_a_pair_is_refused(self) -> None:
        for half in (QA, QB):
            with pytest.raises(Verification, match="only one of"):
                check(changed(lambda tensors, half=half: tensors.pop(half)))

    def test_no_lora_weights_at_all_are_refused(self) -> None:
        with pytest.raises(Verification, match="no LoRA weights at all"):
            check(packed({}))

    @pytest.mark.parametrize(
        ("name", "shape", "said"),
        [
            (QA, (2, 7), "belongs to another base"),
            (QB, (9, 2), "belongs to another base"),
            (QA, (3, 6), "not of rank 2"),
            (QB, (8, 3), "not of rank 2"),
            (QA, (12,), "not of rank 2"),
        ],
    )
    def test_a_shape_of_another_base_or_rank_is_refused(self, name: str, shape: tuple[int, ...], said: str) -> None:
        with pytest.raises(Verification, match=said):
            check(changed(lambda tensors: tensors.update({name: np.ones(shape, "float32")})))

    def test_another_rank_than_recorded_is_refused_unless_the_pattern_says_so(self) -> None:
        with pytest.raises(Verification, match="not of rank 4"):
            check(save(lora_tensors()), LORA.model_copy(update={"rank": 4}))
        wide = changed(lambda t: t.update({QA: np.ones((4, 6), "float32"), QB: np.ones((8, 4), "float32")}))
        check(wide, LORA.model_copy(update={"rank_pattern": {"q_proj": 4}}))
        with pytest.raises(Verification, match="not of rank 2"):
            # "proj" ends no module's name on a boundary, so it is no pattern for q_proj.
            check(wide, LORA.model_copy(update={"rank_pattern": {"proj": 4}}))

    def test_a_module_outside_the_targets_is_refused(self) -> None:
        with pytest.raises(Verification, match="not among the target modules"):
            check(save(lora_tensors()), LORA.model_copy(update={"target_modules": ["q_proj"]}))

    def test_a_module_that_the_base_lacks_is_refused(self) -> None:
        base = {name: shape for name, shape in BASE_TENSORS.items() if "v_proj" not in name}
        with pytest.raises(Verification, match="the base has no module"):
            check(save(lora_tensors()), base=base)
        # Nothing is known of a base whose tensors were not described.
        check(save(lora_tensors()), base={})

    def test_a_base_that_keeps_a_weight_transposed_or_under_a_shorter_name_fits(self) -> None:
        check(
            save(lora_tensors()),
            base={name.removeprefix("model."): shape[::-1] for name, shape in BASE_TENSORS.items()},
        )


class TestTransposed:
    """GPT-2 keeps its weights as (in, out): A is (r, in), B is (out, r) all the same."""

    def test_a_transposed_base_fits_the_flag(self) -> None:
        check(save(lora_tensors()), base=TURNED, fan_in_fan_out=True)

    def test_the_flag_over_a_base_that_lies_straight_is_refused(self) -> None:
        with pytest.raises(Verification, match=r"keeps model\.layers\.0\.self_attn\.q_proj as \(out, in\)"):
            check(save(lora_tensors()), fan_in_fan_out=True)

    def test_an_adapter_that_lies_as_the_base_does_is_refused(self) -> None:
        # B·A of (in, out): whoever made it took the base's weight for (out, in).
        def turn(tensors: Tensors) -> None:
            tensors[QA], tensors[QB] = np.ones((2, 8), "float32"), np.ones((6, 2), "float32")

        with pytest.raises(Verification, match="q_proj as"):
            check(changed(turn), base=TURNED, fan_in_fan_out=True)

    def test_another_shape_belongs_to_another_base_whatever_the_flag(self) -> None:
        wider = changed(lambda tensors: tensors.update({QA: np.ones((2, 7), "float32")}))
        with pytest.raises(Verification, match="belongs to another base"):
            check(wider, base=TURNED, fan_in_fan_out=True)

    def test_a_square_weight_fits_either_way(self) -> None:
        square = changed(lambda tensors: tensors.update({QA: np.ones((2, 8), "float32")}))
        base = BASE_TENSORS | {"model.layers.0.self_attn.q_proj.weight": [8, 8]}
        check(square, base=base)
        base["model.layers.0.self_attn.v_proj.weight"] = [6, 4]
        check(square, base=base, fan_in_fan_out=True)

    def test_a_convolution_ignores_the_flag(self) -> None:
        def convolve(tensors: Tensors) -> None:
            tensors[QA], tensors[QB] = np.ones((2, 6, 3, 3), "float32"), np.ones((8, 2, 1, 1), "float32")

        base = TURNED | {"model.layers.0.self_attn.q_proj.weight": [8, 6, 3, 3]}
        check(changed(convolve), base=base, fan_in_fan_out=True)

    def test_nothing_is_asked_of_a_base_without_shapes(self) -> None:
        check(save(lora_tensors()), base={}, fan_in_fan_out=True)

    @pytest.mark.parametrize(
        ("targets", "flag"),
        [
            (["c_attn", "c_proj", "c_fc"], True),
            ("all-linear", True),
            # PEFT has one flag for all modules, and the last one that it adapts, a Linear, makes it false.
            (["c_attn", "lm_head"], False),
        ],
        ids=["named", "all-linear", "with-head"],
    )
    @pytest.mark.parametrize("prefix", ["", "transformer."], ids=["as-saved", "as-on-the-hub"])
    def test_what_peft_writes_for_gpt2_passes(
        self, targets: list[str] | str, flag: bool, prefix: str, tmp_path: Path
    ) -> None:
        save_gpt2_adapter(tmp_path, targets)
        base = scan_base(tmp_path / "base", cache=Cache(tmp_path / "cache")).registration
        (tmp_path / "staging").mkdir()
        package = pack_adapter(
            tmp_path / "adapter",
            base_id="gpt2",
            base_revision=None,
            base_fingerprint=base.fingerprint,
            staging=tmp_path / "staging",
        )
        config = config_facts((tmp_path / "staging/adapter_config.json").read_bytes())
        weights = weight_facts((tmp_path / "adapter/adapter_model.safetensors").read_bytes())
        tensors = {name.removeprefix(prefix): shape for name, shape in base.tensors.items()}
        assert config.fan_in_fan_out is flag
        judge(weights, config, lora=package.lora, base_tensors=tensors)
        turned = {name: shape[::-1] for name, shape in tensors.items()}
        if flag:
            with pytest.raises(Verification, match=r"as \(out, in\)"):
                judge(weights, config, lora=package.lora, base_tensors=turned)


def save_gpt2_adapter(folder: Path, targets: list[str] | str) -> None:
    """Save a tiny GPT-2, and an adapter over it that changes something, with the real libraries' defaults."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=40,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=None,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        # PEFT warns where it sets the flag to what the layers are.
        warnings.simplefilter("ignore")
        adapted = get_peft_model(
            model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
        )
        adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)


class TestConfig:
    def test_what_peft_writes_passes(self) -> None:
        check_config()
        check_config(auto_mapping=None, megatron_config=None, megatron_core="", base_model_name_or_path=None)
        check_config(base_model_name_or_path="org/name-1.0", target_modules=["v_proj", "q_proj"], lora_alpha=4.0)

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            ({"r": 3}, "rank"),
            ({"r": True}, "rank"),
            ({"r": None}, "rank"),
            ({"r": 2.0}, "rank"),
            ({"target_modules": ["q_proj"]}, "target modules"),
            ({"target_modules": ".*proj"}, "target modules"),
            ({"target_modules": ["q_proj", 1]}, "target modules"),
            ({"target_modules": [["q_proj"], {}]}, "target modules"),
            ({"lora_alpha": 8}, "alpha"),
            ({"lora_alpha": "4"}, "alpha"),
            ({"use_rslora": True}, "use_rslora"),
            ({"use_dora": True}, "use_dora"),
            ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
            ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ],
    )
    def test_a_config_that_says_something_else_than_the_record_is_refused(
        self, config: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(Verification, match=f"disagree on {said};"):
            check_config(**config)

    def test_what_the_config_says_is_judged_before_the_weights(self) -> None:
        empty = weight_facts(packed({}))
        with pytest.raises(Verification, match="disagree on rank"):
            judge(empty, agreeing(LORA.model_copy(update={"rank": 4})), lora=LORA, base_tensors=BASE_TENSORS)
        with pytest.raises(Verification, match="no LoRA weights at all"):
            judge(empty, agreeing(LORA), lora=LORA, base_tensors=BASE_TENSORS)
