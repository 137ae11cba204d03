"""Every rule of every engine, with an adapter that it speaks against and one that it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from sdk.lora.compatibility import ENGINES, AdapterFacts, Verdict, judge
from sdk.lora.compatibility.checks import CHECKS
from sdk.lora.compatibility.engines import Engine, Rule

PLAIN = AdapterFacts(
    rank=8,
    alpha=16.0,
    target_modules=("q_proj", "v_proj"),
    architecture="LlamaForCausalLM",
    tied=False,
    base="base",
    stop_ids=(2,),
    base_stop_ids=(2,),
    has_template=False,
)


class Against(NamedTuple):
    """What a rule finds of PLAIN with a change."""

    engine: str
    rule: str
    change: dict[str, Any]
    verdict: str
    version: str | None = None


DORA, BIAS, BIAS_OF_B = {"use_dora": True}, {"bias": "lora_only"}, {"lora_bias": True}
SAVED, TOKENS, EXPERTS = (
    {"modules_to_save": ("lm_head",)},
    {"trained_tokens": True},
    {"target_parameters": ("experts.down_proj",)},
)
PHI3 = {"architecture": "Phi3ForCausalLM"}
RANKS, ALPHAS, RSLORA = {"rank_pattern": {"q_proj": 4}}, {"alpha_pattern": {"q_proj": 4.0}}, {"use_rslora": True}
VOCABULARY, PATTERN = {"vocabulary_changed": True}, {"target_modules": None}
PISSA, SETTING = {"unusable": "init_lora_weights is 'pissa', which changes the base"}, {"other": ("use_qalora",)}
HEAD, BOTH = (
    {"target_modules": ("lm_head", "q_proj", "v_proj")},
    {"target_modules": ("embed_tokens", "q_proj", "v_proj")},
)
GPT2 = {"architecture": "GPT2LMHeadModel", "target_modules": ("c_attn",), "fan_in_fan_out": True}
STRANGE, NOBODY = {"architecture": "StrangeForCausalLM"}, {"architecture": None}
OPT = {"architecture": "OPTForCausalLM"}
BERT = {"architecture": "BertForSequenceClassification", "target_modules": ("query",)}

AGAINST = [
    Against("vllm", "architecture", GPT2, "no"),
    Against("vllm", "architecture", STRANGE, "unknown"),
    Against("vllm", "architecture", NOBODY, "unknown"),
    Against("vllm", "architecture", BERT, "no", "0.32.0"),
    Against("vllm", "rank", {"rank": 513}, "no"),
    Against("vllm", "rank", {"rank_pattern": {"q_proj": 1024}}, "no"),
    Against("vllm", "dora", DORA, "no"),
    Against("vllm", "bias", BIAS, "no"),
    Against("vllm", "lora_bias", BIAS_OF_B, "no"),
    Against("vllm", "saved modules", SAVED, "no"),
    Against("vllm", "saved modules", {"modules_to_save": ("score",)}, "unknown"),
    Against("vllm", "tokens", TOKENS, "no"),
    Against("vllm", "vocabulary", VOCABULARY, "no"),
    Against("vllm", "vocabulary", {"saved_embeddings": True}, "no"),
    Against("vllm", "vocabulary", {"vocabulary_changed": None}, "unknown"),
    Against("vllm", "targets", PATTERN, "unknown"),
    Against("vllm", "targets", {"target_modules": ("q_proj", "x_proj")}, "unknown"),
    Against("vllm", "targets", {"target_modules": ("vision_tower.layers.0.q_proj",)}, "unknown"),
    Against("vllm", "embeddings", HEAD | {"architecture": "Qwen2ForCausalLM"}, "no"),
    Against("vllm", "embeddings", HEAD | {"architecture": "BertModel"}, "unknown"),
    Against("vllm", "embeddings", HEAD | {"tied": True}, "unknown"),
    Against("vllm", "embeddings", HEAD | {"tied": None}, "unknown"),
    Against("vllm", "experts", EXPERTS, "unknown"),
    Against("vllm", "base", PISSA, "no"),
    Against("vllm", "settings", SETTING, "no"),
    Against("sglang", "architecture", GPT2, "no"),
    Against("sglang", "architecture", STRANGE, "unknown"),
    Against("sglang", "patterns", RANKS, "no"),
    Against("sglang", "patterns", ALPHAS, "no"),
    Against("sglang", "patterns", RANKS | ALPHAS, "unknown"),
    Against("sglang", "rslora", RSLORA, "no"),
    Against("sglang", "dora", DORA, "no"),
    Against("sglang", "bias", BIAS, "no"),
    Against("sglang", "bias", BIAS_OF_B, "no"),
    Against("sglang", "saved modules", SAVED, "no"),
    Against("sglang", "tokens", TOKENS, "no"),
    Against("sglang", "vocabulary", VOCABULARY, "no"),
    Against("sglang", "targets", PATTERN, "unknown"),
    Against("sglang", "joined modules", {"target_modules": ("q_proj",)}, "no"),
    Against("sglang", "joined modules", {"target_modules": ("k_proj", "v_proj")}, "no"),
    Against("sglang", "joined modules", {"target_modules": ("up_proj", "down_proj")}, "no"),
    # Whole names, of which one layer has half.
    Against("sglang", "joined modules", {"target_modules": ("l.0.q_proj", "l.0.v_proj", "l.1.q_proj")}, "no"),
    Against("sglang", "joined modules", {"excludes": True}, "unknown"),
    Against("sglang", "embeddings", {"target_modules": ("wte", "q_proj", "v_proj")}, "unknown"),
    Against("sglang", "experts", EXPERTS, "no"),
    Against("sglang", "base", PISSA, "no"),
    Against("sglang", "settings", SETTING, "no"),
    Against("llama.cpp", "conversion", OPT, "no"),
    Against("llama.cpp", "architecture", STRANGE, "unknown"),
    Against("llama.cpp", "transposed", GPT2, "no"),
    Against("llama.cpp", "patterns", ALPHAS | PHI3, "no"),
    Against("llama.cpp", "rslora", RSLORA | PHI3, "no"),
    Against("llama.cpp", "dora", DORA, "no"),
    Against("llama.cpp", "bias", BIAS, "no"),
    Against("llama.cpp", "saved modules", SAVED, "no"),
    Against("llama.cpp", "tokens", TOKENS, "no"),
    Against("llama.cpp", "vocabulary", VOCABULARY, "no"),
    Against("llama.cpp", "targets", PATTERN, "unknown"),
    Against("llama.cpp", "embeddings", HEAD | {"tied": True}, "no"),
    Against("llama.cpp", "embeddings", BOTH | {"tied": True}, "no"),
    Against("llama.cpp", "embeddings", HEAD | {"tied": None}, "unknown"),
    Against("llama.cpp", "embeddings", HEAD | {"architecture": "GemmaForCausalLM"}, "no"),
    Against("llama.cpp", "experts", EXPERTS, "no"),
    Against("llama.cpp", "base", PISSA, "no"),
    Against("llama.cpp", "settings", SETTING, "no"),
    Against("ollama", "conversion", OPT, "no"),
    Against("ollama", "architecture", STRANGE, "unknown"),
    Against("ollama", "transposed", GPT2, "no"),
    Against("ollama", "patterns", ALPHAS | PHI3, "no"),
    Against("ollama", "rslora", RSLORA | PHI3, "no"),
    Against("ollama", "dora", DORA, "no"),
    Against("ollama", "bias", BIAS, "no"),
    Against("ollama", "saved modules", SAVED, "no"),
    Against("ollama", "tokens", TOKENS, "no"),
    Against("ollama", "vocabulary", VOCABULARY, "no"),
    Against("ollama", "targets", PATTERN, "unknown"),
    Against("ollama", "embeddings", BOTH | {"tied": True}, "no"),
    Against("ollama", "experts", EXPERTS, "no"),
    Against("ollama", "base", PISSA, "no"),
    Against("ollama", "settings", SETTING, "no"),
    Against("ollama", "template", {"has_template": True}, "unknown"),
    Against("peft", "vocabulary", VOCABULARY, "no"),
    Against("peft", "quantised experts", EXPERTS | {"quantization": "nf4"}, "unknown"),
]

#: What a rule might be thought to speak against, and does not.
FOR = [
    Against("vllm", "architecture", BERT, "yes", "0.33.0"),
    Against("vllm", "rank", {"rank": 512}, "yes"),
    Against("vllm", "patterns", RANKS | ALPHAS, "yes"),
    # A pattern that says what holds anyway.
    Against("sglang", "patterns", {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 16.0}}, "yes"),
    Against("vllm", "rslora", RSLORA, "yes"),
    Against(
        "vllm",
        "saved modules",
        {"modules_to_save": ("score",), "architecture": "RobertaForSequenceClassification"},
        "yes",
    ),
    Against("vllm", "embeddings", HEAD, "yes"),
    Against("vllm", "embeddings", HEAD | {"architecture": "Qwen3ForCausalLM"}, "yes"),
    Against("vllm", "targets", {"target_modules": ("model.layers.3.self_attn.q_proj",)}, "yes"),
    Against("sglang", "rank", {"rank": 1000}, "yes"),
    Against("sglang", "rslora", RSLORA | {"rank": 1}, "yes"),
    Against("sglang", "joined modules", {"target_modules": ("o_proj", "gate_proj")}, "yes"),
    Against("sglang", "embeddings", HEAD, "yes"),
    Against("llama.cpp", "patterns", RANKS, "yes"),
    # What adapterctl export folds into B.
    Against("llama.cpp", "patterns", ALPHAS, "yes"),
    Against("llama.cpp", "rslora", RSLORA, "yes"),
    Against("ollama", "rslora", RSLORA | ALPHAS, "yes"),
    Against("llama.cpp", "rank", {"rank": 1000}, "yes"),
    Against("llama.cpp", "embeddings", BOTH, "yes"),
    Against("ollama", "engine", {}, "yes"),
    Against("ollama", "rank", {"rank": 1000}, "yes"),
    Against("ollama", "template", {"has_template": True, "template_is_base": True}, "yes"),
    Against("peft", "lora", DORA | BIAS | SAVED | PATTERN | STRANGE, "yes"),
    Against("peft", "quantised experts", EXPERTS, "yes"),
]


def _found(case: Against, change: dict[str, Any]) -> Verdict:
    findings = judge(replace(PLAIN, **change), case.engine, case.version).findings
    (found,) = [finding for finding in findings if finding.rule == case.rule]
    return found.verdict


@pytest.mark.parametrize("case", AGAINST, ids=lambda case: f"{case.engine}-{case.rule}-{case.change}-{case.version}")
def test_a_rule_speaks_against_what_it_is_about_and_not_against_a_plain_adapter(case: Against) -> None:
    assert _found(case, case.change) == case.verdict
    if case.change:
        assert _found(case, {}) == "yes"
    assert judge(replace(PLAIN, **case.change), case.engine, case.version).answer != "yes"


@pytest.mark.parametrize("case", FOR, ids=lambda case: f"{case.engine}-{case.rule}-{case.change}-{case.version}")
def test_a_rule_does_not_speak_against_more_than_it_is_about(case: Against) -> None:
    assert _found(case, case.change) == case.verdict


#: Rules that state what an engine does, and refuse nothing.
STATEMENTS = {
    ("vllm", "patterns"),
    ("vllm", "rslora"),
    ("sglang", "rank"),
    ("llama.cpp", "rank"),
    ("ollama", "engine"),
    ("ollama", "rank"),
    ("peft", "lora"),
}


def test_every_rule_has_a_case_against_it() -> None:
    rules = {(engine, finding.rule) for engine in ENGINES for finding in judge(PLAIN, engine).findings}
    assert rules - STATEMENTS == {(case.engine, case.rule) for case in AGAINST}
    assert rules >= {(case.engine, case.rule) for case in FOR} >= STATEMENTS


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_every_rule_says_where_and_when_it_was_read(engine: Engine) -> None:
    newest, before = engine.releases
    assert "2026-01-01" < before.day < newest.day <= "2026-11-27"
    assert newest.tag != before.tag
    for rule in engine.rules:
        if isinstance(rule, Rule):
            assert rule.read
            assert rule.says[0].islower() or (rule.says[0] in "ABDq_-" and not rule.says.endswith("."))
            assert not rule.check or rule.check in CHECKS
            assert bool(rule.reason) == bool(rule.refuses or rule.refused_architectures)
    assert judge(PLAIN, engine.name, before.version).findings[0].source.version == before.tag


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp", "ollama", "peft"])
def test_a_plain_adapter_of_a_llama_is_served_by_each(engine: str) -> None:
    found = judge(PLAIN, engine)
    assert (found.answer, found.against, found.fix, found.find_out) == ("yes", (), None, None)
    assert found.commands
