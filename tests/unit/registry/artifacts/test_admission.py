"""Admission: each rule refuses what it is for, by the facts that were kept of an adapter's files."""

from __future__ import annotations

import time
from contextlib import nullcontext
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
    VA,
    VB,
    Tensors,
    agreeing,
    changed,
    check,
    check_config,
    packed,
    weight_facts,
)

from registry.artifacts.admission.inspection import TensorFacts, WeightFacts
from registry.artifacts.admission.rules import judge
from registry.errors import Verification

DORA = LORA.model_copy(update={"use_dora": True})
EMBEDDING = "base_model.model.model.embed_tokens"
BIASES = {f"model.layers.0.self_attn.{name}.bias": [size] for name, size in (("q_proj", 8), ("v_proj", 4))}


def magnitudes(**changed: tuple[int, ...]) -> Tensors:
    """Return DoRA's magnitudes of both modules, one number for each output."""
    shapes = {"q_proj": (8,), "v_proj": (4,), **changed}
    return {f"{PREFIX}.{name}.lora_magnitude_vector": np.ones(shape, "float32") for name, shape in shapes.items()}


class TestWeights:
    def test_b_zero_throughout_changes_nothing(self) -> None:
        def zero(tensors: Tensors) -> None:
            tensors[QB][:] = 0
            tensors[VB][:] = 0

        with pytest.raises(Verification, match="changes nothing") as caught:
            check(changed(zero))
        # Admission does not know whether it was trained, combined or pushed.
        for said in ("A training needs", "a combination weights that don't cancel its versions", "and a push"):
            assert said in str(caught.value)
        check(changed(lambda tensors: tensors[QB].fill(0)))

    def test_magnitudes_of_dora_are_no_change(self) -> None:
        # An untrained adapter has them too: they are the norms of the base's rows.
        tensors = {key: value * ("lora_A" in key) for key, value in lora_tensors().items()}
        tensors |= magnitudes()
        with pytest.raises(Verification, match="changes nothing"):
            check(save(tensors), DORA)

    def test_b_of_an_embedding_is_no_change(self) -> None:
        # PEFT starts an embedding from a random B and A of zero.
        def embedding(a: float) -> bytes:
            tensors = {
                f"{EMBEDDING}.lora_embedding_A": np.full((2, 32), a, "float32"),
                f"{EMBEDDING}.lora_embedding_B": np.ones((6, 2), "float32"),
            }
            return save(tensors)

        lora = LORA.model_copy(update={"target_modules": ["embed_tokens"]})
        check(embedding(0.5), lora)
        with pytest.raises(Verification, match="changes nothing"):
            check(embedding(0.0), lora)

    def test_a_single_b_of_zero_is_a_warning_that_names_the_module(self) -> None:
        assert check(save(lora_tensors())) == []
        (warning,) = check(changed(lambda tensors: tensors[QB].fill(0)))
        assert "zero in model.layers.0.self_attn.q_proj:" in warning

    def test_warnings_stay_short(self) -> None:
        prefix = "base_model.model.model.layers"
        tensors = {f"{prefix}.{n}.q_proj.lora_A.weight": np.ones((2, 6), "float32") for n in range(50)}
        tensors |= {f"{prefix}.{n}.q_proj.lora_B.weight": np.full((8, 2), n // 49, "float32") for n in range(50)}
        (warning,) = check(save(tensors), LORA.model_copy(update={"target_modules": ["q_proj"]}), base={})
        assert "and 44 more" in warning
        assert len(warning) < 300

    def test_a_target_without_weights_is_a_warning(self) -> None:
        lora = LORA.model_copy(update={"target_modules": ["k_proj", "q_proj", "v_proj"]})
        (warning,) = check(save(lora_tensors()), lora)
        assert "no weights for the target modules k_proj;" in warning

    @pytest.mark.parametrize(
        "name",
        [
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            f"{PREFIX}.q_proj.lora_A.default.weight",
            f"{PREFIX}.q_proj.weight",
            "base_model.model.score.weight",
            f"{PREFIX}.q_proj.lora_C.weight",
            f"{PREFIX}.q_proj.lora_diag",
            f"{PREFIX}.q_proj.lora_A.bias",
            f"{PREFIX}.q_proj.bias",
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
        ],
    )
    def test_a_foreign_key_is_refused(self, name: str) -> None:
        with pytest.raises(Verification, match="not a LoRA weight"):
            check(changed(lambda tensors: tensors.update({name: np.ones((2, 2), "float32")})))

    def test_half_a_pair_is_refused(self) -> None:
        for half in (QA, QB):
            with pytest.raises(Verification, match="only one of"):
                check(changed(lambda tensors, half=half: tensors.pop(half)))

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
            # "proj" ends no module's name on a boundary, so it is not a pattern for q_proj.
            check(wide, LORA.model_copy(update={"rank_pattern": {"proj": 4}}))

    def test_a_module_outside_the_targets_is_refused(self) -> None:
        with pytest.raises(
            Verification,
            match=r"v_proj is not among the modules that adapter_config\.json targets, by target_modules",
        ):
            check(save(lora_tensors()), LORA.model_copy(update={"target_modules": ["q_proj"]}))

    def test_a_module_that_the_base_lacks_is_refused(self) -> None:
        base = {name: shape for name, shape in BASE_TENSORS.items() if "v_proj" not in name}
        with pytest.raises(Verification, match="the base has no module"):
            check(save(lora_tensors()), base=base)
        # Nothing is known of a base whose tensors were not described.
        check(save(lora_tensors()), base={})

    def test_a_base_that_keeps_a_weight_under_a_shorter_name_fits(self) -> None:
        check(save(lora_tensors()), base={name.removeprefix("model."): shape for name, shape in BASE_TENSORS.items()})

    @pytest.mark.parametrize("rank", [0, -2])
    def test_a_rank_below_one_is_refused(self, rank: int) -> None:
        with pytest.raises(Verification, match="rank below 1"):
            check(save(lora_tensors()), LORA.model_copy(update={"rank_pattern": {"q_proj": rank}}))

    @pytest.mark.slow
    def test_a_hundred_thousand_modules_are_judged_in_seconds(self) -> None:
        count = 20_000
        base = {f"layers.{n}.q_proj.weight": [8, 6] for n in range(count)}
        tensors = [
            TensorFacts(f"base_model.model.model.layers.{n}.q_proj.lora_{half}.weight", "F32", shape, zero=False)
            for n in range(count)
            for half, shape in (("A", (2, 6)), ("B", (8, 2)))
        ]
        lora = LORA.model_copy(update={"target_modules": ["q_proj"]})
        started = time.thread_time()
        assert judge(WeightFacts.of(tensors), agreeing(lora), lora=lora, base_tensors=base, base_config={}) == []
        assert time.thread_time() - started < 5


class TestEffect:
    """How much s·B·A changes, by the largest magnitudes of A and B."""

    @pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
    @pytest.mark.parametrize(
        ("a", "b", "said"),
        [
            # As trainings leave them, and as their first steps do.
            (0.05, 0.02, None),
            (0.05, 1e-6, None),
            (6e-5, 6e-5, None),
            # As PiSSA and OLoRA do over a base of large singular values.
            (16.0, 16.0, None),
            (200.0, 200.0, r"s·B·A exceeds 10000 in model\.layers\.0\.self_attn\.q_proj, model"),
            (1e-30, 1e-10, "no value of s·B·A reaches 1e-12 in any of the 2 adapted modules.* changes nothing"),
            (1e16, 1e16, "exceeds 10000"),
            (1e-42, 0.02, "changes nothing"),
            (0.05, 1e-42, "changes nothing"),
            (1e32, 1e-3, "exceeds 10000"),
            (1e-3, 1e32, "exceeds 10000"),
        ],
    )
    def test_what_is_too_small_or_too_large_to_be_meant_is_refused(
        self, a: float, b: float, said: str | None, dtype: str
    ) -> None:
        if dtype == "float16" and not all(5e-8 < value < 65504 for value in (a, b)):
            pytest.skip("float16 holds no such number")
        raw = scaled(a, b, dtype)
        if said is None:
            assert check(raw) == []
        else:
            with pytest.raises(Verification, match=said):
                check(raw)

    def test_the_scale_counts(self) -> None:
        raw = scaled(0.05, 0.02, "float32")
        for alpha, said in ((1e9, "or alpha is wrong"), (1e-12, "changes nothing"), (0.0, "changes nothing")):
            with pytest.raises(Verification, match=said):
                check(raw, LORA.model_copy(update={"alpha": alpha}))
            one = LORA.model_copy(update={"alpha_pattern": {"q_proj": alpha}})
            if alpha > 1:
                with pytest.raises(Verification, match=r"in model\.layers\.0\.self_attn\.q_proj, where"):
                    check(raw, one)
            else:
                (warning,) = check(raw, one)
                found = "no value of s·B·A reaches 1e-12" if alpha else "s·B·A is zero"
                assert warning.startswith(f"{found} in model.layers.0.self_attn.q_proj: ")
        # α/√r is 32 times α/r.
        shapes = {QA: (1024, 6), QB: (8, 1024), VA: (1024, 6), VB: (4, 1024)}
        wide = save({name: np.full(shape, 0.5, "float32") for name, shape in shapes.items()})
        lora = LORA.model_copy(update={"rank": 1024, "alpha": 2.0**22})
        assert "may reach beyond 65504" in check(wide, lora)[0]
        with pytest.raises(Verification, match="exceeds 10000"):
            check(wide, lora.model_copy(update={"use_rslora": True}), use_rslora=True)

    def test_a_bias_alone_is_an_effect(self) -> None:
        lora = LORA.model_copy(update={"lora_bias": True})
        base = BASE_TENSORS | BIASES
        raw = changed(
            lambda tensors: tensors.update(
                {
                    QB: np.full((8, 2), 1e-40, "float32"),
                    VB: np.full((4, 2), 1e-40, "float32"),
                    QB.replace("weight", "bias"): np.full(8, 0.1, "float32"),
                    VB.replace("weight", "bias"): np.zeros(4, "float32"),
                }
            )
        )
        assert "in model.layers.0.self_attn.v_proj:" in check(raw, lora, base)[0]

    def test_numbers_that_float16_can_not_hold_are_warned_of(self) -> None:
        lora = LORA.model_copy(update={"modules_to_save": ["lm_head"]})
        head = {"base_model.model.lm_head.weight": np.full((32, 6), 1e5, "float32")}
        base = BASE_TENSORS | {"lm_head.weight": [32, 6]}
        warnings = check(save(lora_tensors() | head), lora, base)
        assert "numbers beyond 65504, where float16 ends, in base_model.model.lm_head.weight: use" in warnings[0]
        # B makes up for A, and neither is a number in float16.
        assert "lora_A.weight" in check(scaled(1e6, 1e-8, "float32"))[0]


def scaled(a: float, b: float, dtype: str) -> bytes:
    """Return weights whose A and B have these largest magnitudes, in a type of safetensors."""
    import torch
    from safetensors.torch import save as save_torch

    tensors = {}
    for name, values in lora_tensors().items():
        size = a if "lora_A" in name else b
        unit = torch.from_numpy(values / np.abs(values).max()).to(torch.float64)
        tensors[name] = (unit * size).to(getattr(torch, dtype))
    return save_torch(tensors)


class TestBesides:
    """What an adapter may have beside A and B."""

    def test_doras_magnitudes_fit_the_outputs(self) -> None:
        check(save(lora_tensors() | magnitudes()), DORA)
        for shape in ((7,), (8, 8), (2, 4)):
            with pytest.raises(Verification, match="not one number for each of 8 outputs"):
                check(save(lora_tensors() | magnitudes(q_proj=shape)), DORA)

    def test_doras_magnitudes_and_its_flag_need_each_other(self) -> None:
        with pytest.raises(Verification, match="has no lora_magnitude_vector"):
            check(save(lora_tensors()), DORA)
        with pytest.raises(Verification, match="not loaded while use_dora is false"):
            check(save(lora_tensors() | magnitudes()))

    def test_magnitudes_under_both_names_are_refused(self) -> None:
        twice = magnitudes() | {f"{key}.weight": value for key, value in magnitudes().items()}
        with pytest.raises(Verification, match="means the same"):
            check(save(lora_tensors() | twice), DORA)

    def test_an_embedding_lies_the_other_way(self) -> None:
        lora = LORA.model_copy(update={"target_modules": ["embed_tokens"]})
        another, resized = "belongs to another base", "vocabulary was resized: .* is of 33 tokens, the base of 32"
        for a, b, said in (((2, 32), (6, 2), None), ((2, 6), (32, 2), another), ((2, 33), (6, 2), resized)):
            tensors = {
                f"{EMBEDDING}.lora_embedding_A": np.ones(a, "float32"),
                f"{EMBEDDING}.lora_embedding_B": np.ones(b, "float32"),
            }
            with nullcontext() if said is None else pytest.raises(Verification, match=said):
                check(save(tensors), lora)

    def test_halves_of_two_kinds_are_no_pair(self) -> None:
        def mix(tensors: Tensors) -> None:
            tensors[f"{PREFIX}.q_proj.lora_embedding_B"] = tensors.pop(QB)

        with pytest.raises(Verification, match="only one of"):
            check(changed(mix))

    def test_a_bias_of_b_fits_the_outputs_and_the_flag(self) -> None:
        lora = LORA.model_copy(update={"lora_bias": True})
        tensors = lora_tensors() | {
            f"{PREFIX}.{name}.lora_B.bias": np.ones(size, "f4") for name, size in (("q_proj", 8), ("v_proj", 4))
        }
        check(save(tensors), lora, BASE_TENSORS | BIASES)
        with pytest.raises(Verification, match=r"q_proj has no lora_B\.bias, though lora_bias is true"):
            check(save(lora_tensors()), lora, BASE_TENSORS | BIASES)
        check(save(tensors), lora, {})
        with pytest.raises(Verification, match=r"q_proj has no bias to add B's to"):
            check(save(tensors), lora)
        for other, record in ((tensors, LORA), (tensors | {f"{PREFIX}.q_proj.lora_B.bias": np.ones(7, "f4")}, lora)):
            with pytest.raises(Verification, match=r"lora_B\.bias"):
                check(save(other), record, BASE_TENSORS | BIASES)

    def test_biases_of_the_base_fit_it(self) -> None:
        base = BASE_TENSORS | {"model.layers.0.self_attn.q_proj.bias": [8], "model.norm.bias": [6]}
        own = {f"{PREFIX}.q_proj.base_layer.bias": np.ones(8, "float32")}
        other = {"base_model.model.model.norm.bias": np.ones(6, "float32")}
        check(save(lora_tensors() | own | other), LORA.model_copy(update={"bias": "all"}), base)
        check(save(lora_tensors() | own), LORA.model_copy(update={"bias": "lora_only"}), base)
        with pytest.raises(Verification, match="not a LoRA weight"):
            check(save(lora_tensors() | other), LORA.model_copy(update={"bias": "lora_only"}), base)
        with pytest.raises(Verification, match="not a LoRA weight"):
            check(save(lora_tensors() | own), LORA, base)
        wrong = base | {"model.layers.0.self_attn.q_proj.bias": [9]}
        with pytest.raises(Verification, match="is 8, the base's is 9"):
            check(save(lora_tensors() | own), LORA.model_copy(update={"bias": "all"}), wrong)

    def test_a_saved_module_fits_the_base_where_it_has_one(self) -> None:
        lora = LORA.model_copy(update={"modules_to_save": ["embed_tokens", "score"]})
        tensors = lora_tensors() | {"base_model.model.score.weight": np.ones((3, 6), "float32")}
        check(save(tensors | {f"{EMBEDDING}.weight": np.ones((32, 6), "float32")}), lora)
        with pytest.raises(Verification, match=r"is 32×7, the base's is 32×6; the adapter belongs to another base"):
            check(save(tensors | {f"{EMBEDDING}.weight": np.ones((32, 7), "float32")}), lora)

    def test_embeddings_that_dominate_are_a_warning_with_sizes(self) -> None:
        base = BASE_TENSORS | {"model.embed_tokens.weight": [3200, 6]}
        large = lora_tensors() | {f"{EMBEDDING}.weight": np.ones((3200, 6), "float32")}
        (warning,) = check(save(large), base=base)
        assert "76.8 kB" in warning
        assert "(lora 192 B, embeddings 76.8 kB)" in warning
        # A tied head is a copy of the embedding.
        assert (
            len(check(save(large | {"base_model.model.lm_head.weight": np.ones((3200, 6), "float32")}), base=base)) == 1
        )
        assert (
            check(
                save(
                    lora_tensors()
                    | {
                        f"{PREFIX}.q_proj.lora_B.bias": np.ones(8, "f4"),
                        f"{PREFIX}.v_proj.lora_B.bias": np.ones(4, "f4"),
                    }
                ),
                LORA.model_copy(update={"lora_bias": True}),
                BASE_TENSORS | BIASES,
            )
            == []
        )

    @pytest.mark.parametrize(
        ("said", "rows", "fits"), [([4, 7], 2, True), ({"embed_tokens": [1]}, 1, True), ([4], 2, False)]
    )
    def test_single_tokens_are_as_many_as_the_record_says(self, said: Any, rows: int, fits: bool) -> None:
        tensors = lora_tensors()
        tensors[f"{EMBEDDING}.token_adapter.trainable_tokens_delta"] = np.ones((rows, 6), "float32")
        with nullcontext() if fits else pytest.raises(Verification, match="trainable_token_indices"):
            check(save(tensors), LORA.model_copy(update={"trainable_token_indices": said}))

    def test_a_convolution_has_its_kernel_and_groups(self) -> None:
        def judged(a: tuple[int, ...], b: tuple[int, ...]) -> None:
            tensors = {
                "base_model.model.conv.lora_A.weight": np.ones(a, "f4"),
                "base_model.model.conv.lora_B.weight": np.ones(b, "f4"),
            }
            check(save(tensors), LORA.model_copy(update={"target_modules": ["conv"]}), {"conv.weight": [8, 6, 3, 3]})

        judged((2, 6, 3, 3), (8, 2, 1, 1))
        judged((2, 12, 3, 3), (8, 1, 1, 1))
        for a, b in (
            ((2, 6, 1, 1), (8, 2, 1, 1)),
            ((2, 6, 3, 3), (8, 2, 3, 3)),
            ((2, 6, 3, 3), (8, 2)),
            ((2, 8, 3, 3), (6, 2, 1, 1)),
        ):
            with pytest.raises(Verification):
                judged(a, b)

    def test_stacked_experts_have_the_rank_times_their_number(self) -> None:
        lora = LORA.model_copy(update={"target_parameters": ["experts.up", "experts.down"]})
        base = BASE_TENSORS | {"model.layers.0.experts.up": [4, 6, 10], "model.layers.0.experts.down": [4, 10, 6]}
        prefix = "base_model.model.model.layers.0.experts"

        def judged(width: int, into: int, base: dict[str, list[int]]) -> None:
            tensors = lora_tensors()
            for part in (prefix, f"{prefix}.base_layer"):
                tensors[f"{part}.lora_A.weight"] = np.ones((width, into), "float32")
                tensors[f"{part}.lora_B.weight"] = np.ones((10, width), "float32")
            check(save(tensors), lora, base)

        judged(8, 6, base)
        judged(16, 7, {})
        # Other names of theirs can't be told from none.
        judged(16, 7, BASE_TENSORS | {"model.layers.0.experts.up_blocks": [4, 6, 10]})
        with pytest.raises(
            Verification, match=r"the base has no parameter .*experts\.down, .* no experts in its place"
        ):
            judged(16, 7, BASE_TENSORS)
        for width, into in ((2, 6), (16, 6), (8, 7), (7, 6)):
            with pytest.raises(Verification, match="experts"):
                judged(width, into, base)


class TestConfig:
    def test_what_peft_writes_passes(self) -> None:
        check_config()
        check_config(auto_mapping=None, megatron_config=None, megatron_core="", base_model_name_or_path=None)
        check_config(base_model_name_or_path="org/name-1.0", target_modules=["v_proj", "q_proj"], lora_alpha=4.0)
        check_config(target_modules=["v_proj", "q_proj", "v_proj"], bias=None, modules_to_save=None, rank_pattern=None)

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            ({"r": 3}, "rank"),
            ({"r": None}, "rank"),
            ({"target_modules": ["q_proj"]}, "target modules"),
            ({"target_modules": ".*proj"}, "target modules"),
            ({"lora_alpha": 8}, "alpha"),
            ({"use_rslora": True}, "use_rslora"),
            ({"use_dora": True}, "use_dora"),
            ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
            ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
            ({"bias": "all"}, "bias"),
            ({"lora_bias": True}, "lora_bias"),
            ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
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
            judge(
                empty,
                agreeing(LORA.model_copy(update={"rank": 4})),
                lora=LORA,
                base_tensors=BASE_TENSORS,
                base_config={},
            )
        with pytest.raises(Verification, match="no LoRA weights at all"):
            judge(empty, agreeing(LORA), lora=LORA, base_tensors=BASE_TENSORS, base_config={})
