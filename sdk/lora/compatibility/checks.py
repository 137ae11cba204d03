"""The checks that a rule of an engine's table can name: each finds an objection to an adapter, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from sdk.lora.compatibility.answers import Verdict
from sdk.lora.compatibility.engines import Engine, EngineRelease
from sdk.lora.compatibility.facts import EMBEDDINGS, HEADS, AdapterFacts
from sdk.lora.compatibility.words import named

# The linear modules of bases by architecture, as transformers and adapters name them. Only architectures for which the
# engines' sources were read; any other is "unknown", never "yes". Models with images or linear attention are unknown too:
# engines join and rename their modules in ways that change from release to release.
ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
LLAMA = ATTENTION | {"gate_proj", "up_proj", "down_proj"}

_LIKE_LLAMA = """
Gemma2ForCausalLM Gemma3ForCausalLM GemmaForCausalLM GraniteForCausalLM LlamaForCausalLM
MistralForCausalLM Ministral3ForCausalLM Olmo2ForCausalLM Olmo3ForCausalLM OlmoForCausalLM
Qwen2ForCausalLM Qwen3ForCausalLM SeedOssForCausalLM SmolLM3ForCausalLM
CohereForCausalLM
"""
#: For a mixture of experts, only the modules that every token passes through: its experts are stacked parameters.
_MIXTURES = """
GptOssForCausalLM GraniteMoeForCausalLM MixtralForCausalLM OlmoeForCausalLM Qwen2MoeForCausalLM Qwen3MoeForCausalLM
"""

LINEAR_MODULES: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_LIKE_LLAMA.split(), LLAMA),
    **dict.fromkeys(_MIXTURES.split(), ATTENTION),
    "BertForSequenceClassification": frozenset({"query", "key", "value", "dense"}),
    "GPTBigCodeForCausalLM": frozenset({"c_attn", "c_proj", "c_fc"}),
    "GPTNeoXForCausalLM": frozenset({"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    "OPTForCausalLM": frozenset({"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}),
    "Phi3ForCausalLM": frozenset({"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
    "PhiForCausalLM": frozenset({"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}),
    "RobertaForSequenceClassification": frozenset({"query", "key", "value", "dense"}),
    "Starcoder2ForCausalLM": ATTENTION | {"c_fc", "c_proj"},
}


class Objection(NamedTuple):
    """An objection to an adapter."""

    verdict: Verdict
    #: One sentence without a full stop.
    reason: str


Check = Callable[[AdapterFacts, Engine, EngineRelease], Objection | None]

#: The names of embeddings and heads that rules are known for.
_BOTH = frozenset({"embed_tokens", "lm_head"})
#: Models that see images: only their text part is converted and exported. The values are the linear modules of that part.
_TEXT_PARTS = {"Gemma3ForConditionalGeneration": LLAMA}
#: Modules that have the same names in the part for images.
_OF_BOTH_PARTS = frozenset({"q_proj", "k_proj", "v_proj"})


def architectures(facts: AdapterFacts, engine: Engine, release: EngineRelease) -> Objection | None:
    """Object to a base that the engine adapts in no release, or not in this one, or that the table lacks."""
    name = facts.architecture
    if not name:
        return _unknown("the base's architecture is not known")
    if name in engine.without:
        return _no(f"{name} {engine.lacking}")
    if name in release.without:
        return _no(f"{name} {engine.lacking}; {engine.name} {engine.releases[0].version} does")
    return None if name in engine.architectures else _unknown(f"{name} is not in the table")


def rank_steps(facts: AdapterFacts, engine: Engine, _: EngineRelease) -> Objection | None:
    """Object to a rank above the largest that the engine takes."""
    if facts.largest_rank > engine.rank_steps[-1]:
        return _no(f"its rank is {facts.largest_rank}, and the largest step is {engine.rank_steps[-1]}")
    return None


def one_scale(facts: AdapterFacts, *_: object) -> Objection | None:
    """Object to an adapter whose modules have scales of their own: the engine uses one α/r for the whole adapter."""
    if facts.other_ranks and facts.other_alphas:
        return _unknown(
            "rank_pattern and alpha_pattern differ by module, and whether each module's α/r is the adapter's is not looked at"
        )
    patterns: dict[str, Mapping[str, object]] = {"rank_pattern": facts.other_ranks, "alpha_pattern": facts.other_alphas}
    for name, found in patterns.items():
        if found:
            return _no(
                f"{name} gives {named(found)} a scale of its own, and every module gets {facts.alpha:g}/{facts.rank}"
            )
    return None


def one_alpha(facts: AdapterFacts, *_: object) -> Objection | None:
    """Object to an adapter whose modules have different alphas: the engine uses each module's rank, but one α."""
    if facts.other_alphas:
        return _no(f"alpha_pattern gives {named(facts.other_alphas)} another α, and every module gets {facts.alpha:g}")
    return None


def heads_alone(facts: AdapterFacts, *_: object) -> Objection | None:
    """Object to saved modules other than the head of a classification, on a base that has one there."""
    beside = sorted(set(facts.modules_to_save) - HEADS)
    if beside:
        return _no(f"it has {named(beside)} in modules_to_save")
    if facts.modules_to_save and not (facts.architecture or "").endswith("ForSequenceClassification"):
        return _unknown(
            f"it saves {named(facts.modules_to_save)}, and whether vLLM gives this base such a head depends on how it is run"
        )
    return None


def same_vocabulary(facts: AdapterFacts, *_: object) -> Objection | None:
    """Object to an adapter with embeddings for another number of tokens."""
    if facts.vocabulary_changed is None:
        return _unknown("whether it holds embeddings of another number of tokens than the base is not known")
    return _no("it holds embeddings of another number of tokens than the base") if facts.vocabulary_changed else None


