"""The gate: each rule refuses what it is for, and nothing but Verification ever leaves it."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from support.adapters import BASE_TENSORS, lora_config, lora_tensors

from registry.artifacts.gate import check_config, check_weights, read_header
from registry.errors import Verification
from sdk.schemas.training import LoraConfig

PREFIX = "base_model.model.model.layers.0.self_attn"
QA, QB = f"{PREFIX}.q_proj.lora_A.weight", f"{PREFIX}.q_proj.lora_B.weight"
VA, VB = f"{PREFIX}.v_proj.lora_A.weight", f"{PREFIX}.v_proj.lora_B.weight"
LORA = LoraConfig(rank=2, alpha=4.0, dropout=0.0, target_modules=["q_proj", "v_proj"])

Tensors = dict[str, np.ndarray]


def check(raw: bytes, lora: LoraConfig = LORA, base: dict[str, list[int]] | None = None) -> None:
    tensors = BASE_TENSORS if base is None else base
    check_weights(io.BytesIO(raw), size_bytes=len(raw), lora=lora, base_tensors=tensors)


def changed(change: Callable[[Tensors], object]) -> bytes:
    tensors = lora_tensors()
    change(tensors)
    return save(tensors)


def packed(header: Any, data: bytes = b"", *, encoding: str = "utf-8") -> bytes:
    """A safetensors file by hand, with whatever header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode(encoding)
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


class TestWeights:
    @pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
    def test_an_adapter_passes_in_each_precision(self, dtype: str) -> None:
        check(save(lora_tensors(dtype=dtype)))

    def test_a_bfloat16_adapter_passes_and_its_nan_is_found(self) -> None:
        def bf16(value: float) -> bytes:
            return struct.pack("<f", value)[2:]

        header = {QA: entry([2, 6], 0, 24, "BF16"), QB: entry([8, 2], 24, 56, "BF16")}
        good = packed(header, bf16(0.5) * 28)
        check(good)
        for bad in (float("nan"), float("inf"), float("-inf")):
            with pytest.raises(Verification, match="NaN or infinity"):
                check(packed(header, bf16(0.5) * 27 + bf16(bad)))
        with pytest.raises(Verification, match="changes nothing"):
            # Minus zero is zero.
            check(packed(header, bf16(0.5) * 12 + bf16(-0.0) * 16))

    @pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("name", [QA, VB])
    def test_one_value_that_is_no_number_is_found(self, dtype: str, value: float, name: str) -> None:
        tensors = lora_tensors(dtype=dtype)
        tensors[name].flat[-1] = value
        with pytest.raises(Verification, match=name.replace(".", r"\.") + ".*NaN or infinity"):
            check(save(tensors))

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

    @pytest.mark.parametrize("name", ["a b", "..", "a/../b", "x\0y", "é", "-x", "", "a" * 600])
    def test_a_name_that_peft_does_not_write_is_refused(self, name: str) -> None:
        with pytest.raises(Verification, match="none that PEFT writes"):
            check(packed({name: entry([1], 0, 4)}, b"\0" * 4))

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


