"""Norms of ΔW by hand: of plain, stacked and embedded modules, where products cancel, and at the ends of each type."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.loras import Q, lora, normal, pair

from sdk.errors import NotFound, VerificationFailed
from sdk.lora.delta_norms import DeltaNorms, NormDifference, delta_norms, differing
from sdk.lora.low_rank import product_norm, triangle, triangular_norm
from sdk.lora.tensors import Columns


def norms_of(folder: Path, tensors: dict[str, np.ndarray], **changed: Any) -> DeltaNorms:
    """Of weights whose record says the rank 2 and the scale 1.5, unless that is changed."""
    save_file(tensors, folder / "adapter_model.safetensors")
    return delta_norms(folder, lora(**{"rank": 2, "alpha": 3.0, **changed}))


class TestByHand:
    # ΔW = 1.5·[[1, 0], [0, 2]]·[[3, 4, 0], [0, 0, 1]] = [[4.5, 6, 0], [0, 0, 3]]
    A, B = np.array([[3.0, 4, 0], [0, 0, 1]]), np.array([[1.0, 0], [0, 2]])
    NORM = math.sqrt(4.5**2 + 6**2 + 3**2)

    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
    def test_a_plain_module(self, tmp_path: Path, dtype: str) -> None:
        found = norms_of(tmp_path, pair(Q, self.A.astype(dtype), self.B.astype(dtype)))
        one = found.modules[Q]
        assert (one.norm, one.rank, one.scale, one.experts) == (pytest.approx(self.NORM, rel=1e-12), 2, 1.5, ())
        assert found.norms() == {Q: one.norm}
        assert (found.unmeasured, found.replaced, found.biased) == ({}, [], [])

    def test_the_scale_is_that_of_the_module(self, tmp_path: Path) -> None:
        tensors = pair(Q, self.A, self.B)
        for changed, scale in (
            ({"use_rslora": True}, 3 / math.sqrt(2)),
            ({"alpha_pattern": {"q_proj": 8.0}}, 4.0),
            ({"rank": 8, "rank_pattern": {"layers.0.self_attn.q_proj": 2}}, 1.5),
            ({"alpha": -3.0}, 1.5),
            ({"alpha": 0.0}, 0.0),
        ):
            found = norms_of(tmp_path, tensors, **changed)
            assert found.modules[Q].norm == pytest.approx(scale * self.NORM / 1.5, rel=1e-12), changed

    def test_an_embedding_has_its_own_halves(self, tmp_path: Path) -> None:
        prefix = "base_model.model.model.embed_tokens"
        found = norms_of(tmp_path, {f"{prefix}.lora_embedding_A": self.A, f"{prefix}.lora_embedding_B": self.B})
        assert found.modules["model.embed_tokens"].norm == pytest.approx(self.NORM, rel=1e-12)

    def test_stacked_experts_have_a_norm_each(self, tmp_path: Path) -> None:
        a, b = normal(1, 3 * 2, 5), normal(2, 7, 2 * 3)
        found = norms_of(tmp_path, pair("mlp.experts", a, b), target_parameters=["mlp.experts.down_proj"])
        each = [1.5 * np.linalg.norm(b[:, [e, 3 + e]] @ a[2 * e : 2 * e + 2]) for e in range(3)]
        one = found.modules["mlp.experts"]
        assert one.experts == pytest.approx(each, rel=1e-12)
        assert (one.norm, one.rank) == (pytest.approx(math.hypot(*each), rel=1e-12), 2)
        # Without the record's word for it, these are a plain module of rank 6, and another ΔW.
        assert norms_of(tmp_path, pair("mlp.experts", a, b)).modules["mlp.experts"].norm != pytest.approx(one.norm)

    def test_what_stands_beside_it_is_named_and_not_measured(self, tmp_path: Path) -> None:
        beside = {
            f"base_model.model.{Q}.lora_B.bias": np.ones(2),
            f"base_model.model.{Q}.lora_magnitude_vector": np.full(2, 1e9),
            "base_model.model.lm_head.modules_to_save.weight": np.full((2, 2), 1e9),
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": np.full((1, 2), 1e9),
        }
        found = norms_of(tmp_path, pair(Q, self.A, self.B) | beside)
        assert found.modules[Q].norm == pytest.approx(self.NORM, rel=1e-12)
        assert found.biased == [Q]
        assert found.replaced == ["lm_head.weight", "model.embed_tokens.token_adapter.trainable_tokens_delta"]

    def test_what_cant_be_told_is_no_zero(self, tmp_path: Path) -> None:
        grouped = pair("conv", normal(1, 2, 3, 1, 1), normal(2, 4, 1, 1, 1))
        found = norms_of(tmp_path, grouped | pair(Q, self.A, self.B))
        assert (found.norms()["conv"], list(found.modules)) == (None, [Q])
        assert "which have no product" in found.unmeasured["conv"]
        variant = norms_of(tmp_path, pair(Q, self.A, self.B), other={"use_qalora": True})
        assert (variant.norms(), variant.unmeasured[Q]) == (
            {Q: None},
            "with use_qalora the layer adds something else than s·B·A",
        )
        wide = norms_of(tmp_path, pair(Q, normal(1, 2049, 2), normal(2, 2, 2049)), rank=2049)
        assert wide.norms() == {Q: None}


class TestNumbers:
    def test_zero_is_zero_whichever_half_it_is_of(self, tmp_path: Path) -> None:
        a, b = normal(1, 2, 9), normal(2, 5, 2)
        for tensors in (pair(Q, a, b * 0), pair(Q, a * 0, b), pair(Q, a, b * -0.0)):
            found = norms_of(tmp_path, tensors | pair("k_proj", a, b)).norms()
            assert found[Q] == 0.0
            assert found["k_proj"] == pytest.approx(1.5 * np.linalg.norm(b @ a), rel=1e-12)

    def test_b_and_a_that_meet_nowhere_are_zero(self, tmp_path: Path) -> None:
        a, b = normal(1, 2, 9), normal(2, 5, 2)
        a[0], b[:, 1] = 0, 0
        assert norms_of(tmp_path, pair(Q, a, b)).norms() == {Q: 0.0}

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_products_that_cancel_are_zero(self, tmp_path: Path, dtype: str) -> None:
        # As an adapter that was converted from PiSSA and learnt nothing.
        a, b = normal(1, 4, 300).astype(dtype), normal(2, 200, 4).astype(dtype)
        assert norms_of(tmp_path, pair(Q, np.vstack([a, a]), np.hstack([b, -b])), rank=8).norms() == {Q: 0.0}

    @pytest.mark.parametrize("change", [1e-2, 1e-4, 1e-6])
    def test_what_is_left_where_products_nearly_cancel_keeps_its_digits(self, tmp_path: Path, change: float) -> None:
        # B·A − B₀·A₀, where training moved both by a little.
        a0, b0 = normal(1, 4, 300), 20 * normal(2, 200, 4)
        a, b = a0 + change * normal(3, 4, 300), b0 + change * normal(4, 200, 4)
        tensors = pair(Q, np.vstack([a, a0]), np.hstack([b, -b0]))
        # (B − B₀)·A + B₀·(A − A₀), in which nothing cancels.
        truth = np.linalg.norm((b - b0) @ a + b0 @ (a - a0)) * 3 / 8
        assert norms_of(tmp_path, tensors, rank=8).modules[Q].norm == pytest.approx(truth, rel=1e-8)

    @pytest.mark.parametrize(("dtype", "size"), [("float32", 1e-42), ("float16", 6e-8), ("float64", 1e-310)])
    def test_subnormal_numbers_count(self, tmp_path: Path, dtype: str, size: float) -> None:
        value = float(np.dtype(dtype).type(size))
        assert value != 0
        a, b = np.full((2, 3), 4, dtype), np.full((5, 2), size, dtype)
        # Each number of B·A is 2·4·size, of 15.
        assert norms_of(tmp_path, pair(Q, a, b)).modules[Q].norm == pytest.approx(
            1.5 * 8 * value * math.sqrt(15), rel=1e-9
        )

    def test_numbers_at_the_ends_of_float64_balance(self, tmp_path: Path) -> None:
        a, b = np.full((2, 3), 1e200), np.full((5, 2), 1e-200)
        assert norms_of(tmp_path, pair(Q, a, b)).modules[Q].norm == pytest.approx(1.5 * 2 * math.sqrt(15), rel=1e-9)
        swapped = norms_of(tmp_path, pair(Q, np.full((2, 3), 1e-200), np.full((5, 2), 1e190)))
        assert swapped.modules[Q].norm == pytest.approx(3e-10 * math.sqrt(15), rel=1e-9)

    def test_float16_overflows_nowhere(self, tmp_path: Path) -> None:
        a, b = np.full((2, 1000), 60000, "float16"), np.full((1000, 2), 60000, "float16")
        truth = 1.5 * 2 * float(np.float16(60000)) ** 2 * 1000
        assert norms_of(tmp_path, pair(Q, a, b)).modules[Q].norm == pytest.approx(truth, rel=1e-12)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_what_is_no_number_is_refused_by_module(self, tmp_path: Path, value: float, dtype: str) -> None:
        for spoiled in range(2):
            halves = [normal(1, 2, 9).astype(dtype), normal(2, 5, 2).astype(dtype)]
            halves[spoiled].flat[3] = value
            with pytest.raises(VerificationFailed, match=Q.replace(".", r"\.") + ".*NaN, infinity"):
                norms_of(tmp_path, pair(Q, *halves))
        with pytest.raises(VerificationFailed, match="too large"):
            norms_of(tmp_path, pair(Q, np.full((2, 3), 1e200), np.full((5, 2), 1e200)))

    @pytest.mark.parametrize("size", [1e-95, 1e-80, 1e80, 1e95])
    def test_squares_whose_products_leave_the_range(self, tmp_path: Path, size: float) -> None:
        a, b = normal(1, 3, 7).astype(float), normal(2, 5, 3).astype(float)
        (found,) = norms_of(tmp_path, pair(Q, size * a, size * b)).modules.values()
        assert found.norm / size / size == pytest.approx(found.scale * np.linalg.norm(b @ a), rel=1e-9)

    def test_a_triangle_takes_the_place_of_its_columns(self) -> None:
        for size in (1.0, 1e-250, 1e250):
            out, into = Columns(size * normal(1, 500, 6), "F64"), Columns(normal(2, 90, 6), "F64")
            truth = np.linalg.norm(out.raw / size @ into.raw.T)
            for one, other in ((triangle(out), into), (out, triangle(into)), (triangle(out), triangle(into))):
                assert one.raw.shape[0] <= 500
                assert triangular_norm(one, other) / size == pytest.approx(truth, rel=1e-12)
            assert (product_norm(out, into) is None) == (size != 1.0)


class TestWhatIsRefused:
    def test_a_folder_without_weights(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="pull the version again"):
            delta_norms(tmp_path, lora())

    def test_names_that_are_none_of_an_adapters(self, tmp_path: Path) -> None:
        for prefix in ("model.base_model.", "", "base_model.model.base_model.model."):
            tensors = {f"{prefix}{Q}.lora_A.weight": normal(1, 2, 3), f"{prefix}{Q}.lora_B.weight": normal(2, 4, 2)}
            if prefix.startswith("base_model"):
                # They are a module of that name, which no base has.
                assert list(norms_of(tmp_path, tensors).modules) == [f"base_model.model.{Q}"]
            else:
                with pytest.raises(VerificationFailed, match="is not a tensor of an adapter"):
                    norms_of(tmp_path, tensors)
        with pytest.raises(VerificationFailed, match="no LoRA weights"):
            norms_of(tmp_path, {"base_model.model.lm_head.weight": normal(1, 2, 3)})

    def test_half_a_module(self, tmp_path: Path) -> None:
        with pytest.raises(VerificationFailed, match="only one of A and B"):
            norms_of(tmp_path, {f"base_model.model.{Q}.lora_A.weight": normal(1, 2, 3)})


def test_what_differs_is_named_and_what_cant_be_told_is_not() -> None:
    stored = {"a": 1.0, "b": 0.0, "c": None, "d": 2.0, "e": 5.0}
    found = {"a": 1.0 + 2e-6, "b": 1e-30, "c": 4.0, "d": 2.0 + 1e-7, "f": 0.0}
    assert differing(stored, found) == [
        NormDifference("a", 1.0, 1.0 + 2e-6),
        NormDifference("b", 0.0, 1e-30),
        NormDifference("e", 5.0, None),
        NormDifference("f", None, 0.0),
    ]
    assert differing({"a": 1.0}, {"a": math.nan})[0].module == "a"
    assert differing({"a": 1.0}, {"a": None}) == []
