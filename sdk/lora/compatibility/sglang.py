"""SGLang's rules for LoRA, from its sources of 0.5.1 to 0.5.23."""

from __future__ import annotations

from sdk.lora.compatibility.answers import Source
from sdk.lora.compatibility.facts import Facts
from sdk.lora.compatibility.modules import ATTENTION, LINEAR_MODULES, LLAMA
from sdk.lora.compatibility.rules import (
    Engine,
    Objection,
    Rule,
    Support,
    architectures,
    base_as_it_is,
    named,
    no,
    one_scale,
    plain_settings,
    same_vocabulary,
    targets,
    unknown,
    unless,
)
from sdk.lora.compatibility.versions import Number

NAME = "sglang"
_OLDEST, _NEWEST, _DAY = "0.5.1", "0.5.23", "2026-10-30"

#: Architectures whose modules have the names and shapes that SGLang makes buffers for.
_LIKE_LLAMA = """
Gemma2ForCausalLM Gemma3ForCausalLM GemmaForCausalLM GraniteForCausalLM LlamaForCausalLM MistralForCausalLM Olmo2ForCausalLM
Qwen2ForCausalLM Qwen3ForCausalLM Phi3ForCausalLM MixtralForCausalLM Qwen2MoeForCausalLM Qwen3MoeForCausalLM
"""
#: Architectures whose linear modules have names that SGLang makes no buffers for.
_OTHERWISE = "GPT2LMHeadModel BertForSequenceClassification GPTBigCodeForCausalLM"
_ARCHITECTURES = {
    **dict.fromkeys(_LIKE_LLAMA.split(), Support(_OLDEST)),
    **dict.fromkeys(_OTHERWISE.split(), Support(None, absent=_NEWEST)),
}
_EMBEDDINGS = Support("0.5.10", absent="0.5.6")


def _read(place: str, version: str = _NEWEST, day: str = _DAY) -> Source:
    return Source(f"python/sglang/srt/lora/{place}", version, day)


def _together(facts: Facts, _: Number) -> Objection | None:
    """Object if only a part of what SGLang joins is adapted: it assumes q always, and v if there is q or k."""
    places: dict[str, set[str]] = {}
    for name in facts.target_modules or ():
        place, _dot, last = name.rpartition(".")
        places.setdefault(place, set()).add(last)
    for names in places.values():
        attention = names & (ATTENTION - {"o_proj"})
        if attention and not {"q_proj", "v_proj"} <= names:
            return no(f"it adapts {named(attention)} alone, and q_proj and v_proj are taken for granted")
        if "up_proj" in names and "gate_proj" not in names:
            return no("it adapts up_proj without gate_proj, with which it is joined")
    if facts.excludes and facts.last_names & (LLAMA - {"o_proj", "down_proj"}):
        return unknown("exclude_modules leaves some modules alone, and which are left together is not looked at")
    return None


def _embeddings(facts: Facts, version: Number) -> Objection | None:
    if not facts.adapted_embeddings:
        return None
    beside = facts.adapted_embeddings - {"embed_tokens", "lm_head"}
    if beside:
        return unknown(f"it adapts {named(beside)}, and the table has embed_tokens and lm_head")
    return _EMBEDDINGS.objection(
        version, NAME, lacking=f"it adapts {named(facts.adapted_embeddings)}, which are not read"
    )


RULES = (
    Rule("architecture", "the base's modules have names and shapes that buffers are made for", _read("utils.py"),
         architectures(NAME, _ARCHITECTURES, lacking="has modules that no buffer is made for")),
    Rule("rank", "--max-lora-rank is at least r; any number will do", _read("mem_pool.py"), lambda *_: None),
    Rule("patterns", "every module has the adapter's r, and α/r as its scale", _read("lora.py"), one_scale, mended_by_plain="same"),
    Rule("rslora", "use_rslora is not read: the scale is α/r, and not α/√r",
         _read("lora.py"),
         unless(lambda facts: facts.use_rslora and facts.rank > 1, "it is an rsLoRA, which would be scaled by α/r and be too weak by √r"),
         mended_by_plain="same"),
    Rule("dora", "DoRA is refused", _read("lora_manager.py"),
         unless(lambda facts: facts.use_dora, "it is a DoRA, which is refused"), since="0.5.16", mended_by_plain="cut"),
    Rule("dora", "use_dora is not read: a DoRA is served without its magnitudes", _read("lora_manager.py", "0.5.10", "2026-04-05"),
         unless(lambda facts: facts.use_dora, "it is a DoRA, which would be served without its magnitudes"), before="0.5.16",
         mended_by_plain="cut"),
    Rule("bias", "biases are not read", _read("lora.py"),
         unless(lambda facts: facts.bias != "none" or facts.lora_bias, "it trains biases, which are not read")),
    Rule("saved modules", "modules_to_save is not read", _read("lora.py"),
         unless(lambda facts: facts.modules_to_save, "it has modules_to_save, which are left out without a word")),
    Rule("tokens", "trained tokens are not read", _read("lora.py"),
         unless(lambda facts: facts.trained_tokens, "it trains single tokens, which are left out without a word")),
    Rule("vocabulary", "an adapter that adds tokens is refused", _read("lora_manager.py"), same_vocabulary),
    Rule("targets", "target_modules is a list of names that the base has", _read("lora_manager.py"), targets(LINEAR_MODULES)),
    Rule("joined modules", "q_proj comes with v_proj, and up_proj with gate_proj", _read("lora.py"), _together),
    Rule("embeddings", "embed_tokens and lm_head are adapted where they are target modules", _read("lora.py"), _embeddings),
    Rule("experts", "stacked experts are read as engines name them, and not as PEFT does", _read("mem_pool.py"),
         unless(lambda facts: facts.target_parameters, "it adapts stacked experts, whose names in PEFT's files match no target module")),
    Rule("base", "A and B are an update of the base as it is", _read("lora.py"), base_as_it_is, mended_by_merge=False),
    Rule("settings", "no further setting changes what the adapter is", _read("lora_config.py"), plain_settings),
)  # fmt: skip


def _flags(facts: Facts, _: Number) -> tuple[str, ...]:
    flags = [
        "--enable-lora",
        f"--lora-paths {facts.name}={facts.folder}",
        f"--max-lora-rank {facts.largest_rank}",
    ]
    if facts.target_modules:
        flags.append(f"--lora-target-modules {' '.join(sorted(facts.last_names))}")
    if facts.has_template and not facts.template_is_base:
        flags.append(f"--chat-template {facts.folder}/chat_template.jinja")
    return tuple(flags)


def _commands(facts: Facts, version: Number) -> tuple[str, ...]:
    return (" ".join([f"python -m sglang.launch_server --model-path {facts.base}", *_flags(facts, version)]),)


def _notes(facts: Facts, _: Number) -> tuple[str, ...]:
    if not facts.foreign_stops:
        return ()
    ids = ", ".join(map(str, facts.foreign_stops))
    return (f"it ends with tokens that the base may not stop at; each request needs stop_token_ids: [{ids}]",)


SGLANG = Engine(
    name=NAME,
    oldest=_OLDEST,
    newest=_NEWEST,
    newest_day=_DAY,
    rules=RULES,
    flags=_flags,
    commands=_commands,
    notes=_notes,
    trial=lambda facts: (
        f"python -m sglang.launch_server --model-path {facts.base} --lora-paths {facts.name}={facts.folder}, "
        "read its log for skipped weights, and compare its answers with those of adapterctl eval"
    ),
)
