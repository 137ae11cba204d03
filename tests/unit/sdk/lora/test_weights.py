"""ΔW = s·B·A compared by products of (rank, rank): what it says is held against dense matrices."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from support.loras import Q, V, compare, cosine, decode, embedding, lora, normal, pair, write

from sdk.errors import Unavailable
from sdk.schemas.lora_config import LoraConfig


class TestAgainstDenseMatrices:
    # The numbers are the file's own, taken to float64 on both sides: only the order of summing differs.
    @pytest.mark.parametrize("dtype_b", ["F64", "F32", "F16", "BF16"])
    @pytest.mark.parametrize("dtype_a", ["F64", "F32", "F16", "BF16"])
    @pytest.mark.parametrize("pad", [0, 1, 3])
    def test_norms_and_cosines_in_each_precision_and_at_any_offset(
        self, tmp_path: Path, dtype_a: str, dtype_b: str, pad: int
    ) -> None:
        one = {m: (normal(n, 3, 11), normal(n + 10, 7, 3)) for n, m in enumerate((Q, V))}
        # Alike enough for cosines that are not near zero, and of another rank.
        two = {m: (np.vstack([a, normal(5, 2, 11)]), np.hstack([b, normal(6, 7, 2)])) for m, (a, b) in one.items()}
        folder_a = write(
            tmp_path / "a", {k: t for m, f in one.items() for k, t in pair(m, *f).items()}, dtype_a, pad=pad
        )
        folder_b = write(
            tmp_path / "b", {k: t for m, f in two.items() for k, t in pair(m, *f).items()}, dtype_b, pad=pad
        )
        found = compare(folder_a, folder_b, lora(), lora(rank=5, alpha=20.0, use_rslora=True))
        dense_a = {m: 6 / 3 * decode(b, dtype_a) @ decode(a, dtype_a) for m, (a, b) in one.items()}
        dense_b = {m: 20 / math.sqrt(5) * decode(b, dtype_b) @ decode(a, dtype_b) for m, (a, b) in two.items()}
        assert [delta.module for delta in found.modules] == [Q, V]
        for delta in found.modules:
            assert delta.norm_a == pytest.approx(np.linalg.norm(dense_a[delta.module]), rel=1e-12)
            assert delta.norm_b == pytest.approx(np.linalg.norm(dense_b[delta.module]), rel=1e-12)
            assert delta.cosine == pytest.approx(cosine(dense_a[delta.module], dense_b[delta.module]), abs=1e-12)
            assert (delta.rank_a, delta.rank_b) == (3, 5)
            assert abs(delta.cosine or 0) > 0.2
        whole_a, whole_b = (np.concatenate([d[Q].ravel(), d[V].ravel()]) for d in (dense_a, dense_b))
        assert found.norm_a == pytest.approx(np.linalg.norm(whole_a), rel=1e-12)
        assert found.norm_b == pytest.approx(np.linalg.norm(whole_b), rel=1e-12)
        assert found.cosine == pytest.approx(cosine(whole_a, whole_b), abs=1e-12)
        assert found.notes == []

    def test_a_long_side_is_read_in_blocks(self, tmp_path: Path) -> None:
        a, b = normal(1, 3, 2**21 // 3 + 1000), normal(2, 2, 3)
        folder = write(tmp_path / "a", pair(Q, a, b), "F32")
        dense = 2 * decode(b, "F32") @ decode(a, "F32")
        assert compare(folder, folder).norm_a == pytest.approx(np.linalg.norm(dense), rel=1e-12)

    def test_no_dense_matrix_is_formed(self, tmp_path: Path) -> None:
        # As one matrix of float64 this would be 2 TiB.
        a, b = normal(1, 1, 2**19), normal(2, 2**19, 1)
        found = compare(*(write(tmp_path / "a", pair(Q, a, b), "F16"),) * 2, lora(rank=1, alpha=1.0))
        expected = np.linalg.norm(decode(a, "F16")) * np.linalg.norm(decode(b, "F16"))
        assert found.norm_a == pytest.approx(expected, rel=1e-12)

    def test_an_embedding_lies_transposed(self, tmp_path: Path) -> None:
        # Square, so that a forgotten transposition would go unseen by the shapes.
        a, b, a_linear, b_linear = normal(1, 3, 9), normal(2, 9, 3), normal(3, 3, 9), normal(4, 9, 3)
        one = write(tmp_path / "a", embedding("model.embed_tokens", a, b))
        two = write(tmp_path / "b", pair("model.embed_tokens", a_linear, b_linear))
        (delta,) = compare(one, two).modules
        assert delta.norm_a == pytest.approx(np.linalg.norm(2 * (b @ a).T), rel=1e-12)
        assert delta.cosine == pytest.approx(cosine((b @ a).T, b_linear @ a_linear), abs=1e-12)

    def test_a_linear_module_and_an_embedding_of_other_sides(self, tmp_path: Path) -> None:
        one = write(tmp_path / "a", embedding(Q, normal(1, 3, 9), normal(2, 5, 3)))
        two = write(tmp_path / "b", pair(Q, normal(3, 3, 5), normal(4, 9, 3)))
        dense_a, dense_b = (normal(2, 5, 3) @ normal(1, 3, 9)).T, normal(4, 9, 3) @ normal(3, 3, 5)
        assert compare(one, two).modules[0].cosine == pytest.approx(cosine(dense_a, dense_b), abs=1e-12)


class TestWhatItSays:
    def test_an_adapter_and_itself(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "a", {**pair(Q, normal(1, 3, 8), normal(2, 6, 3))}, "BF16")
        found = compare(folder, folder)
        assert [found.cosine, found.modules[0].cosine] == pytest.approx([1.0, 1.0], abs=1e-15)
        assert found.norm_a == found.norm_b > 0

    def test_an_adapter_and_its_opposite(self, tmp_path: Path) -> None:
        a, b = normal(1, 3, 8), normal(2, 6, 3)
        found = compare(write(tmp_path / "a", pair(Q, a, b)), write(tmp_path / "b", pair(Q, a, -b)))
        assert [found.cosine, found.modules[0].cosine] == pytest.approx([-1.0, -1.0], abs=1e-15)

    def test_other_factors_of_the_same_weight(self, tmp_path: Path) -> None:
        a, b, turn = normal(1, 3, 8), normal(2, 6, 3), normal(3, 3, 3)
        one = write(tmp_path / "a", pair(Q, a, b))
        two = write(tmp_path / "b", pair(Q, np.linalg.inv(turn) @ a, b @ turn))
        assert compare(one, two).cosine == pytest.approx(1.0, abs=1e-10)

    def test_a_module_that_only_one_has(self, tmp_path: Path) -> None:
        shared, more = pair(Q, normal(1, 3, 8), normal(2, 6, 3)), pair(V, normal(3, 3, 8), normal(4, 6, 3))
        found = compare(write(tmp_path / "a", shared), write(tmp_path / "b", shared | more))
        q, v = found.modules
        assert (v.module, v.norm_a, v.rank_a, v.cosine, v.rank_b) == (V, None, None, None, 3)
        assert q.cosine == pytest.approx(1.0, abs=1e-15)
        # It counts for the whole all the same: the second adapter does something that the first does not.
        assert found.cosine == pytest.approx(found.norm_a / found.norm_b, rel=1e-12)
        assert found.norm_b == pytest.approx(math.hypot(q.norm_b or 0, v.norm_b or 0), rel=1e-12)

    def test_an_untrained_adapter_has_no_direction(self, tmp_path: Path) -> None:
        zero = write(tmp_path / "a", pair(Q, normal(1, 3, 8), np.zeros((6, 3))))
        found = compare(zero, write(tmp_path / "b", pair(Q, normal(1, 3, 8), normal(2, 6, 3))))
        assert (found.norm_a, found.cosine, found.modules[0].norm_a, found.modules[0].cosine) == (0.0, None, 0.0, None)

    def test_rounding_is_no_direction(self, tmp_path: Path) -> None:
        a, b = normal(1, 3, 50), normal(2, 40, 3)
        cancelled = write(tmp_path / "a", pair(Q, np.vstack([a, a / 3]), np.hstack([b, -b * 3])))
        found = compare(cancelled, write(tmp_path / "b", pair(Q, a, b)), lora(rank=6))
        assert (found.norm_a, found.cosine) == (0.0, None)

    def test_a_factor_of_unlike_columns_is_no_rounding(self, tmp_path: Path) -> None:
        a, b = np.diag([1e-12, 1.0]), np.diag([1e12, 1.0])
        folder = write(tmp_path / "a", pair(Q, a, b))
        assert compare(folder, folder, lora(rank=2, alpha=2.0)).norm_a == pytest.approx(math.sqrt(2), rel=1e-12)

    def test_shapes_that_differ(self, tmp_path: Path) -> None:
        one = write(tmp_path / "a", pair(Q, normal(1, 3, 8), normal(2, 6, 3)))
        two = write(tmp_path / "b", pair(Q, normal(1, 3, 8), normal(2, 7, 3)))
        found = compare(one, two)
        assert found.modules[0].cosine is None
        assert found.modules[0].norm_b == pytest.approx(np.linalg.norm(2 * normal(2, 7, 3) @ normal(1, 3, 8)))
        assert found.cosine == 0.0
        (note,) = found.notes
        assert f"{Q}: ΔW is 6×8 in the first adapter and 7×8 in the second" in note

    def test_what_the_product_leaves_out_is_said(self, tmp_path: Path) -> None:
        plain = pair(Q, normal(1, 3, 8), normal(2, 6, 3))
        magnitude = {f"base_model.model.{Q}.lora_magnitude_vector": normal(3, 6)}
        bias = {f"base_model.model.{Q}.lora_B.bias": normal(3, 6)}
        saved = {"base_model.model.lm_head.weight": normal(3, 4, 4)}
        one = write(tmp_path / "a", plain | magnitude | saved)
        two = write(tmp_path / "b", plain | magnitude | bias)
        found = compare(one, two, lora(init="pissa_niter_4"), lora(init="gaussian"))
        assert found.cosine == pytest.approx(1.0, abs=1e-15)
        assert found.notes == [
            "DoRA's magnitudes of both adapters are not part of s·B·A and are not compared",
            "LoRA biases of the second adapter are not part of s·B·A and are not compared",
            "whole tensors (modules_to_save, biases of the base, added tokens) of the first adapter are not part of s·B·A "
            "and are not compared",
            "the initialisation pissa_niter_4 of the first adapter changes the base, so s·B·A is not everything that it adds",
        ]

    def test_the_rank_is_the_one_of_the_file(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "a", pair(Q, normal(1, 3, 8), normal(2, 6, 3)))
        found = compare(folder, folder, lora(), lora(rank=8, rank_pattern={"q_proj": 4}))
        assert found.norm_b == found.norm_a
        assert found.notes == [f"{Q}: the second adapter's rank is 3, not 4 as its configuration says"]

    def test_patterns_fit_in_the_order_of_the_saved_configuration(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "a", pair(Q, normal(1, 3, 8), normal(2, 6, 3)))
        # A database may give the keys back in any order, while the file has them sorted.
        one, two = {"q_proj": 3.0, ".*": 6.0}, {".*": 6.0, "q_proj": 3.0}
        found = compare(folder, folder, lora(alpha_pattern=one), lora(alpha_pattern=two))
        assert found.norm_a == found.norm_b == compare(folder, folder).norm_a

    def test_a_convolution_of_another_layout_is_not_compared(self, tmp_path: Path) -> None:
        plain = pair(Q, normal(1, 3, 8), normal(2, 6, 3))
        one = write(tmp_path / "a", plain | pair("conv", normal(3, 3, 4, 3, 3), normal(4, 8, 3, 3, 3)))
        found = compare(one, write(tmp_path / "b", plain))
        assert [(d.module, d.norm_a, d.cosine, d.rank_a) for d in found.modules if d.module == "conv"] == [
            ("conv", None, None, 3)
        ]
        assert found.cosine == pytest.approx(1.0, abs=1e-15)
        assert found.notes == [
            "conv: the first adapter has A of [3, 4, 3, 3] and B of [8, 3, 3, 3], as a grouped convolution has them, which have no "
            "product, and is not compared"
        ]


def test_without_numpy_the_extra_and_the_way_around_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(Unavailable) as caught:
        compare(tmp_path, tmp_path)
    assert "pip install 'adapterctl[local]'" in caught.value.message
    assert "--no-weights" in caught.value.message
    assert caught.value.exit_code == 9


class TestStackedExperts:
    """A is (experts·r, in), expert by expert; B is (out, r·experts), rank by rank."""

    EXPERTS, RANK = 4, 3
    MODULE = "model.layers.0.mlp.experts"

    def record(self, **changed: object) -> LoraConfig:
        return lora(target_parameters=["mlp.experts.down_proj", "mlp.experts.gate_up_proj"], **changed)

    def deltas(self, a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
        """ΔW of each expert by hand, (experts, out, in)."""
        rows = [a[e * self.RANK : (e + 1) * self.RANK] for e in range(self.EXPERTS)]
        columns = [b[:, [rank * self.EXPERTS + e for rank in range(self.RANK)]] for e in range(self.EXPERTS)]
        return np.stack([scale * column @ row for column, row in zip(columns, rows, strict=True)])

    def test_norm_and_cosine_are_those_of_all_experts_beside_each_other(self, tmp_path: Path) -> None:
        width = self.EXPERTS * self.RANK
        a, b, c, d = normal(1, width, 8), normal(2, 6, width), normal(3, width, 8), normal(4, 6, width)
        for module in (self.MODULE, f"{self.MODULE}.base_layer"):
            one, two = write(tmp_path / "a", pair(module, a, b)), write(tmp_path / "b", pair(module, a + c, b + d))
            found = compare(one, two, self.record(), self.record(alpha=12.0))
            first, second = self.deltas(a, b, 6 / 3), self.deltas(a + c, b + d, 12 / 3)
            (delta,) = found.modules
            assert delta.norm_a == pytest.approx(math.sqrt(sum(np.linalg.norm(one) ** 2 for one in first)), rel=1e-12)
            assert delta.norm_b == pytest.approx(np.linalg.norm(second.ravel()), rel=1e-12)
            assert delta.cosine == pytest.approx(cosine(first, second), abs=1e-12)
            assert (delta.rank_a, delta.rank_b, found.notes) == (self.RANK, self.RANK, [])

    def test_the_scale_of_rslora_is_that_of_the_rank_of_each(self, tmp_path: Path) -> None:
        a, b = normal(1, 12, 8), normal(2, 6, 12)
        folder = write(tmp_path / "a", pair(self.MODULE, a, b))
        found = compare(folder, folder, self.record(use_rslora=True), self.record())
        assert found.norm_a == pytest.approx(np.linalg.norm(self.deltas(a, b, 6 / math.sqrt(3)).ravel()), rel=1e-12)

    def test_other_numbers_of_experts_have_no_cosine(self, tmp_path: Path) -> None:
        one = write(tmp_path / "a", pair(self.MODULE, normal(1, 12, 8), normal(2, 6, 12)))
        two = write(tmp_path / "b", pair(self.MODULE, normal(1, 6, 8), normal(2, 6, 6)))
        found = compare(one, two, self.record(), self.record())
        assert found.modules[0].cosine is None
        assert "4×6×8 in the first adapter and 2×6×8 in the second" in found.notes[0]

    def test_patterns_that_leave_open_which_parameter_it_is(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "a", pair(self.MODULE, normal(1, 12, 8), normal(2, 6, 12)))
        open_to_both = self.record(rank_pattern={"gate_up_proj": 6})
        found = compare(folder, folder, open_to_both, open_to_both)
        assert found.modules[0].norm_a is None
        assert "the rank of each is unknown" in found.notes[0]
        # Five does not divide twelve.
        only_one = self.record(rank_pattern={"gate_up_proj": 5})
        assert compare(folder, folder, only_one, only_one).modules[0].rank_a == 3