class TestHeader:
    def test_a_file_that_is_cut_or_has_more_is_refused(self) -> None:
        whole = save(lora_tensors())
        check(whole)
        for cut in (0, 1, 7, 8, 20, len(whole) // 2, len(whole) - 1):
            with pytest.raises(Verification):
                check(whole[:cut])
        with pytest.raises(Verification, match="bytes after its last tensor"):
            check(whole + b"\0")

    def test_a_tensor_that_stands_twice_is_refused(self) -> None:
        one = json.dumps(entry([1], 0, 4))
        with pytest.raises(Verification, match="twice"):
            check(packed(f'{{"{QA}": {one}, "{QA}": {one}}}'.encode(), b"\0" * 4))

    @pytest.mark.parametrize(
        "header",
        [
            [],
            "x",
            None,
            {QA: []},
            {QA: entry([2, 6], 0, 48, extra=1)},
            {QA: {"dtype": "F32", "shape": [2, 6]}},
            {QA: entry([2, 6], 0, 48, "I64")},
            {QA: entry([2, 6], 0, 48) | {"dtype": ["F32"]}},
            {QA: entry([2, 6], 0, 48) | {"shape": "26"}},
            {QA: entry([2, 6], 0, 48) | {"data_offsets": [0, 24, 48]}},
            {QA: entry([2, 6], 0, 47)},
            {QA: entry([0, 6], 0, 0)},
            {QA: entry([-2, -6], 0, 48)},
            {QA: entry([2, 6], 4, 52)},
            {QA: entry([True, 12], 0, 48)},
            {QA: entry([], 0, 4)},
            {QA: entry([2**40, 2**40], 0, 48)},
            {QA: entry([2, 6], 0, 48), QB: entry([8, 2], 24, 88)},
            {"__metadata__": {"format": 1}, QA: entry([2, 6], 0, 48)},
            {"__metadata__": "pt", QA: entry([2, 6], 0, 48)},
        ],
        ids=str,
    )
    def test_a_header_that_describes_no_file_is_refused(self, header: Any) -> None:
        with pytest.raises(Verification):
            check(packed(header, b"\0" * 48))

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
    def test_other_encodings_are_refused(self, encoding: str) -> None:
        header = {QA: entry([2, 6], 0, 48), QB: entry([8, 2], 48, 112)}
        ones = np.ones(28, "<f4").tobytes()
        check(packed(header, ones))
        with pytest.raises(Verification, match="no JSON"):
            check(packed(header, ones, encoding=encoding))

    def test_a_header_that_is_too_deep_or_too_long_is_refused(self) -> None:
        with pytest.raises(Verification):
            check(packed(b"[" * 100_000))
        with pytest.raises(Verification, match="longer than the file"):
            check(struct.pack("<Q", 2**63) + b"{}")
        with pytest.raises(Verification):
            check(packed(b'{"x": ' + b"9" * 5000 + b"}"))

    def test_metadata_of_texts_are_allowed(self) -> None:
        check(save(lora_tensors(), metadata={"format": "pt"}))

    @given(st.binary(max_size=400))
    def test_random_bytes_are_refused_and_never_fail_otherwise(self, raw: bytes) -> None:
        with pytest.raises(Verification):
            check(raw)

    @settings(max_examples=300, deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from([QA, QB, "dtype", "shape", "data_offsets", "__metadata__"]) | st.text(max_size=8),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ),
        st.binary(max_size=64),
    )
    @example({QA: {"dtype": {}, "shape": [1], "data_offsets": [0, 4]}}, b"")
    def test_random_headers_never_fail_otherwise(self, header: Any, data: bytes) -> None:
        raw = packed(header, data)
        with pytest.raises(Verification):
            check(raw)

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_a_byte_changed_in_the_header_never_fails_otherwise(self, data: st.DataObject) -> None:
        whole = bytearray(save(lora_tensors()))
        (length,) = struct.unpack("<Q", whole[:8])
        whole[data.draw(st.integers(0, 7 + length))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(Verification):
            check(bytes(whole))

    def test_entries_come_in_the_order_of_their_bytes(self) -> None:
        raw = save(lora_tensors())
        entries, begin = read_header(io.BytesIO(raw), len(raw))
        assert {entry.name for entry in entries} == {QA, QB, VA, VB}
        assert [entry.begin for entry in entries] == sorted(entry.begin for entry in entries)
        assert begin + entries[-1].end == len(raw)


class TestConfig:
    def check(self, lora: LoraConfig = LORA, **config: Any) -> None:
        check_config(io.BytesIO(json.dumps(lora_config(**config)).encode()), lora=lora)

    def test_what_peft_writes_passes(self) -> None:
        self.check()
        self.check(auto_mapping=None, megatron_config=None, megatron_core="", base_model_name_or_path=None)
        self.check(base_model_name_or_path="org/name-1.0", target_modules=["v_proj", "q_proj"], lora_alpha=4.0)

    @pytest.mark.parametrize(
        "key", ["auto_mapping", "auto_map", "megatron_config", "megatron_core", "custom_code", "trust_remote_code"]
    )
    def test_a_key_that_can_run_code_is_refused_at_every_depth(self, key: str) -> None:
        for config in ({key: "x"}, {"tokenizer_kwargs": {key: True}}, {"more": [{"deeper": {key: {"a": "b"}}}]}):
            with pytest.raises(Verification, match=key):
                self.check(**config)

    @pytest.mark.parametrize(
        "base", ["/etc", "../up", "./here", "~/model", "a/../../b", "https://evil/x", "C:\\x", "a\\b", 7, ["x"]]
    )
    def test_a_base_named_by_a_place_is_refused(self, base: Any) -> None:
        with pytest.raises(Verification, match="path or URL"):
            self.check(base_model_name_or_path=base)

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
            self.check(**config)

    @pytest.mark.parametrize("peft_type", ["LOHA", "lora", None, 3])
    def test_another_method_is_refused(self, peft_type: Any) -> None:
        with pytest.raises(Verification, match="no LoRA"):
            self.check(peft_type=peft_type)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"[]",
            b"{",
            b"\xff",
            b"null",
            b'{"r": NaN}',
            b'{"r": 1, "r": 2}',
            b"[" * 100_000,
            b'{"r": ' + b"9" * 5000 + b"}",
        ],
        ids=lambda raw: raw[:12],
    )
    def test_what_is_no_config_is_refused(self, raw: bytes) -> None:
        with pytest.raises(Verification):
            check_config(io.BytesIO(raw), lora=LORA)

    def test_a_config_longer_than_a_config_is_refused(self) -> None:
        with pytest.raises(Verification):
            self.check(padding="x" * 1024 * 1024)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
    def test_random_bytes_never_fail_otherwise(self, raw: bytes) -> None:
        with pytest.raises(Verification):
            check_config(io.BytesIO(raw), lora=LORA)
