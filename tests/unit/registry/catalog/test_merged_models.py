"""What a merged model may differ in from its base, by config and headers alone."""

from __future__ import annotations

from typing import Any

import pytest

from registry.catalog.bases.deriving import Derived
from registry.catalog.bases.finding import KnownBase, known_base
from registry.catalog.publishing.merged_models import MergedFrom, judge_model
from registry.errors import Verification
from sdk.schemas.catalog import BaseBrief
from sdk.schemas.manifest import Manifest, ManifestFile

Q, EMBED, HEAD, SCORE = "model.layers.0.q_proj.weight", "model.embed_tokens.weight", "lm_head.weight", "score.weight"
TENSORS = {EMBED: [16, 8], Q: [8, 8]}
CONFIG = {"model_type": "llama", "vocab_size": 16, "tie_word_embeddings": True, "architectures": ["A"]}
BRIEF = BaseBrief(id="tiny", revision=None, fingerprint="1" * 64, weights_digest="2" * 64, architecture="A")
FILE = ManifestFile(path="model.safetensors", size_bytes=1, sha256="3" * 64)
MANIFEST = Manifest(kind="merged", base_fingerprint="1" * 64, files=[FILE])


def judged(
    found: dict[str, list[int]], config: dict[str, Any] | None = None, *, base: KnownBase | None = None, **made: Any
) -> list[str]:
    told = {"classifies": False, "tensors": len(found), "vocabulary": None, "tokenizer": None, **made}
    known = base or known_base(1, BRIEF, TENSORS, CONFIG)
    return judge_model(Derived(CONFIG | (config or {}), found, 1), MANIFEST, known, MergedFrom(**told))


UNTIED = {"tie_word_embeddings": False}
LABELLED = {
    "architectures": ["B"],
    "id2label": {"0": "a"},
    "label2id": {"a": 0},
    "problem_type": "x",
    "pad_token_id": 1,
}


@pytest.mark.parametrize(
    ("tensors", "config", "made"),
    [
        (TENSORS, {}, {}),
        (TENSORS, {"dtype": "float16"}, {}),
        (TENSORS | {HEAD: [16, 8]}, UNTIED, {}),
        (TENSORS | {EMBED: [19, 8]}, {"vocab_size": 19}, {"vocabulary": 19}),
        (TENSORS | {EMBED: [19, 8], HEAD: [19, 8]}, {"vocab_size": 19, **UNTIED}, {"vocabulary": 19}),
        (TENSORS | {SCORE: [2, 8]}, LABELLED, {"classifies": True}),
    ],
)
def test_what_a_merge_writes(tensors: dict[str, list[int]], config: dict[str, Any], made: dict[str, Any]) -> None:
    assert judged(tensors, config, **made) == []


@pytest.mark.parametrize(
    ("tensors", "config", "made", "said"),
    [
        (TENSORS, UNTIED, {}, "unties the embeddings, and there is no tensor of a head"),
        (TENSORS, {"tie_word_embeddings": None}, {}, "another tie_word_embeddings than base tiny"),
        (TENSORS | {SCORE: [2, 8]}, {}, {}, f"base tiny has no tensor '{SCORE}'"),
        (TENSORS | {SCORE: [2, 8]}, LABELLED, {}, "another architectures than base tiny"),
        (TENSORS | {"model.layers.1.x": [2]}, {}, {"classifies": True}, "has no tensor 'model.layers.1.x'"),
        ({EMBED: [16, 8]}, {}, {"classifies": True}, f"the tensor '{Q}' of base tiny is missing"),
        (TENSORS | {EMBED: [19, 8]}, {}, {}, f"the tensor '{EMBED}' is 19×8, and that of base tiny is 16×8"),
        (TENSORS | {EMBED: [20, 8]}, {"vocab_size": 19}, {"vocabulary": 19}, f"the tensor '{EMBED}' is 20×8"),
        (TENSORS | {Q: [19, 8]}, {"vocab_size": 19}, {"vocabulary": 19}, f"the tensor '{Q}' is 19×8"),
        (TENSORS, {"vocab_size": 20}, {"vocabulary": 19}, "another vocab_size than base tiny"),
        (TENSORS, {"text_config": {"x": 1}}, {}, "another text_config than base tiny"),
        (TENSORS, {"auto_map": {}}, {}, "another auto_map than base tiny"),
        (TENSORS, {"quantization_config": {}}, {}, "says quantization_config, and a merged model is stored wide"),
    ],
)
def test_what_no_merge_writes(
    tensors: dict[str, list[int]], config: dict[str, Any], made: dict[str, Any], said: str
) -> None:
    with pytest.raises(Verification, match=f"{said}.*; merge it again"):
        judged(tensors, config, **made)


def test_a_config_of_parts_is_held_part_by_part() -> None:
    text = {"vocab_size": 16, "tie_word_embeddings": True, "hidden_size": 8, "_name_or_path": "a"}
    base = known_base(1, BRIEF, TENSORS, {"model_type": "seeing", "text_config": text})

    def of(**changed: Any) -> dict[str, Any]:
        part = {key: value for key, value in (text | changed).items() if key != "_name_or_path"}
        return {"model_type": "seeing", "text_config": part}

    def judge(config: dict[str, Any], tensors: dict[str, list[int]]) -> list[str]:
        told = MergedFrom(False, len(tensors), None, None)
        return judge_model(Derived(config, tensors, 1), MANIFEST, base, told)

    assert judge(of(), TENSORS) == []
    assert judge(of(tie_word_embeddings=False), TENSORS | {HEAD: [16, 8]}) == []
    with pytest.raises(Verification, match=r"another text_config\.hidden_size than base tiny"):
        judge(of(hidden_size=9), TENSORS)
    with pytest.raises(Verification, match="unties the embeddings"):
        judge(of(tie_word_embeddings=False), TENSORS)


def test_a_head_that_lies_beside_tied_embeddings_is_one() -> None:
    assert judged(TENSORS | {HEAD: [16, 8]}, UNTIED, base=known_base(1, BRIEF, TENSORS | {HEAD: [16, 8]}, CONFIG)) == []


def test_what_is_not_known_of_a_base_is_said_and_not_guessed() -> None:
    unknown = known_base(1, BRIEF, {}, {})
    (warning,) = judged({Q: [1]}, {"model_type": "x"}, base=unknown)
    assert warning == "the model's shapes could not be checked: base tiny was registered without its shapes"
    with pytest.raises(Verification, match="the model has 1 tensors, and its merge has read back 2; merge it again"):
        judged({Q: [1]}, base=unknown, tensors=2)


@pytest.mark.parametrize("buffer", ["model.layers.0.attn.bias", "model.layers.0.rotary_emb.inv_freq"])
def test_a_classification_lacks_what_the_base_s_model_computes_for_itself(buffer: str) -> None:
    base = known_base(1, BRIEF, TENSORS | {buffer: [1, 1, 8, 8]}, CONFIG)
    assert judged(TENSORS | {SCORE: [2, 8]}, LABELLED, base=base, classifies=True) == []
    with pytest.raises(Verification, match="is missing"):
        judged(TENSORS, base=base)
