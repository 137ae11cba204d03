"""What the registry can tell of a combination by facts alone: the parents' shapes, and the norms that a sum can have."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from support.adapters import lora_tensors
from support.fixtures import Limits

from registry.artifacts.admission.inspection import TensorFacts, WeightFacts
from registry.errors import Verification
from registry.jobs.kinds import combine_shapes
from registry.jobs.kinds.combine_shapes import require_shapes_fit
from registry.jobs.kinds.combine_weights import KnownWeights, known_weights, require_sum
from sdk.lora.adapter_config import lora_of
from sdk.lora.combining import CombiningError, Ingredient

CONFIG = {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}}
Q, V = (f"model.layers.0.self_attn.{name}" for name in ("q_proj", "v_proj"))


def facts(tensors: dict[str, np.ndarray]) -> WeightFacts:
    return WeightFacts.of(
        TensorFacts(name, "F32", tensor.shape, zero=False, norm=3.0 if "lora_B" in name else None)
        for name, tensor in tensors.items()
    )


def known(**norms: float | None) -> KnownWeights:
    return KnownWeights(modules=frozenset(norms), whole=frozenset(), norms=norms)


def test_patterns_that_take_long_are_left_to_the_worker(limits: Limits) -> None:
    other = {
        name: np.pad(tensor, ((0, 0), (0, 1))) if "lora_A" in name else tensor
        for name, tensor in lora_tensors(2).items()
    }
    parents = [
        (Ingredient(f"{at}@v1", 0.5, lora_of(CONFIG)), partial(facts, tensors))
        for at, tensors in enumerate((lora_tensors(1), other))
    ]
    with pytest.raises(CombiningError, match="they are of different models"):
        require_shapes_fit(parents)
    # Of both together: each alone would be looked at.
    limits(combine_shapes, MOST_LETTERS=2 * 2 * len("q_proj") - 1)
    require_shapes_fit(parents)


def test_norms_are_taken_with_their_scale_where_patterns_are_short() -> None:
    lora = lora_of({**CONFIG, "lora_alpha": 4})
    assert known_weights(facts(lora_tensors(1)), lora).norms == {Q: 6.0, V: 6.0}
    unmeasured = known_weights(facts(lora_tensors(1)), lora, most_letters=2 * len("q_proj") - 1)
    assert (unmeasured.modules, unmeasured.norms) == (frozenset({Q, V}), {})


@pytest.mark.parametrize(
    ("norm", "exact", "sound"),
    [
        # 0.5·4 and −3·1: from 1 to 5.
        (5.0, True, True),
        (5.05, True, True),
        (5.2, True, False),
        (1.0, True, True),
        (0.8, True, False),
        (0.8, False, True),
        (5.2, False, False),
        (None, True, True),
    ],
)
def test_a_norm_is_that_of_a_sum(norm: float | None, exact: bool, sound: bool) -> None:
    parents = [(0.5, known(q=4.0)), (-3.0, known(q=1.0, v=2.0))]
    made = known(q=norm, v=6.0)
    if sound:
        require_sum(made, parents, exact=exact)
        return
    with pytest.raises(Verification, match="the norm of q is"):
        require_sum(made, parents, exact=exact)


def test_what_cancels_is_there_with_zeros() -> None:
    parents = [(1.0, known(q=4.0, v=2.0)), (-1.0, known(q=4.0))]
    require_sum(known(q=0.0, v=2.0), parents, exact=True)
    with pytest.raises(Verification, match="q is missing"):
        require_sum(known(v=2.0), parents, exact=True)
    # What a parent adds nothing to, neither does the sum.
    with pytest.raises(Verification, match=r"the norm of q is 0\.1, not from 0 to 0"):
        require_sum(known(q=0.1), [(1.0, known(q=0.0)), (0.5, known(q=0.0))], exact=True)


def test_of_a_parent_that_an_earlier_release_looked_into_nothing_is_held() -> None:
    parents = [(1.0, known(q=4.0)), (1.0, None)]
    require_sum(known(q=100.0, v=2.0), parents, exact=True)
    with pytest.raises(Verification, match="q is missing"):
        require_sum(known(v=2.0), parents, exact=True)
