"""Admission: how an adapter lies over its base: which layers it adapts, which way weights lie, how many tokens there are."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from support.adapters import BASE_TENSORS, lora_tensors
from support.weights import LORA, QA, QB, VA, VB, Tensors, changed, check, weight_facts
from transformers import AutoModelForCausalLM, Gemma3nTextConfig

from registry.artifacts.admission.expected_shapes import BaseShapes
from registry.artifacts.admission.heads import judge_head
from registry.errors import Verification

EMBEDDING = "base_model.model.model.embed_tokens"
TURNED = {name: shape[::-1] for name, shape in BASE_TENSORS.items()}


class TestLayers:
    @pytest.mark.parametrize(
        ("settings", "layers", "said"),
        [
            ({}, [0, 1, 2], None),
            ({}, [0, 2], r"no weights for model\.layers\.1\.self_attn\.q_proj, which adapter_config\.json targets too"),
            ({}, [0, 1], r"model\.layers\.2"),
            ({"layers_to_transform": [0, 2]}, [0, 2], None),
            ({"layers_to_transform": [0, 2]}, [0, 1, 2], r"layers\.1\.self_attn\.q_proj is not among the modules"),
            ({"exclude_modules": ["1.self_attn.q_proj"]}, [0, 2], None),
            ({"exclude_modules": r".*layers\.1\..*"}, [0, 2], None),
            ({"exclude_modules": ["2.self_attn.q_proj"]}, [0, 1, 2], "not among the modules"),
        ],
    )
    def test_the_adapter_has_weights_for_all_layers_that_its_config_means_and_no_others(
        self, settings: dict[str, Any], layers: list[int], said: str | None
    ) -> None:
        # The files hold a layer more than the model, as those of models do that predict several tokens.
        base = {f"model.layers.{n}.self_attn.q_proj.weight": [8, 6] for n in range(4)}
        prefix = "base_model.model.model.layers"
        tensors = {f"{prefix}.{n}.self_attn.q_proj.lora_A.weight": np.ones((2, 6), "float32") for n in layers}
        tensors |= {f"{prefix}.{n}.self_attn.q_proj.lora_B.weight": np.ones((8, 2), "float32") for n in layers}
        lora = LORA.model_copy(update={"target_modules": ["q_proj"]})
        with nullcontext() if said is None else pytest.raises(Verification, match=said):
            check(save(tensors), lora, base, {"num_hidden_layers": 3}, **settings)

    VISION = "vision_tower.vision_model.encoder.layers"

    @pytest.mark.parametrize("text", ["language_model.model.layers", "model.language_model.layers"])
    @pytest.mark.parametrize("vision", [[], [0, 1]])
    @pytest.mark.parametrize(
        ("layers", "said"),
        [
            ([0, 1, 2], None),
            ([0, 2], r"no weights for model\.language_model\.layers\.1\.self_attn"),
            ([0, 1], r"no weights for model\.language_model\.layers\.2\.self_attn"),
        ],
    )
    def test_lists_of_two_parts_are_each_looked_at_whatever_the_files_call_them(
        self, text: str, vision: list[int], layers: list[int], said: str | None
    ) -> None:
        # The text's part has a layer more in its files than in its model, and one more there than the vision's.
        base = {f"{text}.{n}.self_attn.q_proj.weight": [8, 6] for n in range(4)}
        base |= {f"{self.VISION}.{n}.self_attn.q_proj.weight": [8, 6] for n in range(2)}
        named = {"model.language_model.layers": layers, "model.vision_tower.encoder.layers": vision}
        sizes = {"lora_A": (2, 6), "lora_B": (8, 2)}
        tensors = {
            f"base_model.model.{part}.{n}.self_attn.q_proj.{half}.weight": np.ones(size, "f4")
            for part, numbers in named.items()
            for n in numbers
            for half, size in sizes.items()
        }
        targets = [f"{part}.{n}.self_attn.q_proj" for part, numbers in named.items() if numbers for n in range(3)]
        lora = LORA.model_copy(update={"target_modules": targets})
        with nullcontext() if said is None else pytest.raises(Verification, match=said):
            check(save(tensors), lora, base, {"text_config": {"num_hidden_layers": 3}})

    @pytest.mark.parametrize("part", [None, "text_config"])
    def test_layers_that_take_keys_and_values_from_others_have_no_projections_of_their_own(
        self, part: str | None
    ) -> None:
        settings = {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        }
        config = Gemma3nTextConfig(
            vocab_size=32, vocab_size_per_layer_input=32, hidden_size=8, intermediate_size=8, num_attention_heads=1,
            num_key_value_heads=1, head_dim=8, laurel_rank=2, hidden_size_per_layer_input=4, activation_sparsity_pattern=None,
            **settings,
        )  # fmt: skip
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        names = [name for name in names if name.endswith(("q_proj", "k_proj"))]
        assert len(names) == 6
        # The files have them all the same.
        base = {f"model.layers.{n}.self_attn.{name}.weight": [8, 8] for n in range(4) for name in ("q_proj", "k_proj")}

        def judged(adapted: list[str]) -> None:
            sizes = {"lora_A": (2, 8), "lora_B": (8, 2)}
            tensors = {
                f"base_model.model.{name}.{half}.weight": np.ones(size, "f4")
                for name in adapted
                for half, size in sizes.items()
            }
            lora = LORA.model_copy(update={"target_modules": ["q_proj", "k_proj"]})
            check(save(tensors), lora, base, settings if part is None else {part: settings})

        judged(names)
        for lacking in ("model.layers.1.self_attn.k_proj", "model.layers.3.self_attn.q_proj"):
            with pytest.raises(Verification, match=f"no weights for {lacking}"):
                judged([name for name in names if name != lacking])


class TestTransposed:
    """GPT-2 keeps its weights as (in, out): A is (r, in), B is (out, r) all the same. No other does."""

    BASE: ClassVar[dict[str, list[int]]] = {"h.0.attn.c_attn.weight": [6, 8], "wte.weight": [32, 6]}
    GPT2: ClassVar[dict[str, Any]] = {"model_type": "gpt2"}
    LORA = LORA.model_copy(update={"target_modules": ["c_attn"]})

    @staticmethod
    def adapter(into: int = 6, out: int = 8, module: str = "transformer.h.0.attn.c_attn") -> bytes:
        prefix = f"base_model.model.{module}"
        a, b = np.ones((2, into), "float32"), np.ones((out, 2), "float32")
        return save({f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b})

    def test_a_transposed_base_fits_whatever_the_flag(self) -> None:
        for flag in (True, False):
            check(self.adapter(), self.LORA, self.BASE, self.GPT2, fan_in_fan_out=flag)
            # Of a base whose config nobody has said, the name of the module tells.
            check(self.adapter(), self.LORA, self.BASE, fan_in_fan_out=flag)

    @pytest.mark.parametrize("flag", [True, False])
    def test_an_adapter_that_lies_as_the_base_does_is_refused(self, flag: bool) -> None:
        # B·A of (in, out): whoever made it took the base's weight for (out, in).
        with pytest.raises(
            Verification, match=r"c_attn: B·A is 6×8, which is transposed: the base's weight .* 8 outputs and 6 in"
        ):
            check(self.adapter(8, 6), self.LORA, self.BASE, self.GPT2, fan_in_fan_out=flag)

    @pytest.mark.parametrize("flag", [True, False])
    @pytest.mark.parametrize("config", [None, {"model_type": "llama"}, {"model_type": "gpt2"}])
    def test_a_linear_layer_is_never_transposed(self, config: dict[str, Any] | None, flag: bool) -> None:
        with pytest.raises(Verification, match=r"q_proj: B·A is 8×6, which is transposed: the base's weight"):
            check(save(lora_tensors()), base=TURNED, base_config=config, fan_in_fan_out=flag)
        with pytest.raises(Verification, match="c_attn: B·A is 8×6, which is transposed"):
            check(self.adapter(), self.LORA, self.BASE, {"model_type": "gpt_bigcode"}, fan_in_fan_out=flag)

    def test_the_flag_over_a_base_that_lies_straight_is_refused(self) -> None:
        with pytest.raises(Verification, match=r"keeps model\.layers\.0\.self_attn\.q_proj as \(out, in\)"):
            check(save(lora_tensors()), fan_in_fan_out=True)

    def test_another_shape_belongs_to_another_base_whatever_the_flag(self) -> None:
        with pytest.raises(Verification, match="belongs to another base"):
            check(self.adapter(into=7), self.LORA, self.BASE, self.GPT2, fan_in_fan_out=True)

    def test_a_square_weight_fits_either_way(self) -> None:
        for config in (self.GPT2, {"model_type": "gpt_bigcode"}):
            check(self.adapter(8, 8), self.LORA, {"h.0.attn.c_attn.weight": [8, 8]}, config)

    def test_a_convolution_ignores_the_flag(self) -> None:
        def convolve(tensors: Tensors) -> None:
            tensors[QA], tensors[QB] = np.ones((2, 6, 3, 3), "float32"), np.ones((8, 2, 1, 1), "float32")
            del tensors[VA], tensors[VB]

        base = {"model.layers.0.self_attn.q_proj.weight": [8, 6, 3, 3]}
        check(changed(convolve), base=base, fan_in_fan_out=True)

    def test_nothing_is_asked_of_a_base_without_shapes(self) -> None:
        check(save(lora_tensors()), base={}, fan_in_fan_out=True)


class TestVocabulary:
    def test_another_vocabulary_is_taken_where_the_adapter_holds_the_embeddings_of_all_tokens(self) -> None:
        head, rows = "base_model.model.lm_head", np.ones((33, 6), "float32")
        own = BASE_TENSORS | {"lm_head.weight": [32, 6]}
        (warning,) = check(save(lora_tensors() | {f"{EMBEDDING}.weight": rows}))[1:]
        assert warning.startswith("the adapter holds embeddings of 33 tokens")
        # A tied head is a copy of the embeddings; another one has weights of its own.
        assert len(check(save(lora_tensors() | {f"{EMBEDDING}.weight": rows, f"{head}.weight": rows}))) == 2
        assert len(check(save(lora_tensors() | {f"{EMBEDDING}.weight": rows, f"{head}.weight": rows}), base=own)) == 2
        for tensors, base, said in (
            ({f"{EMBEDDING}.weight": rows}, own, "embed_tokens for 33 tokens, but not lm_head"),
            ({f"{head}.weight": rows}, None, "lm_head for 33 tokens, but not the embeddings"),
            (
                {f"{EMBEDDING}.weight": rows, f"{head}.weight": rows[:30]},
                own,
                "embed_tokens for 33 tokens, lm_head for 30 tokens;",
            ),
            ({f"{head}.weight": rows, f"{EMBEDDING}.weight": rows[:32]}, own, "not the embeddings"),
        ):
            with pytest.raises(Verification, match=f"the vocabulary was resized: .*{said}"):
                check(save(lora_tensors() | tensors), base=base)

    def test_the_head_of_a_tied_base_is_its_embeddings(self) -> None:
        lora = LORA.model_copy(update={"target_modules": ["lm_head", "q_proj", "v_proj"]})
        head = "base_model.model.lm_head"
        pair = {f"{head}.lora_A.weight": np.ones((2, 6), "f4"), f"{head}.lora_B.weight": np.ones((32, 2), "f4")}
        check(save(lora_tensors() | pair), lora)
        with pytest.raises(Verification, match="vocabulary was resized: lm_head is of 33 tokens"):
            check(save(lora_tensors() | pair | {f"{head}.lora_B.weight": np.ones((33, 2), "f4")}), lora)
        whole = LORA.model_copy(update={"modules_to_save": ["lm_head"]})
        check(save(lora_tensors() | {f"{head}.weight": np.ones((32, 6), "f4")}), whole)
        with pytest.raises(Verification, match=r"lm_head\.weight' is 32×7"):
            check(save(lora_tensors() | {f"{head}.weight": np.ones((32, 7), "f4")}), whole)

    def test_tokens_are_within_the_vocabulary(self) -> None:
        delta = f"{EMBEDDING}.token_adapter.trainable_tokens_delta"
        for token, said in ((31, None), (32, "the token 32, which is beyond the base's vocabulary")):
            lora = LORA.model_copy(update={"trainable_token_indices": [token]})
            with nullcontext() if said is None else pytest.raises(Verification, match=said):
                check(save(lora_tensors() | {delta: np.ones((1, 6), "f4")}), lora)

    def test_tokens_of_a_head_that_is_adapted_too_can_not_be_merged(self) -> None:
        lora = LORA.model_copy(
            update={"trainable_token_indices": [3], "target_modules": ["lm_head", "q_proj", "v_proj"]}
        )
        head = "base_model.model.lm_head"
        tensors = {
            f"{EMBEDDING}.token_adapter.trainable_tokens_delta": np.ones((1, 6), "f4"),
            f"{head}.lora_A.weight": np.ones((2, 6), "f4"),
            f"{head}.lora_B.weight": np.ones((32, 2), "f4"),
        }
        with pytest.raises(
            Verification, match="lm_head is adapted, and trainable_token_indices trains tokens of the same"
        ):
            check(save(lora_tensors() | tensors), lora)
        check(save(lora_tensors() | tensors), lora, BASE_TENSORS | {"lm_head.weight": [32, 6]})


class TestWhole:
    """What stands whole in the file beside A and B: all of it that the record says is trained."""

    BASE: ClassVar[dict[str, list[int]]] = BASE_TENSORS | {
        "model.layers.0.self_attn.q_proj.bias": [8],
        "model.layers.0.norm.weight": [6],
        "model.layers.0.norm.bias": [6],
        # A table of GPT-2's, which is not a bias, and a layer that the model does not load.
        "model.layers.0.attn.bias": [1, 1, 4, 4],
        "model.layers.1.norm.weight": [6],
        "model.layers.1.norm.bias": [6],
    }

    @pytest.mark.parametrize(
        ("settings", "held", "said"),
        [
            ({"modules_to_save": ["norm"]}, ["norm.weight", "norm.bias"], None),
            ({"modules_to_save": ["norm"]}, ["norm.weight"], r"0\.norm\.bias is trained, by modules_to_save"),
            (
                {"modules_to_save": ["norm"]},
                ["norm.bias", "norm.original_module.weight"],
                r"0\.norm\.weight is trained",
            ),
            ({"modules_to_save": ["lm_head"]}, [], "modules_to_save has lm_head, but the adapter does not have it"),
            ({"bias": "all"}, ["norm.bias", "self_attn.q_proj.base_layer.bias"], None),
            ({"bias": "all"}, ["self_attn.q_proj.bias"], r"0\.norm\.bias is trained, by bias"),
            ({"bias": "lora_only"}, ["self_attn.q_proj.base_layer.bias"], None),
            ({"bias": "lora_only"}, [], r"q_proj\.bias is trained, by bias"),
            ({"trainable_token_indices": [1]}, [], "does not have their rows"),
        ],
    )
    @pytest.mark.parametrize("part", [None, "text_config"])
    def test_all_that_is_trained_is_held(
        self, settings: dict[str, Any], held: list[str], said: str | None, part: str | None
    ) -> None:
        sizes = {"self_attn.q_proj.bias": 8, "self_attn.q_proj.base_layer.bias": 8}
        whole = {f"base_model.model.model.layers.0.{name}": np.ones(sizes.get(name, 6), "f4") for name in held}
        config = {"num_hidden_layers": 1}
        with nullcontext() if said is None else pytest.raises(Verification, match=said):
            check(
                save(lora_tensors() | whole),
                LORA.model_copy(update=settings),
                self.BASE,
                config if part is None else {part: config},
            )


BASE = BaseShapes({"model.decoder.layers.0.self_attn.q_proj.weight": [8, 8]})


def judge(width: int, config: dict[str, int]) -> None:
    stored = save({"base_model.model.score.weight": np.ones((3, width), np.float32)})
    judge_head(weight_facts(stored).tensors(), BASE, config, labels=3)


@pytest.mark.parametrize(
    ("width", "config"),
    [(8, {"hidden_size": 8}), (4, {"hidden_size": 8, "word_embed_proj_dim": 4}), (8, {"n_embd": 8}), (5, {})],
)
def test_a_head_is_as_wide_as_what_it_is_given(width: int, config: dict[str, int]) -> None:
    judge(width, config)


@pytest.mark.parametrize("config", [{"hidden_size": 8}, {"hidden_size": 8, "word_embed_proj_dim": 4}])
def test_another_width_belongs_to_another_base(config: dict[str, int]) -> None:
    with pytest.raises(Verification, match="fits no head over a base that is 8 wide"):
        judge(5, config)