def no_whole_embeddings(facts: AdapterFacts, *_: object) -> Objection | None:
    """Object to an adapter with whole embeddings, for any number of tokens."""
    if facts.saved_embeddings and not facts.vocabulary_changed:
        return _no(
            "it holds the base's embeddings whole; save it again with save_embedding_layers=False where they were not trained"
        )
    return same_vocabulary(facts)


def targets(facts: AdapterFacts, *_: object) -> Objection | None:
    """Leave the answer open if the table lacks some of a base's modules; embeddings have a rule of their own."""
    return _of_modules(facts, LINEAR_MODULES)


def converted_targets(facts: AdapterFacts, *_: object) -> Objection | None:
    """The same for llama.cpp, which converts what the tensors name, and of a model that sees images the text part."""
    objection = _of_modules(_by_tensors(facts), {**LINEAR_MODULES, **_TEXT_PARTS})
    if objection is not None or facts.architecture not in _TEXT_PARTS or facts.modules is not None:
        return objection
    both = [
        name
        for name in facts.target_modules or ()
        if name.rpartition(".")[2] in _OF_BOTH_PARTS and "language_model" not in name.split(".")
    ]
    return _unknown(f"{named(both)} may mean modules of the part for images too") if both else None


def joined_modules(facts: AdapterFacts, *_: object) -> Objection | None:
    """Object if only a part of what SGLang joins is adapted: it assumes q always, and v if there is q or k."""
    places: dict[str, set[str]] = {}
    for name in facts.target_modules or ():
        place, _dot, last = name.rpartition(".")
        places.setdefault(place, set()).add(last)
    for names in places.values():
        attention = names & (ATTENTION - {"o_proj"})
        if attention and not {"q_proj", "v_proj"} <= names:
            return _no(f"it adapts {named(attention)} alone, and q_proj and v_proj are always expected")
        if "up_proj" in names and "gate_proj" not in names:
            return _no("it adapts up_proj without gate_proj, with which it is joined")
    if facts.excludes and facts.last_names & (LLAMA - {"o_proj", "down_proj"}):
        return _unknown("exclude_modules leaves some modules alone, and which are left together is not looked at")
    return None


def known_embeddings(facts: AdapterFacts, *_: object) -> Objection | None:
    """Leave the answer open for embeddings that are called otherwise than a Llama's."""
    if beside := facts.adapted_embeddings - _BOTH:
        return _unknown(f"it adapts {named(beside)}, and the table has embed_tokens and lm_head")
    return None


def embeddings_of_class(facts: AdapterFacts, engine: Engine, _: EngineRelease) -> Objection | None:
    """Object to adapted embeddings that the model's class does not name."""
    adapted = facts.adapted_embeddings
    if not adapted:
        return None
    allowed = engine.embeddings.get(facts.architecture or "")
    if allowed is None:
        return _unknown(f"it adapts {named(adapted)}, and the table does not say whether that base takes it")
    if beside := adapted - set(allowed):
        return _no(f"it adapts {named(beside)}, which {facts.architecture} does not take")
    if facts.tied:
        return _unknown(f"it adapts {named(adapted)}, and the base ties embeddings and head")
    return _tying_unknown(facts)


def converted_embeddings(facts: AdapterFacts, engine: Engine, _: EngineRelease) -> Objection | None:
    """Object to adapted embeddings that a GGUF of the base has not, or has as one with its head."""
    facts = _by_tensors(facts)
    adapted = facts.adapted_embeddings
    if adapted and facts.tied:
        return _no(
            f"it adapts {named(adapted)} of a base that ties the two, of which a GGUF has one: the other would be adapted too, or is missing"
        )
    if adapted and facts.tied is None:
        return _tying_unknown(facts)
    if left_out := (adapted & _BOTH) - set(engine.embeddings.get(facts.architecture or "", _BOTH)):
        return _no(f"it adapts {named(left_out)}, which the conversion of {facts.architecture} leaves out")
    return known_embeddings(facts)


#: By the names that tables give them.
CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (
        architectures,
        rank_steps,
        one_scale,
        one_alpha,
        heads_alone,
        same_vocabulary,
        no_whole_embeddings,
        targets,
        converted_targets,
        joined_modules,
        known_embeddings,
        embeddings_of_class,
        converted_embeddings,
    )
}


def _no(reason: str) -> Objection:
    return Objection(Verdict.NO, reason)


def _unknown(reason: str) -> Objection:
    return Objection(Verdict.UNKNOWN, reason)


def _tying_unknown(facts: AdapterFacts) -> Objection | None:
    if facts.tied is None:
        return _unknown(
            f"it adapts {named(facts.adapted_embeddings)}, and whether the base ties embeddings and head is not known"
        )
    return None


def _by_tensors(facts: AdapterFacts) -> AdapterFacts:
    """Facts with the target modules taken from the tensors if they are given by a pattern: only tensors are converted."""
    if facts.target_modules is not None or facts.modules is None:
        return facts
    return replace(facts, target_modules=facts.modules)


def _of_modules(facts: AdapterFacts, known: Mapping[str, frozenset[str]]) -> Objection | None:
    if facts.target_modules is None:
        return _unknown("target_modules is a pattern, which is not resolved here")
    beside = sorted(facts.last_names - EMBEDDINGS - known.get(facts.architecture or "", frozenset()))
    if beside:
        return _unknown(f"the table does not have {named(beside)} of {facts.architecture or 'this base'}")
    part = next(filter(_is_of_image_or_sound, facts.modules or facts.target_modules), None)
    return _unknown(f"{part} is of an image's or a sound's part") if part else None


def _is_of_image_or_sound(name: str) -> bool:
    return any(word in part for part in name.split(".") for word in ("vision", "visual", "audio", "projector"))
