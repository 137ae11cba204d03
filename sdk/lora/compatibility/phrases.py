"""The values that stand in the lines and reasons of an engine's table, and that its conditions are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sdk.lora.compatibility.engines import Engine, Line, Release
from sdk.lora.compatibility.facts import HEADS, Facts
from sdk.lora.compatibility.words import named, unquoted
from sdk.lora.gguf_models import WHOLE_MODELS

#: Architectures whose adapters `adapterctl export` writes, with every module's scale folded into its B.
EXPORTED = frozenset(
    {
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen3ForCausalLM",
    }
)


def values(facts: Facts, engine: Engine, release: Release) -> dict[str, Any]:
    """Return what lines and conditions can name: the facts, what follows from them, and the engine's flags."""
    step = next((step for step in engine.rank_steps if step >= facts.largest_rank), max(engine.rank_steps, default=0))
    head = bool(HEADS & set(facts.modules_to_save))
    found = {
        **vars(facts),
        "tag": release.tag,
        "day": release.day,
        "largest_rank": facts.largest_rank,
        "last_names": " ".join(sorted(facts.last_names)),
        "other": named(facts.other),
        "target_parameters": named(facts.target_parameters),
        "trained_bias": facts.bias != "none",
        "quantised_experts": bool(facts.target_parameters and facts.quantization),
        # α/r and α/√r are the same for the rank 1.
        "scaled_by_root": facts.use_rslora and (facts.rank > 1 or bool(facts.other_ranks)),
        "own_template": bool(facts.has_template and not facts.template_is_base),
        "head": head,
        "auto_class": "AutoModelForSequenceClassification" if head else "AutoModelForCausalLM",
        "stops": ", ".join(map(str, facts.foreign_stops)),
        "stops_given": bool(facts.has_generation and facts.foreign_stops),
        "stops_missing": bool(facts.foreign_stops and not facts.has_generation),
        "all_stops": list(facts.stop_ids or ()),
        "step": step,
        "step_above_default": step > engine.default_rank,
        "base_literal": ascii(unquoted(facts.base)),
        "folder_literal": ascii(unquoted(facts.folder)),
        "base_exported": facts.architecture in WHOLE_MODELS,
        "base_by_llama_cpp": f"python convert_hf_to_gguf.py {facts.base_folder} --outfile BASE.gguf",
        "to_gguf": _to_gguf(facts),
    }
    exported = f"adapterctl export {facts.base_folder} -o BASE.gguf"
    found["base_to_gguf"] = exported if found["base_exported"] else found["base_by_llama_cpp"]
    return {**found, "flags": " ".join(said(engine.flags, found))}


def said(lines: Iterable[Line], given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines whose conditions hold, with the values in them."""
    return (line.text.format_map(given) for line in lines if line.when is None or given[line.when])


def _to_gguf(facts: Facts) -> str:
    """The command that makes a GGUF of an adapter; it is written to the adapter's folder unless this project exports it."""
    if facts.architecture not in EXPORTED:
        return f"python convert_lora_to_gguf.py --base {facts.base_folder} --outfile {facts.name}.gguf {facts.folder}"
    of = f"{facts.folder} --base {facts.base_folder}" if facts.is_folder else facts.ref
    return f"adapterctl export {of} -o {facts.name}.gguf"
