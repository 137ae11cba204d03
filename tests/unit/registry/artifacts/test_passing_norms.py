"""Norms that admission takes of a file as it passes: those that a consumer takes of it, in any order, within bounds."""

from __future__ import annotations

import json
import math
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from support.fixtures import Limits
from support.traced import traced
from support.weights import LORA, PREFIX, QB, VB, Tensors, changed, check, weight_facts

from registry.artifacts.admission import filed_halves, norms
from registry.artifacts.admission.inspection import WeightFacts, inspect_weights
from registry.errors import Verification
from registry.http.routes import PUSH_BYTES
from sdk.formats.adapter_files import WEIGHTS_FILE, lora_key
from sdk.lora.delta_norms import delta_norms
from sdk.schemas.lora_config import LoraConfig


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def pairs(count: int, rank: int, side: int) -> Tensors:
    found = {}
    for number in range(count):
        prefix = f"base_model.model.layers.{number}.q_proj"
        found[f"{prefix}.lora_A.weight"] = normal(number, rank, side)
        found[f"{prefix}.lora_B.weight"] = normal(number + 1000, side, rank)
    return found


def in_order(tensors: Tensors, names: list[str]) -> bytes:
    """Return a file with the tensors' bytes in the order of the names."""
    header, data = {}, b""
    for name in names:
        raw = tensors[name].tobytes()
        kind = {"float32": "F32", "float16": "F16"}[tensors[name].dtype.name]
        header[name] = {"dtype": kind, "shape": tensors[name].shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def passing(raw: bytes, lora: LoraConfig = LORA) -> dict[str, float | None]:
    """‖B·A‖ by module, as admission finds it."""
    keys = ((lora_key(tensor.name), tensor) for tensor in weight_facts(raw, lora).tensors())
    return {key.module: tensor.norm for key, tensor in keys if key is not None and key.part.endswith("B")}


def read(raw: bytes, folder: Path, lora: LoraConfig = LORA) -> dict[str, float]:
    (folder / WEIGHTS_FILE).write_bytes(raw)
    return {one.module: one.norm / abs(one.scale) for one in delta_norms(folder, lora).modules.values()}


@pytest.mark.parametrize("chunk_bytes", [8, 1024, 1024 * 1024])
def test_they_are_those_of_the_whole_file_in_any_order(tmp_path: Path, limits: Limits, chunk_bytes: int) -> None:
    limits("registry.artifacts.admission.inspection", _CHUNK_BYTES=chunk_bytes)
    tensors = pairs(3, 2, 40)
    tensors["base_model.model.layers.1.q_proj.lora_A.weight"] = normal(9, 2, 40).astype("float16")
    names = sorted(tensors)
    truth = read(in_order(tensors, names), tmp_path)
    assert len(truth) == 3
    backwards, halves = names[::-1], sorted(names, key=lambda name: ("lora_B" in name, name))
    for order in (names, backwards, halves, halves[::-1]):
        assert passing(in_order(tensors, order)) == pytest.approx(truth, rel=1e-12), order


def test_they_are_of_as_many_experts_as_the_record_says(tmp_path: Path) -> None:
    tensors = {
        "base_model.model.mlp.experts.lora_A.weight": normal(1, 6, 9),
        "base_model.model.mlp.experts.lora_B.weight": normal(2, 7, 6),
        **pairs(1, 2, 30),
    }
    stacked = LORA.model_copy(update={"target_parameters": ["mlp.experts.down_proj"]})
    for names in (sorted(tensors), sorted(tensors)[::-1], sorted(tensors, key=lambda name: ("lora_B" in name, name))):
        raw = in_order(tensors, names)
        for lora in (LORA, stacked):
            assert passing(raw, lora) == pytest.approx(read(raw, tmp_path, lora), rel=1e-12)
        assert passing(raw, LORA) != pytest.approx(passing(raw, stacked))
        # What was found under one record is no answer for the other.
        for one, other in ((LORA, stacked), (stacked, LORA)):
            own = weight_facts(raw, one)
            assert own.under(one) == own
            assert own.under(other) is None
            # Both are kept, whoever came first.
            both = WeightFacts.from_json(weight_facts(raw, other).beside(own.to_json()))
            assert (both.under(one), both.under(other)) == (
                own.model_copy(update={"others": both.others}),
                weight_facts(raw, other),
            )
            assert weight_facts(raw, one).beside(both.to_json()) == both.to_json()


def test_norms_that_nobody_can_tell_under_one_record_are_no_answer_for_another() -> None:
    raw = save(
        {
            f"base_model.model.experts.lora_{half}.weight": normal(1, *shape)
            for half, shape in (("A", (6, 4)), ("B", (4, 6)))
        }
    )
    odd = LORA.model_copy(update={"rank": 4, "target_parameters": ["experts.up"]})
    facts = weight_facts(raw, odd)
    assert list(passing(raw, odd).values()) == [None]
    assert facts.under(odd) == facts
    assert facts.under(LORA) is None


def test_the_first_few_layouts_are_kept() -> None:
    raw = save(
        {
            f"base_model.model.experts.lora_{half}.weight": normal(1, *shape)
            for half, shape in (("A", (24, 4)), ("B", (4, 24)))
        }
    )
    records = [
        LORA.model_copy(update={"rank": rank, "target_parameters": ["experts.up"]}) for rank in (1, 2, 3, 4, 6, 8)
    ]
    kept = None
    for record in records:
        kept = weight_facts(raw, record).beside(kept)
    facts = WeightFacts.from_json(kept)
    assert facts is not None
    assert [facts.under(record) is not None for record in records] == [True] * 4 + [False] * 2


def test_a_conversion_that_learnt_nothing_changes_nothing() -> None:
    def cancelled(tensors: Tensors) -> None:
        for module in ("q_proj", "v_proj"):
            a, b = (f"{PREFIX}.{module}.lora_{half}.weight" for half in "AB")
            tensors[a][1], tensors[b][:, 1] = tensors[a][0], -tensors[b][:, 0]

    with pytest.raises(Verification, match=r"s·B·A is zero in any of the 2 adapted modules, .* changes nothing"):
        check(changed(cancelled))


@pytest.mark.parametrize(
    ("beside", "record"),
    [
        ({"base_model.model.lm_head.weight": (32, 6)}, {"modules_to_save": ["lm_head"]}),
        (
            {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": (1, 6)},
            {"trainable_token_indices": [3]},
        ),
    ],
)
def test_what_replaces_something_is_let_in_without_any_delta(
    beside: dict[str, tuple[int, ...]], record: dict[str, Any]
) -> None:
    def zero(tensors: Tensors) -> None:
        tensors[QB][:], tensors[VB][:] = 0, 0

    with pytest.raises(Verification, match="changes nothing"):
        check(changed(zero))
    lora = LORA.model_copy(update=record)
    raw = changed(lambda tensors: (zero(tensors), tensors.update({n: normal(1, *s) for n, s in beside.items()})))
    warnings = check(raw, lora, **{key: value for key, value in record.items() if key != "modules_to_save"})
    assert any("s·B·A is zero in" in warning for warning in warnings)


def many(count: int, *, halves: bool) -> bytes:
    """Return a file of tiny modules, pair by pair, or all A before all B."""
    tensors = {}
    for number in range(count):
        tensors[f"base_model.model.layers.{number}.q_proj.lora_A.weight"] = np.ones((2, 3), "float32")
        tensors[f"base_model.model.layers.{number}.q_proj.lora_B.weight"] = np.ones((4, 2), "float32")
    return in_order(tensors, sorted(tensors, key=lambda name: (halves and "lora_B" in name, name)))


class TestBounds:
    def test_a_half_that_is_too_large_has_none(self, limits: Limits) -> None:
        raw = save(pairs(2, 2, 40))
        limits(norms, _MOST_HALF_BYTES=300)
        assert list(passing(raw).values()) == [None, None]

    def test_work_without_end_is_not_done(self, limits: Limits) -> None:
        tensors = pairs(4, 2, 40)
        limits(norms, _WORK_EACH=0, _MOST_WORK=2.5 * 2 * 40 * 2 * 2)
        found = list(passing(save(tensors)).values())
        assert [norm is not None for norm in found] == [True, True, False, False]
        # Halves that wait cost more, and leave nothing for the products.
        assert set(passing(in_order(tensors, sorted(tensors, key=lambda name: "lora_B" in name))).values()) == {None}

    def test_more_experts_than_there_are_have_none(self, tmp_path: Path) -> None:
        lora = LORA.model_copy(update={"rank": 1, "target_parameters": ["experts.up"]})
        module = "base_model.model.mlp.experts"

        def stacked(count: int) -> bytes:
            ones = np.full((count, 1), 0.5, "float16")
            return bytes(save({f"{module}.lora_A.weight": ones, f"{module}.lora_B.weight": ones.T.copy()}))

        raw = stacked(131_072)
        started = time.thread_time()
        with traced() as peak_bytes:
            assert list(passing(raw, lora).values()) == [None]
            assert peak_bytes() < 4 * len(raw)
        assert read(raw, tmp_path, lora) == {}
        assert time.thread_time() - started < 0.5
        assert passing(stacked(4096), lora) == pytest.approx(read(stacked(4096), tmp_path, lora), rel=1e-12)

    def test_each_expert_counts_as_work(self, limits: Limits) -> None:
        lora = LORA.model_copy(update={"rank": 1, "target_parameters": ["experts.up"]})
        limits(norms, _MOST_WORK=5.5 * norms._WORK_EACH)
        tensors = {}
        for layer in range(3):
            for half, shape in (("A", (2, 4)), ("B", (4, 2))):
                tensors[f"base_model.model.layers.{layer}.experts.lora_{half}.weight"] = normal(layer, *shape)
        found = passing(in_order(tensors, sorted(tensors)), lora)
        assert [norm is not None for norm in found.values()] == [True, True, False]

    def test_what_waits_is_bounded(self, limits: Limits) -> None:
        tensors = pairs(4, 2, 40)
        limits(norms, _MOST_WAITING_BYTES=2 * 2 * 2 * 8)
        found = passing(in_order(tensors, sorted(tensors, key=lambda name: "lora_B" in name)))
        # Two that wait, and the one that was read last.
        assert sum(norm is not None for norm in found.values()) == 3

    @pytest.mark.slow
    @pytest.mark.parametrize("halves", [False, True])
    def test_ten_thousand_modules_take_little_time(self, halves: bool) -> None:
        raw = many(10_000, halves=halves)
        started = time.thread_time()
        found = passing(raw)
        assert time.thread_time() - started < 20
        assert set(map(type, found.values())) == {float}
        assert next(iter(found.values())) == pytest.approx(2 * math.sqrt(12))

    def test_modules_take_little_memory(self) -> None:
        raw = many(1_000, halves=True)
        with traced() as peak_bytes:
            passing(raw)
            assert peak_bytes() < 12 * 1024 * 1024

    @pytest.mark.parametrize(
        ("rank", "side", "apart", "cancels"),
        [(64, 1 << 17, False, False), (640, 4096, False, False), (256, 8192, True, True)],
    )
    def test_large_halves_take_little_memory(
        self, tmp_path: Path, rank: int, side: int, apart: bool, cancels: bool
    ) -> None:
        a, b = "base_model.model.layers.0.q_proj.lora_A.weight", "base_model.model.layers.0.q_proj.lora_B.weight"
        tensors = {a: np.ones((rank, side), "float16"), b: np.ones((side, rank), "float16")}
        tensors[a][0], tensors[b][:, 0] = 2, 3
        truth = (6 + rank - 1) * side
        if cancels:
            tensors[b][:, 1 : rank // 2] = -1
            tensors[b][:, rank // 2 : rank - 1] = 1
            tensors[b][:, 0], truth = 1e-3, float(np.float16(1e-3)) * 2 * side
            tensors[b][:, rank - 1] = 0
            assert tensors[b][0, 1:].sum() == 0
        between = "base_model.model.layers.1.q_proj.lora_A.weight"
        raw = in_order({**tensors, between: normal(1, 2, 4)}, [a, between, b] if apart else [a, b])
        path = tmp_path / "weights"
        path.write_bytes(raw)
        size_bytes = len(raw)
        del tensors, raw
        with path.open("rb") as file, traced() as peak_bytes:
            facts = inspect_weights(file, size_bytes=size_bytes, lora=LORA)
            assert peak_bytes() < PUSH_BYTES
        assert facts.norms[-1] == pytest.approx(truth, rel=1e-6)

    def test_large_halves_of_experts_are_those_of_the_whole_file(self, tmp_path: Path, limits: Limits) -> None:
        limits(norms, _MOST_HELD_BYTES=0)
        limits(filed_halves, SORTED_BYTES=100)
        tensors = {
            "base_model.model.mlp.experts.lora_A.weight": normal(1, 6, 9),
            "base_model.model.mlp.experts.lora_B.weight": normal(2, 7, 6),
            **pairs(2, 2, 30),
        }
        stacked = LORA.model_copy(update={"target_parameters": ["mlp.experts.down_proj"]})
        for names in (
            sorted(tensors),
            sorted(tensors)[::-1],
            sorted(tensors, key=lambda name: ("lora_B" in name, name)),
        ):
            raw = in_order(tensors, names)
            for lora in (LORA, stacked):
                assert passing(raw, lora) == pytest.approx(read(raw, tmp_path, lora), rel=1e-12)

    @pytest.mark.parametrize("rank", [2048, 2049])
    def test_a_huge_rank_has_none(self, rank: int) -> None:
        tensors = pairs(1, rank, 4)
        (norm,) = passing(save(tensors)).values()
        a, b = tensors.values()
        assert norm == (
            pytest.approx(np.linalg.norm(b.astype(float) @ a.astype(float)), rel=1e-9) if rank == 2048 else None
        )
