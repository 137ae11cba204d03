"""PEFT's rules for its own adapters: each setting was added in some release, and older releases don't read it."""

from __future__ import annotations

from collections.abc import Callable

from sdk.lora.compatibility.answers import Source
from sdk.lora.compatibility.facts import HEADS, Facts
from sdk.lora.compatibility.rules import Engine, Objection, Rule, no, same_vocabulary, unknown
from sdk.lora.compatibility.versions import Number
from sdk.lora.compatibility.words import unquoted

NAME = "peft"
_OLDEST, _NEWEST, _DAY = "0.8.0", "0.21.2", "2026-10-01"

_CONFIG = "src/peft/tuners/lora/config.py"


def _came(name: str, version: str, day: str, has: Callable[[Facts], object]) -> Rule:
    """The rule that a setting is read since some version."""
    return Rule(
        name,
        f"{name} is read from {version} on",
        Source(_CONFIG, version, day),
        lambda facts, _: no(f"it has {name}, which came with PEFT {version}") if has(facts) else None,
        before=version,
    )


def _quantized_experts(facts: Facts, _: Number) -> Objection | None:
    if facts.target_parameters and facts.quantization:
        return unknown(
            f"it adapts stacked experts over a base in {facts.quantization}; over experts in 4 bits PEFT gives other answers each time"
        )
    return None


def _vocabulary(facts: Facts, version: Number) -> Objection | None:
    objection = same_vocabulary(facts, version)
    return objection and objection._replace(
        reason=f"{objection.reason}; call resize_token_embeddings on the base first"
    )


RULES = (
    Rule("lora", "an adapter of LoRA is loaded over its base", Source("src/peft/peft_model.py", _NEWEST, _DAY), lambda *_: None),
    _came("use_dora", "0.9.0", "2024-02-28", lambda facts: facts.use_dora),
    _came("lora_bias", "0.14.0", "2024-12-06", lambda facts: facts.lora_bias),
    _came("trainable_token_indices", "0.15.0", "2025-03-19", lambda facts: facts.trained_tokens),
    _came("use_qalora", "0.16.0", "2025-07-03", lambda facts: "use_qalora" in facts.other),
    _came("target_parameters", "0.17.0", "2025-08-01", lambda facts: facts.target_parameters),
    _came("ensure_weight_tying", "0.18.0", "2025-11-13", lambda facts: "ensure_weight_tying" in facts.other),
    Rule("vocabulary", "embeddings are of the base's number of tokens", Source("src/peft/utils/save_and_load.py", _NEWEST, _DAY), _vocabulary,
         mended_by_merge=False),
    Rule("quantised experts", "stacked experts are adapted over weights in 16 or 32 bits",
         Source("seen: two equal forward passes differ", "0.21.0", "2026-11-27"), _quantized_experts),
)  # fmt: skip


def _commands(facts: Facts, _: Number) -> tuple[str, ...]:
    kind = "AutoModelForSequenceClassification" if HEADS & set(facts.modules_to_save) else "AutoModelForCausalLM"
    base, folder = unquoted(facts.base), unquoted(facts.folder)
    return (f"PeftModel.from_pretrained({kind}.from_pretrained({base!a}), {folder!a})",)


def _notes(facts: Facts, _: Number) -> tuple[str, ...]:
    notes = []
    if facts.unusable:
        notes.append(f"{facts.unusable}; PEFT changes a fresh base as it loads it, and that base is no other adapter's")
    if facts.foreign_stops:
        notes.append(f"generate with eos_token_id={list(facts.stop_ids or ())}, the tokens that it ends with")
    return tuple(notes)


PEFT = Engine(
    name=NAME,
    oldest=_OLDEST,
    newest=_NEWEST,
    newest_day=_DAY,
    rules=RULES,
    flags=lambda *_: (),
    commands=_commands,
    notes=_notes,
    trial=lambda facts: _commands(facts, (0, 21, 2))[0],
)
