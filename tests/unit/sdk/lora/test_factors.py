"""Sums of low-rank matrices as factors: hand-computed, then held against dense matrices that no product code forms."""

from __future__ import annotations

import numpy as np
import pytest

from sdk.lora.factors import Factors, FactorsError, joined, of_each_expert, padded, reduced, stacked


def factors(b: object, a: object) -> Factors:
    return Factors(np.array(b, dtype=float), np.array(a, dtype=float))


def random_factors(seed: int, out: int, rank: int, into: int) -> Factors:
    random = np.random.default_rng(seed)
    return Factors(random.normal(size=(out, rank)), random.normal(size=(rank, into)))


def dense(found: Factors) -> np.ndarray:
    return np.asarray(found.b @ found.a)


def test_a_sum_has_the_weights_in_b_and_reduces_to_its_own_rank() -> None:
    # 2·[1 0]ᵀ[1 1] − 1·[1 0]ᵀ[1 1] + 3·[0 1]ᵀ[1 −1] = [[1 1] [3 −3]]
    right = factors([[1], [0]], [[1, 1]])
    terms = [(2.0, right), (-1.0, right), (3.0, factors([[0], [1]], [[1, -1]]))]
    whole = joined(terms)
    assert whole.b.tolist() == [[2, -1, 0], [0, 0, 3]]
    assert whole.a.tolist() == [[1, 1], [1, 1], [1, -1]]
    short = reduced(whole)
    assert (whole.rank, short.factors.rank) == (3, 2)
    np.testing.assert_allclose(dense(short.factors), [[1, 1], [3, -3]], atol=1e-15)
    # Its singular values are √18 and √2, by rows that are orthogonal.
    assert (short.kept_square, short.square) == pytest.approx((20, 20))
    cut = reduced(whole, 1)
    np.testing.assert_allclose(dense(cut.factors), [[0, 0], [3, -3]], atol=1e-14)
    assert cut.kept_square / cut.square == pytest.approx(0.9)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_cut_is_the_nearest_of_its_rank(seed: int) -> None:
    out, into, rank = 9, 13, 5
    whole = joined((weight, random_factors(seed + at, out, 4, into)) for at, weight in enumerate((0.7, -0.3, 2.0)))
    found = reduced(whole, rank)
    sigma = np.linalg.svd(dense(whole), compute_uv=False)
    assert found.factors.rank == rank
    assert float(np.linalg.norm(dense(whole) - dense(found.factors))) == pytest.approx(
        float(np.linalg.norm(sigma[rank:]))
    )
    assert found.kept_square / found.square == pytest.approx(
        float((sigma[:rank] ** 2).sum() / (sigma**2).sum()), abs=1e-12
    )
    # Equal parts of each σ in both, and signs that are fixed.
    np.testing.assert_allclose(np.linalg.norm(found.factors.b, axis=0), np.sqrt(sigma[:rank]))
    np.testing.assert_allclose(np.linalg.norm(found.factors.a, axis=1), np.sqrt(sigma[:rank]))
    largest = np.abs(found.factors.b).argmax(axis=0)
    assert (found.factors.b[largest, np.arange(rank)] > 0).all()


@pytest.mark.parametrize(("out", "into"), [(3, 20), (20, 3), (4, 4)])
def test_a_rank_beyond_the_matrix_is_lost_without_loss(out: int, into: int) -> None:
    whole = joined([(1.0, random_factors(1, out, 6, into)), (0.5, random_factors(2, out, 5, into))])
    found = reduced(whole)
    assert found.factors.rank == min(out, into)
    np.testing.assert_allclose(dense(found.factors), dense(whole), atol=1e-13)


def test_terms_that_cancel_leave_no_digits_behind() -> None:
    """A converted PiSSA adapter is the difference of two products a thousand times as large as it."""
    small, large = random_factors(1, 12, 2, 10), random_factors(2, 12, 3, 10)
    added = Factors(np.hstack([1e3 * large.b, small.b]), np.vstack([large.a, small.a]))
    found = reduced(joined([(1.0, added), (-1e3, large)]))
    assert found.factors.rank == 2
    np.testing.assert_allclose(dense(found.factors), dense(small), atol=1e-10)
    gone = reduced(joined([(1.0, large), (-1.0, large)]))
    assert (gone.factors.rank, gone.square) == (1, 0.0)
    assert not dense(gone.factors).any()


def test_stacked_experts_go_expert_by_expert_in_a_and_rank_by_rank_in_b() -> None:
    one, other = factors([[1, 2]], [[10, 11], [12, 13]]), factors([[3, 4]], [[20, 21], [22, 23]])
    found = stacked([one, other])
    assert found.b.tolist() == [[1, 3, 2, 4]]
    assert found.a.tolist() == [[10, 11], [12, 13], [20, 21], [22, 23]]
    for back, said in zip(of_each_expert(found, 2), (one, other), strict=True):
        assert (back.b.tolist(), back.a.tolist()) == (said.b.tolist(), said.a.tolist())


def test_a_padded_rank_adds_nothing() -> None:
    found = padded(factors([[1], [2]], [[3, 4]]), 3)
    assert (found.rank, dense(found).tolist()) == (3, [[3, 4], [6, 8]])


def test_equal_factors_give_equal_bytes() -> None:
    whole = random_factors(3, 40, 16, 30)
    one, other = reduced(whole, 8).factors, reduced(whole, 8).factors
    assert (one.b.tobytes(), one.a.tobytes()) == (other.b.tobytes(), other.a.tobytes())


def test_columns_far_from_each_other_in_size_lose_nothing() -> None:
    one, other = random_factors(1, 8, 2, 6), random_factors(2, 8, 2, 6)
    far = Factors(one.b * 1e170, one.a * 1e-170)
    short = reduced(joined([(1.0, far), (1.0, other)]))
    np.testing.assert_allclose(dense(short.factors), dense(one) + dense(other), rtol=1e-12)
    assert short.square == pytest.approx(float(np.square(dense(one) + dense(other)).sum()))


def test_what_is_beyond_float64_is_refused_before_lapack_sees_it() -> None:
    with pytest.raises(FactorsError, match="times their weights and scales are beyond float64"):
        joined([(1000.0, factors([[1e306]], [[1e-306]]))])
    with pytest.raises(FactorsError, match="its ΔW, or the square of it, is beyond float64"):
        reduced(factors([[1e200, 0], [0, 1]], [[1e200, 0], [0, 1]]))
