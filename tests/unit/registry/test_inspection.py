"""The inspection: bytes become facts or are refused, and nothing but Verification ever leaves it."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from support.adapters import lora_config, lora_tensors
from support.weights import QA, QB, VA, VB, check, config_facts, entry, packed, weight_facts

from registry.artifacts.inspection import ConfigFacts, TensorFacts, WeightFacts, inspect_weights, read_header
from registry.errors import Verification


def config_with(**config: Any) -> ConfigFacts:
    return config_facts(json.dumps(lora_config(**config)).encode())


class TestFacts:
    def test_each_tensor_is_told_by_name_type_shape_and_whether_it_is_zero(self) -> None:
        raw = packed(
            {QB: entry([3, 2], 8, 20, "F16"), QA: entry([2, 1], 0, 8)}, struct.pack("<2f", 0, -0.0) + b"\1" * 12
        )
        assert weight_facts(raw) == WeightFacts(
            tensors=[
                TensorFacts(name=QA, dtype="F32", shape=[2, 1], zero=True),
                TensorFacts(name=QB, dtype="F16", shape=[3, 2], zero=False),
            ]
        )

    def test_a_value_of_any_chunk_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("registry.artifacts.inspection._CHUNK_BYTES", 8)
        header = {QA: entry([1, 6], 0, 24)}
        assert [tensor.zero for tensor in weight_facts(packed(header, bytes(24))).tensors] == [True]
        for raw in (bytes(23) + b"\1", b"\1" + bytes(23)):
            assert [tensor.zero for tensor in weight_facts(packed(header, raw)).tensors] == [False]
        with pytest.raises(Verification, match="NaN or infinity"):
            weight_facts(packed(header, bytes(20) + struct.pack("<f", np.nan)))

    def test_the_weights_are_read_once_from_end_to_end(self) -> None:
        class Counted(io.BytesIO):
            taken = 0

            def read(self, size: int | None = -1, /) -> bytes:
                part = super().read(size)
                self.taken += len(part)
                return part

        raw = save(lora_tensors())
        file = Counted(raw)
        inspect_weights(file, size_bytes=len(raw))
        assert file.taken == len(raw)

    def test_a_config_is_told_by_what_decides_what_the_adapter_does(self) -> None:
        assert config_with(
            target_modules=["v_proj", "q_proj"], use_dora=True, rank_pattern={"q_proj": 4}
        ) == ConfigFacts(
            rank=2,
            alpha=4,
            target_modules=["q_proj", "v_proj"],
            rank_pattern={"q_proj": 4},
            alpha_pattern={},
            use_rslora=False,
            use_dora=True,
            fan_in_fan_out=False,
        )
        assert config_with(fan_in_fan_out=True).fan_in_fan_out

    def test_facts_of_another_kind_or_version_are_none(self) -> None:
        weights, config = weight_facts(save(lora_tensors())).to_json(), config_with().to_json()
        assert (weights["kind"], weights["version"]) == ("weights", 1)
        assert (config["kind"], config["version"]) == ("config", 1)
        for other in (None, {}, config, weights | {"version": 2}, weights | {"more": 1}, weights | {"tensors": [7]}):
            assert WeightFacts.from_json(other) is None
        for other in (None, {}, weights, config | {"version": 2}, config | {"rank": "2"}):
            assert ConfigFacts.from_json(other) is None


class TestValues:
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
                weight_facts(packed(header, bf16(0.5) * 27 + bf16(bad)))
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
            weight_facts(save(tensors))


class TestHeader:
    @pytest.mark.parametrize("name", ["a b", "..", "a/../b", "x\0y", "é", "-x", "", "a" * 600])
    def test_a_name_that_peft_does_not_write_is_refused(self, name: str) -> None:
        with pytest.raises(Verification, match="none that PEFT writes"):
            weight_facts(packed({name: entry([1], 0, 4)}, b"\0" * 4))

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
    @pytest.mark.parametrize(
        "key", ["auto_mapping", "auto_map", "megatron_config", "megatron_core", "custom_code", "trust_remote_code"]
    )
    def test_a_key_that_can_run_code_is_refused_at_every_depth(self, key: str) -> None:
        for config in ({key: "x"}, {"tokenizer_kwargs": {key: True}}, {"more": [{"deeper": {key: {"a": "b"}}}]}):
            with pytest.raises(Verification, match=key):
                config_with(**config)

    @pytest.mark.parametrize(
        "base", ["/etc", "../up", "./here", "~/model", "a/../../b", "https://evil/x", "C:\\x", "a\\b", 7, ["x"]]
    )
    def test_a_base_named_by_a_place_is_refused(self, base: Any) -> None:
        with pytest.raises(Verification, match="path or URL"):
            config_with(base_model_name_or_path=base)

    @pytest.mark.parametrize("peft_type", ["LOHA", "lora", None, 3])
    def test_another_method_is_refused(self, peft_type: Any) -> None:
        with pytest.raises(Verification, match="no LoRA"):
            config_with(peft_type=peft_type)

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
            config_facts(raw)

    def test_a_config_longer_than_a_config_is_refused(self) -> None:
        with pytest.raises(Verification):
            config_with(padding="x" * 1024 * 1024)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
    def test_random_bytes_never_fail_otherwise(self, raw: bytes) -> None:
        with pytest.raises(Verification):
            config_facts(raw)

    @pytest.mark.parametrize("text", ["a\0b", "\ud800", "q\udfffz"])
    def test_a_text_that_no_database_keeps_is_a_value_that_no_version_has(self, text: str) -> None:
        facts = config_with(target_modules=["q_proj", text], rank_pattern={text: 4}, alpha_pattern={text: 4})
        assert (facts.target_modules, facts.rank_pattern, facts.alpha_pattern) == (None, None, None)

    @pytest.mark.parametrize("number", ["1e999", "-1e999", "true", '"4"', "[4]", "{}"])
    def test_a_number_that_is_none_is_a_value_that_no_version_has(self, number: str) -> None:
        raw = f'{{"peft_type": "LORA", "r": {number}, "lora_alpha": {number}, "alpha_pattern": {{"q_proj": {number}}}}}'
        facts = config_facts(raw.encode())
        assert (facts.rank, facts.alpha, facts.alpha_pattern) == (None, None, None)

    @settings(max_examples=300, deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(["r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "fan_in_fan_out"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
                lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
                max_leaves=8,
            ),
        )
    )
    @example({"r": 10**4000, "lora_alpha": 10**4000})
    def test_a_lora_with_random_values_has_facts_that_can_be_kept(self, values: dict[str, Any]) -> None:
        # The library writes Infinity, which is refused; a writer who means harm writes 1e999.
        raw = json.dumps({"peft_type": "LORA", **values}).replace("Infinity", "1e999")
        config_facts(raw.encode())
