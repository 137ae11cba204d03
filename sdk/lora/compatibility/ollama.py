"""Ollama's rules for LoRA, from its sources of v0.33.0-rc2. It serves adapters through llama.cpp, whose rules apply too.

A Modelfile's ADAPTER takes a GGUF, or a folder of safetensors that Ollama converts itself. Its conversion permutes the
A of a Llama's q_proj and k_proj, while llama.cpp's permutes B, and it knows only two architectures. So the commands
here make a GGUF.
"""

from __future__ import annotations

import shlex
from dataclasses import replace

from sdk.lora.compatibility import llama_cpp
from sdk.lora.compatibility.answers import Source
from sdk.lora.compatibility.facts import Facts
from sdk.lora.compatibility.rules import Engine, Objection, Rule, Support, unknown
from sdk.lora.compatibility.versions import Number

NAME = "ollama"
_OLDEST, _NEWEST, _DAY = "0.24.0", "0.33.0", "2026-08-21"
_RC = "v0.33.0-rc2"

_SERVED = Support("0.30.0", absent="0.24.0")


def _read(place: str, version: str = _RC, day: str = _DAY) -> Source:
    return Source(place, version, day)


def _served(_: Facts, version: Number) -> Objection | None:
    objection = _SERVED.objection(version, NAME, lacking="")
    return (
        None
        if objection is None
        else unknown("which of its two engines serves the base is not known, and the newer one has no adapters")
    )


def _template(facts: Facts, _: Number) -> Objection | None:
    if facts.has_template and facts.template_is_base is not True:
        return unknown("it brings a chat template in Jinja, and a Modelfile's TEMPLATE is in Go's language")
    return None


#: The rules of llama.cpp's loader and conversion, from the build that was read.
_CONVERTED = tuple(
    replace(rule, judge=lambda facts, _, judge=rule.judge: judge(facts, (11549,)))  # type: ignore[misc]
    for rule in llama_cpp.RULES
)

RULES = (
    Rule("engine", "adapters are given to llama.cpp's server", _read("llm/llama_server.go"), _served),
    *_CONVERTED,
    Rule("template", "the model's own template renders conversations", _read("docs/modelfile.mdx, llm/llama_server.go"), _template),
)  # fmt: skip


def _flags(facts: Facts, _: Number) -> tuple[str, ...]:
    return "FROM ./BASE.gguf", f"ADAPTER ./{facts.name}.gguf"


def _commands(facts: Facts, version: Number) -> tuple[str, ...]:
    base, adapter = _flags(facts, version)
    return (
        llama_cpp.base_converted(facts),
        llama_cpp.converted(facts),
        f"echo {shlex.quote(base)} > Modelfile",
        f"echo {shlex.quote(adapter)} >> Modelfile",
        f"ollama create {facts.name} -f Modelfile && ollama run {facts.name}",
    )


def _notes(facts: Facts, _: Number) -> tuple[str, ...]:
    notes = [
        "FROM takes the base's name in Ollama, too, or its folder; one adapter is taken",
        *llama_cpp.base_notes(facts),
        "ADAPTER with the folder of safetensors is for llama and gemma2 alone, and there the A of q_proj and k_proj is permuted, "
        f"which belongs to B ({_read('convert/convert.go, convert/convert_llama_adapter.go')}): give it the GGUF",
    ]
    if facts.foreign_stops:
        ids = ", ".join(map(str, facts.foreign_stops))
        notes.append(f"it ends with the tokens {ids}, at which the base may not stop; add their text as PARAMETER stop")
    return tuple(notes)


OLLAMA = Engine(
    name=NAME,
    oldest=_OLDEST,
    newest=_NEWEST,
    newest_day=_DAY,
    rules=RULES,
    flags=_flags,
    commands=_commands,
    notes=_notes,
    trial=lambda facts: (
        f"{llama_cpp.converted(facts)}, then ollama create {facts.name} with ADAPTER ./{facts.name}.gguf, and compare "
        "its answers with those of adapterctl eval"
    ),
)
