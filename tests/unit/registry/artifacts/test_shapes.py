"""What an adapter is held against: ranks by PEFT's patterns, and the base's shapes by the names that files have."""

from __future__ import annotations

import time

import pytest
from support.fixtures import Limits

from registry.artifacts.admission.expected_shapes import BaseShapes, Ranks
from registry.errors import Verification


class TestPatterns:
    """Ranks by pattern, as PEFT finds them, and none of a stranger's that could take for ever."""

    @pytest.mark.parametrize(
        ("patterns", "rank"),
        [
            ({}, 8),
            ({"q_proj": 4}, 4),
            ({"proj": 4}, 8),
            ({"self_attn.q_proj": 4, "q_proj": 2}, 4),
            ({"q_proj": 2, "self_attn.q_proj": 4}, 2),
            ({"model.layers.1.self_attn.q_proj": 3}, 3),
            ({r"layers\.1\..*": 4}, 4),
            ({r"layers\.[02]\..*": 4}, 8),
            ({r"layers\.\d+\.self_attn\.(q_proj|k_proj)": 4}, 4),
            ({"^model.layers.1.self_attn.q_proj": 5}, 5),
            ({"^layers.1.self_attn.q_proj": 5}, 8),
            ({r".*\.q_proj": 6, "q_proj": 7}, 6),
            ({"q_proj": 7, r".*\.q_proj": 6}, 7),
            ({"(?:q|k)_proj$": 6}, 6),
        ],
    )
    def test_a_rank_is_what_peft_takes(self, patterns: dict[str, int], rank: int) -> None:
        from peft.utils.other import get_pattern_key

        module = "model.layers.1.self_attn.q_proj"
        assert Ranks(patterns, 8).of(module) == rank
        assert patterns.get(get_pattern_key(patterns, module), 8) == rank

    @pytest.mark.parametrize("key", ["(a+)+b", "(a|a)*b", "a*a*a*a*b", "a?" * 30 + "a" * 30, "(a|a)" * 30])
    def test_one_that_python_would_try_for_ever_is_tried_in_a_moment(self, key: str) -> None:
        started = time.thread_time()
        assert Ranks({key: 4}, 8).of("a" * 200) == 8
        assert time.thread_time() - started < 2

    @pytest.mark.parametrize("key", ["(?<=a)", r"(a)\1", "[", "(", "**", "x" * 1001 + "*"])
    def test_one_that_can_not_be_tried_is_refused(self, key: str) -> None:
        with pytest.raises(Verification, match="can't be used, since it"):
            Ranks({key: 4}, 8)

    def test_patterns_have_a_budget(self, limits: Limits) -> None:
        limits("registry.artifacts.admission.expected_shapes", _PATTERN_STEPS=100_000)
        ranks = Ranks({f".*{n}.*x": 4 for n in range(50)}, 8)
        with pytest.raises(Verification, match="takes too long"):
            [ranks.of(f"layers.{n}." + "1." * 80) for n in range(100_000)]

    def test_a_thousand_literal_patterns_cost_nothing(self) -> None:
        patterns = {f"model.layers.{n}.q_proj": 1 + n % 7 for n in range(20_000)}
        ranks = Ranks(patterns, 8)
        started = time.thread_time()
        assert [ranks.of(name) for name in patterns] == list(patterns.values())
        assert time.thread_time() - started < 2


class TestBaseNames:
    """Base files name tensors otherwise than the model that a library makes of them."""

    @pytest.mark.parametrize(
        ("base", "wanted", "found"),
        [
            ("model.layers.0.q.weight", "model.layers.0.q.weight", True),
            ("layers.0.q.weight", "model.layers.0.q.weight", True),
            ("vlm.model.layers.0.q.weight", "model.layers.0.q.weight", True),
            ("language_model.model.layers.0.q.weight", "model.language_model.layers.0.q.weight", True),
            ("model.layers.0.q.weight", "model.layers.1.q.weight", False),
            ("model.layers.10.q.weight", "model.layers.0.q.weight", False),
            ("model.embed.weight", "embed.weight", True),
            ("other.embed.weight", "model.embed.weight", False),
            ("xmodel.layers.0.q.weight", "model.layers.0.k.weight", False),
        ],
    )
    def test_a_tensor_is_found_by_what_follows_the_prefix(self, base: str, wanted: str, found: bool) -> None:
        assert BaseShapes({base: [1, 2]}).shapes(wanted) == ([[1, 2]] if found else [])

    def test_a_tied_head_has_the_shape_of_the_embeddings(self) -> None:
        tied = BaseShapes({"model.decoder.embed_tokens.weight": [9, 4]})
        assert tied.shapes("lm_head.weight") == [[9, 4]]
        assert tied.is_tied("lm_head")
        assert not tied.is_tied("q_proj")
        own = BaseShapes({"model.embed_tokens.weight": [9, 4], "lm_head.weight": [12, 4]})
        assert own.shapes("lm_head.weight") == [[12, 4]]
        assert not own.is_tied("lm_head")
        assert not BaseShapes({}).is_tied("lm_head")

    def test_another_vocabulary_is_that_of_embeddings_and_head(self) -> None:
        base = BaseShapes({"wte.weight": [9, 4], "wpe.weight": [9, 4]}).with_vocabulary(11)
        assert [base.shapes(f"{name}.weight") for name in ("wte", "lm_head", "wpe")] == [[[11, 4]], [[11, 4]], [[9, 4]]]

    @pytest.mark.parametrize(
        ("config", "module", "transposed"),
        [
            ({"model_type": "gpt2"}, "h.0.attn.c_attn", True),
            ({"model_type": "gpt2"}, "lm_head", False),
            # It took over the names and not Conv1D.
            ({"model_type": "gpt_bigcode"}, "h.0.attn.c_attn", False),
            ({"model_type": "llama"}, "layers.0.q_proj", False),
            ({}, "layers.0.q_proj", False),
            ({}, "h.0.attn.c_attn", None),
        ],
    )
    def test_only_conv1d_lies_transposed(self, config: dict[str, str], module: str, transposed: bool | None) -> None:
        assert BaseShapes({}, config).lies_transposed(module) is transposed
