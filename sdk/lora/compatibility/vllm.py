"""vLLM's rules for LoRA, from its sources of 0.8.5 to 0.33.0."""

from __future__ import annotations

from sdk.lora.compatibility.answers import Source
from sdk.lora.compatibility.facts import HEADS, Facts
from sdk.lora.compatibility.modules import LINEAR_MODULES
from sdk.lora.compatibility.rules import (
    Engine,
    Objection,
    Rule,
    Support,
    architectures,
    base_as_it_is,
    named,
    no,
    no_whole_embeddings,
    one_scale,
    plain_settings,
    targets,
    unknown,
    unless,
)
from sdk.lora.compatibility.versions import Number, parse

NAME = "vllm"
_OLDEST, _NEWEST, _DAY = "0.8.5", "0.33.0", "2026-11-02"

#: The values that `--max-lora-rank` allows; 1 was added in 0.11.1.
RANK_STEPS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_STEPS_BEFORE_ONE = RANK_STEPS[1:]
_ONE_SINCE = (0, 11, 1)
DEFAULT_RANK = 16

#: Architectures whose class declares LoRA support, by the releases that were read.
_ARCHITECTURES = {
    "BertForSequenceClassification": Support("0.33.0", absent="0.32.0"),
    "BertModel": Support("0.32.0", absent="0.31.0"),
    "BloomForCausalLM": Support(None, absent="0.33.0"),
    "CohereForCausalLM": Support("0.8.5"),
    "DeepseekV2ForCausalLM": Support("0.10.2", absent="0.10.0"),
    "DeepseekV3ForCausalLM": Support("0.10.2", absent="0.10.0"),
    "ExaoneForCausalLM": Support("0.8.5"),
    "FalconForCausalLM": Support(None, absent="0.33.0"),
    "FalconH1ForCausalLM": Support("0.9.0", absent="0.8.5"),
    "GPT2LMHeadModel": Support(None, absent="0.33.0"),
    "GPTBigCodeForCausalLM": Support("0.8.5"),
    "GPTJForCausalLM": Support(None, absent="0.33.0"),
    "GPTNeoXForCausalLM": Support("0.32.0", absent="0.31.0"),
    "Gemma2ForCausalLM": Support("0.8.5"),
    "Gemma3ForCausalLM": Support("0.8.5"),
    "Gemma3ForConditionalGeneration": Support("0.8.5"),
    "Gemma4ForCausalLM": Support("0.20.0", absent="0.18.0"),
    "Gemma4ForConditionalGeneration": Support("0.20.0", absent="0.18.0"),
    "GemmaForCausalLM": Support("0.8.5"),
    "Glm4ForCausalLM": Support("0.8.5"),
    "Glm4MoeForCausalLM": Support("0.10.2", absent="0.10.0"),
    "GlmForCausalLM": Support("0.8.5"),
    "GptOssForCausalLM": Support("0.11.1", absent="0.11.0"),
    "GraniteForCausalLM": Support("0.8.5"),
    "GraniteMoeForCausalLM": Support("0.8.5"),
    "InternLM2ForCausalLM": Support("0.8.5"),
    "JambaForCausalLM": Support("0.8.5"),
    "Lfm2ForCausalLM": Support("0.10.2", absent="0.10.0"),
    "Llama4ForConditionalGeneration": Support("0.11.1", absent="0.11.0"),
    "LlamaForCausalLM": Support("0.8.5"),
    "MambaForCausalLM": Support(None, absent="0.33.0"),
    "Ministral3ForCausalLM": Support("0.20.0", absent="0.18.0"),
    "Mistral3ForConditionalGeneration": Support("0.9.0", absent="0.8.5"),
    "MistralForCausalLM": Support("0.8.5"),
    "MixtralForCausalLM": Support("0.8.5"),
    "NemotronForCausalLM": Support("0.8.5"),
    "OPTForCausalLM": Support("0.11.1", absent="0.11.0"),
    "Olmo2ForCausalLM": Support("0.10.2", absent="0.10.0"),
    "Olmo3ForCausalLM": Support("0.11.0", absent="0.10.2"),
    "OlmoForCausalLM": Support("0.10.2", absent="0.10.0"),
    "OlmoeForCausalLM": Support("0.11.1", absent="0.11.0"),
    "Phi3ForCausalLM": Support("0.8.5"),
    "PhiForCausalLM": Support("0.8.5"),
    "Qwen2ForCausalLM": Support("0.8.5"),
    "Qwen2MoeForCausalLM": Support("0.10.0", absent="0.9.0"),
    "Qwen3ForCausalLM": Support("0.8.5"),
    "Qwen3MoeForCausalLM": Support("0.10.0", absent="0.9.0"),
    "Qwen3NextForCausalLM": Support("0.10.2", absent="0.10.0"),
    "Qwen3_5ForCausalLM": Support("0.28.0", absent="0.22.0"),
    "Qwen3_5ForConditionalGeneration": Support("0.18.0", absent="0.16.0"),
    "Qwen3_5MoeForCausalLM": Support("0.28.0", absent="0.22.0"),
    "Qwen3_5MoeForConditionalGeneration": Support("0.18.0", absent="0.16.0"),
    "RobertaForSequenceClassification": Support("0.31.0", absent="0.30.0"),
    "SeedOssForCausalLM": Support("0.10.2", absent="0.10.0"),
    "SmolLM3ForCausalLM": Support("0.10.2", absent="0.10.0"),
    "StableLmForCausalLM": Support(None, absent="0.33.0"),
    "Starcoder2ForCausalLM": Support("0.28.0", absent="0.22.0"),
}

