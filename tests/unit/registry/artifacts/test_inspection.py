"""The inspection: bytes become facts or are refused, and nothing but Verification ever leaves it."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from support.adapters import lora_config, lora_tensors
from support.fixtures import Limits
from support.traced import traced
from support.weights import LORA, QA, QB, VA, VB, check, config_facts, entry, packed, weight_facts

from registry.artifacts.admission.inspection import ConfigFacts, TensorFacts, WeightFacts, inspect_weights
from registry.errors import Verification
from sdk.formats.safetensors import read_header


def config_with(**config: Any) -> ConfigFacts:
    return config_facts(json.dumps(lora_config(**config)).encode())


class TestFacts:
    def test_each_tensor_is_told_by_name_type_shape_and_whether_it_is_zero(self) -> None:
        raw = packed(
            {QB: entry([3, 2], 8, 20, "F16"), QA: entry([2, 1], 0, 8)}, struct.pack("<2f", 0, -0.0) + b"\1" * 12
        )
        facts = weight_facts(raw)
        assert list(facts.tensors()) == [
            TensorFacts(name=QA, dtype="F32", shape=(2, 1), zero=True),
            # 0x0101 in float16 is 257 · 2⁻²⁴.
            TensorFacts(name=QB, dtype="F16", shape=(3, 2), zero=False, exponent=-15, norm=0.0),
        ]
        assert [tensor.size_bytes for tensor in facts.tensors()] == [8, 12]
        assert list(WeightFacts.of(facts.tensors()).tensors()) == list(facts.tensors())

    def test_a_value_of_any_chunk_counts(self, limits: Limits) -> None:
        limits("registry.artifacts.admission.inspection", _CHUNK_BYTES=8)
        header = {QA: entry([1, 6], 0, 24)}
        assert weight_facts(packed(header, bytes(24))).zero == [0]
        for raw in (bytes(23) + b"\1", b"\1" + bytes(23)):
            assert weight_facts(packed(header, raw)).zero == []
        with pytest.raises(Verification, match="NaN or infinity"):
            weight_facts(packed(header, bytes(20) + struct.pack("<f", np.nan)))

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["F64", "F32", "F16", "BF16"]), st.integers(1, 9), st.sampled_from("0 x nan")),
            max_size=12,
        ),
        st.sampled_from([8, 16, 1024]),
    )
    def test_neighbours_of_all_types_and_sizes_are_told_apart(
        self, tensors: list[tuple[str, int, str]], chunk_bytes: int
    ) -> None:
        items = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
        header, data = {}, b""
        for number, (dtype, count, what) in enumerate(tensors):
            values = np.zeros(count, items[dtype])
            # The largest finite value, and the smallest NaN; minus zero is zero.
            top = {"0": 0, "x": -1, "n": 1, "a": 1}.get(what[0], 0)
            exponent = {"F64": 0x7FF0 << 48, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[dtype]
            sign = 1 << (8 * values.itemsize - 1)
            values.view(f"<u{values.itemsize}")[-1] = sign + (exponent + top if top else 0)
            header[f"t{number}"] = entry([count], len(data), len(data) + values.nbytes, dtype)
            data += values.tobytes()
        wrong = [number for number, (_, _, what) in enumerate(tensors) if what[0] in "na"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("registry.artifacts.admission.inspection._CHUNK_BYTES", chunk_bytes)
            if wrong:
                with pytest.raises(Verification, match=f"'t{wrong[0]}' holds NaN"):
                    weight_facts(packed(header, data))
            else:
                zero = [number for number, (_, _, what) in enumerate(tensors) if what[0] in "0 "]
                assert weight_facts(packed(header, data)).zero == zero

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
                st.lists(st.floats(-65504, 65504, width=16), min_size=1, max_size=5),
                st.integers(-40, 20),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def test_the_largest_magnitude_of_each_tensor_is_told_by_its_exponent(
        self, tensors: list[tuple[str, list[float], int]]
    ) -> None:
        import torch
        from safetensors.torch import save as save_torch

        stored = {
            f"t{number}": (torch.tensor(values, dtype=torch.float64) * 2.0**power).to(getattr(torch, dtype))
            for number, (dtype, values, power) in enumerate(tensors)
        }
        stored = {name: values for name, values in stored.items() if bool(values.isfinite().all())}
        facts = weight_facts(save_torch(stored))
        for tensor in facts.tensors():
            largest = float(stored[tensor.name].double().abs().max())
            assert tensor.zero is (largest == 0)
            assert largest == 0 or 2.0 ** (tensor.exponent - 1) <= largest < 2.0**tensor.exponent

    def test_the_weights_are_read_once_from_end_to_end(self) -> None:
        class Counted(io.BytesIO):
            taken = 0

            def read(self, size: int | None = -1, /) -> bytes:
                part = super().read(size)
                self.taken += len(part)
                return part

        raw = save(lora_tensors())
        file = Counted(raw)
        inspect_weights(file, size_bytes=len(raw), lora=LORA)
        assert file.taken == len(raw)

    def test_a_config_is_told_by_what_decides_what_the_adapter_does(self) -> None:
        assert config_with(
            target_modules=["v_proj", "q_proj"],
            use_dora=True,
            rank_pattern={"q_proj": 4},
            exclude_modules=r".*\.1\..*",
            layers_to_transform=1,
        ) == ConfigFacts(
            rank=2,
            alpha=4,
            target_modules=["q_proj", "v_proj"],
            rank_pattern={"q_proj": 4},
            alpha_pattern={},
            modules_to_save=[],
            exclude_modules=r".*\.1\..*",
            layers_to_transform=[1],
            layers_pattern=[],
            target_parameters=[],
            bias="none",
            use_rslora=False,
            use_dora=True,
            lora_bias=False,
            fan_in_fan_out=False,
            task_type="CAUSAL_LM",
            variants=[],
        )
        assert config_with(fan_in_fan_out=True).fan_in_fan_out

    def test_facts_of_another_kind_or_version_are_none(self) -> None:
        weights, config = weight_facts(save(lora_tensors())).to_json(), config_with().to_json()
        assert (weights["kind"], weights["version"]) == ("weights", 4)
        assert (config["kind"], config["version"]) == ("config", 5)
        wrong = (
            {"version": 1},
            {"more": 1},
            {"names": "a\n"},
            {"kind_of": [9] * 4},
            {"kind_of": [-1] * 4},
            {"zero": "0"},
            {"exponents": [0]},
            {"exponents": [0.5] * 4},
            {"norms": [None]},
            {"norms": ["1"] * 4},
            {"stacked": [[1]]},
        )
        for other in (None, {}, config, *(weights | change for change in wrong)):
            assert WeightFacts.from_json(other) is None
        for other in (None, {}, weights, config | {"version": 1}, config | {"rank": "2"}):
            assert ConfigFacts.from_json(other) is None


class TestValues:
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
        with pytest.raises(Verification, match="not one that PEFT writes"):
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
        with pytest.raises(Verification, match="not a JSON object"):
            check(packed(header, ones, encoding=encoding))

    def test_a_header_that_is_too_deep_or_too_long_is_refused(self) -> None:
        with pytest.raises(Verification):
            check(packed(b"[" * 100_000))
        with pytest.raises(Verification, match="longer than the file"):
            check(struct.pack("<Q", 2**63) + b"{}")
        with pytest.raises(Verification):
            check(packed(b'{"x": ' + b"9" * 5000 + b"}"))

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
        header = read_header(io.BytesIO(raw), len(raw))
        names = header.names().decode().splitlines()
        assert set(names) == {QA, QB, VA, VB}
        assert [header.name(index) for index in range(4)] == names
        assert header.begin.tolist() == sorted(header.begin.tolist())
        assert header.data_begin + header.end(3) == len(raw)


class TestConfig:
    @pytest.mark.parametrize(
        "key", ["auto_mapping", "auto_map", "megatron_config", "megatron_core", "custom_code", "trust_remote_code"]
    )
    def test_a_key_that_can_run_code_is_refused_at_every_depth(self, key: str) -> None:
        for config in ({key: "x"}, {key: {"a": "b"}}, {"eva_config": {key: True}}, {"corda_config": {key: "x"}}):
            with pytest.raises(Verification, match=f"{key}.*can run code"):
                config_with(**config)
        # Empty it does nothing; PEFT writes null.
        for nothing in (None, False, "", {}):
            config_with(**{key: nothing})

    @pytest.mark.parametrize("value", [None, False, 0, "", "x", {}, {"trust_remote_code": True}, [{"deeper": 1}]])
    def test_a_key_that_is_no_setting_is_refused_whatever_it_says(self, value: Any) -> None:
        for config, said in (
            ({"tokenizer_kwargs": value}, "'tokenizer_kwargs'"),
            ({"eva_config": {"x": value}}, r"'eva_config\.x'"),
        ):
            with pytest.raises(Verification, match=f"{said}, which is not a known LoRA setting"):
                config_with(**config)

    @pytest.mark.parametrize(
        ("config", "key"),
        [
            ({"corda_config": {"cache_file": "/home/me/corda.pt"}}, "corda_config.cache_file"),
            ({"corda_config": {"covariance_file": "c.pt"}}, "corda_config.covariance_file"),
            ({"arrow_config": {"task_adapter_names": ["./router"]}}, "arrow_config.task_adapter_names"),
            ({"arrow_config": {"gks_adapter_names": ["https://evil/x"]}}, "arrow_config.gks_adapter_names"),
            ({"revision": "../up"}, "revision"),
            ({"revision": "/etc/passwd"}, "revision"),
            ({"task_type": "file:///etc"}, "task_type"),
            ({"init_lora_weights": "/tmp/x"}, "init_lora_weights"),
            ({"target_modules": ["/etc"]}, "target_modules"),
            ({"target_modules": "C:\\models\\x"}, "target_modules"),
            ({"modules_to_save": ["a/b"]}, "modules_to_save"),
            ({"rank_pattern": {"https://evil": 4}}, "rank_pattern"),
            ({"exclude_modules": "~/x"}, "exclude_modules"),
        ],
    )
    def test_a_path_or_url_is_refused_wherever_it_is(self, config: dict[str, Any], key: str) -> None:
        with pytest.raises(Verification, match=f"'{key}'"):
            config_with(**config)

    @pytest.mark.parametrize(
        "config",
        [
            {"exclude_modules": "(a+)+b"},
            {"exclude_modules": ".*" * 40 + "b"},
            {"target_modules": "(a|a)*b"},
            {"alpha_pattern": {"q_proj": 4, "(.*a)*b": 4}},
            {"rank_pattern": {"(x+x+)+y": 4}},
            {"alpha_pattern": {f".*{number}.*a": 4 for number in range(8000)}},
            {"rank_pattern": {f"layers.{number}.q_proj": 4 for number in range(8000)}},
        ],
    )
    def test_patterns_that_peft_might_try_for_ever_are_refused(self, config: dict[str, Any]) -> None:
        started = time.thread_time()
        with pytest.raises(Verification, match=r"PEFT might try for ever .*adapterctl push --expand-patterns"):
            config_with(**config)
        assert time.thread_time() - started < 3

    def test_lists_of_names_have_a_limit(self) -> None:
        with pytest.raises(Verification, match="at most 4096 module names"):
            config_with(target_modules=[f"a.b{number}" for number in range(4097)])

    @pytest.mark.parametrize(
        "base", ["/etc", "../up", "./here", "~/model", "a/../../b", "https://evil/x", "C:\\x", "a\\b", 7, ["x"]]
    )
    def test_a_base_named_by_a_place_is_refused(self, base: Any) -> None:
        with pytest.raises(Verification, match="path or URL"):
            config_with(base_model_name_or_path=base)

    @pytest.mark.parametrize("peft_type", ["LOHA", "lora", None, 3])
    def test_another_method_is_refused(self, peft_type: Any) -> None:
        with pytest.raises(Verification, match="does not describe a LoRA"):
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

    @pytest.mark.parametrize("text", ["a\0b", "\ud800", "q\udfffz", "a\x1b[2J", "a\u202eb"])
    def test_a_text_that_is_no_name_is_refused(self, text: str) -> None:
        for config in ({"target_modules": ["q_proj", text]}, {"rank_pattern": {text: 4}}, {"alpha_pattern": {text: 4}}):
            with pytest.raises(Verification, match="is not a"):
                config_with(**config)

    @pytest.mark.parametrize("number", ["1e999", "-1e999", "true", '"4"', "[4]", "{}", "1" + "0" * 300])
    @pytest.mark.parametrize("key", ["r", "lora_alpha", "alpha_pattern"])
    def test_a_number_that_is_none_is_refused(self, key: str, number: str) -> None:
        value = f'{{"q_proj": {number}}}' if key == "alpha_pattern" else number
        with pytest.raises(Verification, match=f"'{key}' is not a"):
            config_facts(f'{{"peft_type": "LORA", "{key}": {value}}}'.encode())

    @pytest.mark.parametrize("unit", ["[],", '{"a":{}},', "[[[[]]]],"])
    def test_a_config_that_would_be_large_in_memory_is_refused(self, unit: str) -> None:
        raw = ('{"peft_type": "LORA", "x": [' + unit * (250_000 // len(unit)) + "0]}").encode()
        with traced() as peak_bytes:
            with pytest.raises(Verification, match="longer than 256 KiB, or nested deeper"):
                config_facts(raw)
            assert peak_bytes() < 2 * len(raw) + 1024 * 1024

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
        with contextlib.suppress(Verification):
            config_facts(raw.encode())