_BOTH = frozenset({"embed_tokens", "lm_head"})
#: Architecture to the embeddings that its class lets LoRA adapt, and the first of the releases read since which it does.
_EMBEDDINGS: dict[str, tuple[str, frozenset[str]]] = {
    **dict.fromkeys(
        (
            "GraniteForCausalLM",
            "GraniteMoeForCausalLM",
            "JambaForCausalLM",
            "LlamaForCausalLM",
            "MixtralForCausalLM",
            "NemotronForCausalLM",
            "Phi3ForCausalLM",
        ),
        ("0.8.5", _BOTH),
    ),
    **{
        name: ("0.8.5", frozenset())
        for name in (
            "Gemma2ForCausalLM",
            "Gemma3ForCausalLM",
            "GemmaForCausalLM",
            "Glm4ForCausalLM",
            "Qwen2ForCausalLM",
        )
    },
    "CohereForCausalLM": ("0.8.5", frozenset({"embed_tokens"})),
    "MistralForCausalLM": ("0.16.0", frozenset()),
    "OPTForCausalLM": ("0.11.1", frozenset()),
    "Olmo2ForCausalLM": ("0.31.0", frozenset({"embed_tokens"})),
    "PhiForCausalLM": ("0.32.0", frozenset({"embed_tokens"})),
    "Qwen2MoeForCausalLM": ("0.10.0", frozenset()),
    "Qwen3ForCausalLM": ("0.16.0", _BOTH),
    "Qwen3MoeForCausalLM": ("0.16.0", _BOTH),
    "Qwen3_5ForCausalLM": ("0.29.0", _BOTH),
    "SmolLM3ForCausalLM": ("0.31.0", frozenset({"embed_tokens"})),
}


def _read(place: str, version: str = _NEWEST, day: str = _DAY) -> Source:
    return Source(place, version, day)


_CONFIG, _HELPER, _MODEL = "vllm/config/lora.py", "vllm/lora/peft_helper.py", "vllm/lora/lora_model.py"
_BEFORE_PATTERNS = _read(_HELPER, "0.31.0", "2026-10-04")


def rank_step(rank: int, version: Number) -> int | None:
    """Return the smallest `--max-lora-rank` that allows a rank; None if none does.

    >>> rank_step(24, (0, 33, 0)), rank_step(1, (0, 33, 0)), rank_step(1, (0, 11, 0)), rank_step(513, (0, 33, 0))
    (32, 1, 8, None)
    """
    steps = RANK_STEPS if version >= _ONE_SINCE else _STEPS_BEFORE_ONE
    return next((step for step in steps if step >= rank), None)


def _rank(facts: Facts, version: Number) -> Objection | None:
    if rank_step(facts.largest_rank, version) is None:
        return no(f"its rank is {facts.largest_rank}, and the largest step is {RANK_STEPS[-1]}")
    return None


def _saved(facts: Facts, _: Number) -> Objection | None:
    """Since 0.31: the head of a classification, on a base that has one there."""
    beside = sorted(set(facts.modules_to_save) - HEADS)
    if beside:
        return no(f"it has {named(beside)} in modules_to_save")
    if facts.modules_to_save and not (facts.architecture or "").endswith("ForSequenceClassification"):
        return unknown(
            f"it saves {named(facts.modules_to_save)}, and whether vLLM gives this base such a head depends on how it is run"
        )
    return None


def _embeddings(facts: Facts, version: Number) -> Objection | None:
    adapted = facts.adapted_embeddings
    if not adapted:
        return None
    known = _EMBEDDINGS.get(facts.architecture or "")
    if known is None or version < parse(known[0], NAME):
        return unknown(f"it adapts {named(adapted)}, and the table does not say whether that base takes it")
    if beside := adapted - known[1]:
        return no(f"it adapts {named(beside)}, which {facts.architecture} does not take")
    if facts.tied is not False:
        why = (
            "the base ties embeddings and head"
            if facts.tied
            else "whether the base ties embeddings and head is not known"
        )
        return unknown(f"it adapts {named(adapted)}, and {why}")
    return None


def _experts(facts: Facts, _: Number) -> Objection | None:
    if facts.target_parameters:
        return unknown(
            f"it adapts stacked experts ({named(facts.target_parameters)}), whose layout is read by each model's own rule"
        )
    return None


def _has_bias(facts: Facts) -> bool:
    return facts.bias != "none" or facts.lora_bias


RULES = (
    Rule("architecture", "the model's class supports LoRA", _read("vllm/config/lora.py, vllm/model_executor/models"),
         architectures(NAME, _ARCHITECTURES, lacking="has no support of LoRA")),
    Rule("rank", f"the largest rank is at most {RANK_STEPS[-1]}; --max-lora-rank is one of {', '.join(map(str, RANK_STEPS))}",
         _read(_CONFIG), _rank, mended_by_plain="cut"),
    Rule("patterns", "each module has the rank and α that the patterns give it", _read(_HELPER), lambda *_: None, since="0.32.0"),
    Rule("patterns", "every module is scaled by α/r of the whole adapter", _BEFORE_PATTERNS, one_scale, before="0.32.0",
         mended_by_plain="same"),
    Rule("rslora", "rsLoRA is scaled by α/√r", _read(_HELPER), lambda *_: None),
    Rule("dora", "DoRA is refused", _read(_HELPER), unless(lambda facts: facts.use_dora, "it is a DoRA, which is refused"),
         mended_by_plain="cut"),
    Rule("bias", "bias other than none is refused", _read(_HELPER),
         unless(lambda facts: facts.bias != "none", "it trains biases, which are refused"), since="0.11.1"),
    Rule("bias", "bias other than none needs --enable-lora-bias",
         _read(_HELPER, "0.11.0", "2025-09-13"),
         lambda facts, _: unknown("it trains biases, which need --enable-lora-bias") if _has_bias(facts) else None,
         before="0.11.1"),
    Rule("lora_bias", "a bias of B is refused", _read("vllm/lora/peft_helper.py, vllm/lora/utils.py"),
         unless(lambda facts: facts.lora_bias, "B has a bias, which is refused"), since="0.11.1"),
    Rule("saved modules", "modules_to_save holds nothing but the head of a classification", _read(_HELPER), _saved, since="0.31.0"),
    Rule("saved modules", "modules_to_save is refused", _read(_HELPER, "0.30.0", "2026-09-22"),
         unless(lambda facts: facts.modules_to_save, "it has modules_to_save, which are refused"), before="0.31.0"),
    Rule("tokens", "trained tokens are refused", _read("vllm/lora/utils.py"),
         unless(lambda facts: facts.trained_tokens, "it trains single tokens, whose rows are not a tensor that is read")),
    Rule("vocabulary", "no embeddings are there whole, and none of another number of tokens", _read(_MODEL), no_whole_embeddings),
    Rule("targets", "the target modules are linear ones of the model", _read("vllm/lora/utils.py"), targets(LINEAR_MODULES)),
    Rule("embeddings", "embeddings and the head are adapted where the model's class names them",
         _read("vllm/lora/utils.py, vllm/model_executor/models"), _embeddings),
    Rule("experts", "stacked experts are read by the model's own layout", _read("vllm/lora/model_manager.py"), _experts),
    Rule("base", "A and B are an update of the base as it is", _read(_HELPER), base_as_it_is, mended_by_merge=False),
    Rule("settings", "no further setting changes what the adapter is", _read(_HELPER), plain_settings),
)  # fmt: skip


def _flags(facts: Facts, version: Number) -> tuple[str, ...]:
    step = rank_step(facts.largest_rank, version) or RANK_STEPS[-1]
    flags = ["--enable-lora"]
    if step > DEFAULT_RANK:
        flags.append(f"--max-lora-rank {step}")
    flags.append(f"--lora-modules {facts.name}={facts.folder}")
    if facts.has_template and not facts.template_is_base:
        flags.append(f"--chat-template {facts.folder}/chat_template.jinja")
    if facts.has_generation and facts.foreign_stops:
        flags.append(f"--generation-config {facts.folder}")
    if _has_bias(facts):
        flags.append("--enable-lora-bias")
    if HEADS & set(facts.modules_to_save):
        flags.append("--runner pooling")
    return tuple(flags)


def _commands(facts: Facts, version: Number) -> tuple[str, ...]:
    return (" ".join(["vllm serve", facts.base, *_flags(facts, version)]),)


def _notes(facts: Facts, _: Number) -> tuple[str, ...]:
    notes = [
        f"--lora-modules takes the adapter over any base of fitting shapes; only the plug-in lora_filesystem_resolver compares "
        f"base_model_name_or_path with the served model's name, as a string ({_read('vllm/plugins/lora_resolvers/filesystem_resolver.py')}): "
        "adapterctl pull --base-name NAME"
    ]
    if facts.foreign_stops and not facts.has_generation:
        ids = ", ".join(map(str, facts.foreign_stops))
        notes.append(f"it ends with tokens that the base may not stop at; each request needs stop_token_ids: [{ids}]")
    return tuple(notes)


VLLM = Engine(
    name=NAME,
    oldest=_OLDEST,
    newest=_NEWEST,
    newest_day=_DAY,
    rules=RULES,
    flags=_flags,
    commands=_commands,
    notes=_notes,
    trial=lambda facts: (
        f"vllm serve {facts.base} --enable-lora --max-lora-rank {rank_step(facts.largest_rank, (0, 33)) or 512} "
        f"--lora-modules {facts.name}={facts.folder}, and compare its answers with those of adapterctl eval"
    ),
)
