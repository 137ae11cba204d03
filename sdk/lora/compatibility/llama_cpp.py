"""llama.cpp's rules for LoRA, from its sources of builds b8672 and b11549: its converter, and the loader of the result."""

from __future__ import annotations

from dataclasses import replace

from sdk.lora.compatibility.answers import Source
from sdk.lora.compatibility.facts import Facts
from sdk.lora.compatibility.modules import LINEAR_MODULES, LLAMA
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
    one_alpha,
    plain_settings,
    targets,
    unknown,
    unless,
)
from sdk.lora.compatibility.versions import Number
from sdk.lora.gguf_models import WHOLE_MODELS

NAME = "llama.cpp"
_OLDEST, _NEWEST, _DAY = "b8672", "b11549", "2026-10-10"

#: Architectures whose conversion passes each linear weight on unchanged, or permutes its rows, and then those of B as well.
_CONVERTED = """
Gemma2ForCausalLM Gemma3ForCausalLM Gemma3ForConditionalGeneration GemmaForCausalLM LlamaForCausalLM MistralForCausalLM
MixtralForCausalLM Phi3ForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM Qwen3ForCausalLM Qwen3MoeForCausalLM SmolLM3ForCausalLM
"""
#: Architectures whose adapters `adapterctl export` writes, with every module's scale folded into its B.
_EXPORTED = frozenset(
    {
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen3ForCausalLM",
    }
)
#: Architectures whose conversion leaves the output head out.
_WITHOUT_HEAD = frozenset(
    {"Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "GemmaForCausalLM"}
)
#: Models that see images: only their text part is converted and exported. The values are the linear modules of that part.
_TEXT_PARTS = {"Gemma3ForConditionalGeneration": LLAMA}
#: Modules that have the same names in the part for images.
_OF_BOTH_PARTS = frozenset({"q_proj", "k_proj", "v_proj"})
_ARCHITECTURES = dict.fromkeys(_CONVERTED.split(), Support(_OLDEST))
#: Architectures without a registered conversion: a merged model doesn't help either.
_UNCONVERTED = frozenset({"OPTForCausalLM"})
#: Architectures whose weights are stored as (in, out).
_TRANSPOSED = frozenset({"GPT2LMHeadModel"})


def _read(place: str, version: str = _NEWEST, day: str = _DAY) -> Source:
    return Source(place, version, day)


_CONVERTER, _LOADER = "convert_lora_to_gguf.py", "src/llama-adapter.cpp"


def _not_converted(facts: Facts, _: Number) -> Objection | None:
    if facts.architecture in _UNCONVERTED:
        return no(f"{facts.architecture} has no conversion to GGUF")
    return None


def _transposed(facts: Facts, _: Number) -> Objection | None:
    if facts.fan_in_fan_out or facts.architecture in _TRANSPOSED:
        return no("its base keeps weights transposed, and the conversion turns A and B over, which are not")
    return None


def _architecture(facts: Facts, version: Number) -> Objection | None:
    if facts.architecture in _UNCONVERTED | _TRANSPOSED:
        return None
    return architectures(NAME, _ARCHITECTURES, lacking="is not converted")(facts, version)


def _by_tensors(facts: Facts) -> Facts:
    """Facts with the target modules taken from the tensors if they are given by a pattern: only tensors are converted."""
    if facts.target_modules is not None or facts.modules is None:
        return facts
    return replace(facts, target_modules=facts.modules)


def _embeddings(facts: Facts, _: Number) -> Objection | None:
    adapted = _by_tensors(facts).adapted_embeddings
    if not adapted:
        return None
    if facts.tied is None:
        return unknown(f"it adapts {named(adapted)}, and whether the base ties embeddings and head is not known")
    if facts.tied:
        return no(
            f"it adapts {named(adapted)} of a base that ties the two, of which a GGUF has one: the other would be adapted too, or is missing"
        )
    if "lm_head" in adapted and facts.architecture in _WITHOUT_HEAD:
        return no(f"it adapts lm_head, which the conversion of {facts.architecture} leaves out")
    if beside := adapted - {"embed_tokens", "lm_head"}:
        return unknown(f"it adapts {named(beside)}, and the table has embed_tokens and lm_head")
    return None


def _targets(facts: Facts, version: Number) -> Objection | None:
    objection = targets({**LINEAR_MODULES, **_TEXT_PARTS})(_by_tensors(facts), version)
    if objection is not None or facts.architecture not in _TEXT_PARTS or facts.modules is not None:
        return objection
    both = [
        name
        for name in facts.target_modules or ()
        if name.rpartition(".")[2] in _OF_BOTH_PARTS and "language_model" not in name.split(".")
    ]
    return unknown(f"{named(both)} may mean modules of the part for images too") if both else None


def _scales(facts: Facts, version: Number) -> Objection | None:
    return None if facts.architecture in _EXPORTED else one_alpha(facts, version)


def _rslora(facts: Facts, _: Number) -> Objection | None:
    if facts.architecture in _EXPORTED or not facts.use_rslora or (facts.rank == 1 and not facts.other_ranks):
        return None
    return no("it is an rsLoRA, which would be scaled by α/r and be too weak by √r")


RULES = (
    Rule("conversion", "there is a conversion of the base to GGUF", _read("conversion/__init__.py"), _not_converted,
         mended_by_merge=False),
    Rule("architecture", "the conversion of the base passes on what is done to A and B", _read("conversion/*.py"), _architecture),
    Rule("transposed", "the base's linear weights lie as (out, in)", _read("conversion/gpt2.py"), _transposed),
    Rule("rank", "each module's rank is read from its tensors; any will do", _read("src/llama-adapter.h"), lambda *_: None),
    Rule("patterns", "every module has the adapter's α, over its own rank; adapterctl export folds others into B", _read("src/llama-adapter.h"),
         _scales, mended_by_plain="same"),
    Rule("rslora", "the scale is α/r; rsLoRA is not read, and adapterctl export folds it into B",
         _read("convert_lora_to_gguf.py, src/llama-adapter.h"), _rslora, mended_by_plain="same"),
    Rule("dora", "a tensor that is neither A nor B, such as DoRA's magnitude, ends the conversion", _read(_CONVERTER),
         unless(lambda facts: facts.use_dora, "it is a DoRA, whose magnitudes end the conversion"), mended_by_plain="cut"),
    Rule("bias", "biases end the conversion", _read(_CONVERTER),
         unless(lambda facts: facts.bias != "none" or facts.lora_bias, "it trains biases, which end the conversion")),
    Rule("saved modules", "modules_to_save end the conversion", _read(_CONVERTER),
         unless(lambda facts: facts.modules_to_save, "it has modules_to_save, which end the conversion")),
    Rule("tokens", "trained tokens end the conversion", _read(_CONVERTER),
         unless(lambda facts: facts.trained_tokens, "it trains single tokens, whose rows end the conversion")),
    Rule("vocabulary", "embeddings of added tokens end the conversion", _read(_CONVERTER), no_whole_embeddings),
    Rule("targets", "the target modules are ones that the conversion has a name for", _read("conversion/*.py"), _targets),
    Rule("embeddings", "embeddings and the head are adapted where the base does not tie them", _read("src/llama-adapter.cpp, src/llama-graph.cpp"),
         _embeddings),
    Rule("experts", "stacked experts have no name in the conversion as PEFT writes them", _read(_CONVERTER),
         unless(lambda facts: facts.target_parameters, "it adapts stacked experts, for whose names in PEFT's files the conversion has none")),
    Rule("base", "A and B are an update of the base as it is", _read(_CONVERTER), base_as_it_is, mended_by_merge=False),
    Rule("settings", "no further setting changes what the adapter is", _read(_CONVERTER), plain_settings),
)  # fmt: skip


def converted(facts: Facts) -> str:
    """Return the command that makes a GGUF of an adapter; it is written to the adapter's folder unless this project
    exports it.
    """
    if facts.architecture not in _EXPORTED:
        return f"python convert_lora_to_gguf.py --base {facts.base_folder} --outfile {facts.name}.gguf {facts.folder}"
    of = f"{facts.folder} --base {facts.base_folder}" if facts.is_folder else facts.ref
    return f"adapterctl export {of} -o {facts.name}.gguf"


def base_converted(facts: Facts) -> str:
    """Return the command that makes BASE.gguf of the base."""
    if facts.architecture in WHOLE_MODELS:
        return f"adapterctl export {facts.base_folder} -o BASE.gguf"
    return _by_llama_cpp(facts)


def base_notes(facts: Facts) -> tuple[str, ...]:
    """Say what makes BASE.gguf if this project's export refuses the base."""
    if facts.architecture not in WHOLE_MODELS:
        return ()
    return (f"where adapterctl export does not know the base's tokenizer, BASE.gguf is made by {_by_llama_cpp(facts)}",)


def _by_llama_cpp(facts: Facts) -> str:
    return f"python convert_hf_to_gguf.py {facts.base_folder} --outfile BASE.gguf"


def _flags(facts: Facts, _: Number) -> tuple[str, ...]:
    flags = [f"--lora {facts.name}.gguf"]
    if facts.has_template and not facts.template_is_base:
        flags += ["--jinja", f"--chat-template-file {facts.folder}/chat_template.jinja"]
    return tuple(flags)


def _commands(facts: Facts, version: Number) -> tuple[str, ...]:
    return base_converted(facts), converted(facts), " ".join(["llama-server -m BASE.gguf", *_flags(facts, version)])


def _notes(facts: Facts, _: Number) -> tuple[str, ...]:
    notes = [*base_notes(facts)]
    if facts.foreign_stops:
        ids = ", ".join(map(str, facts.foreign_stops))
        notes.append(
            f"it ends with the tokens {ids}, at which the base may not stop; each request needs their text as stop"
        )
    return tuple(notes)


LLAMA_CPP = Engine(
    name=NAME,
    oldest=_OLDEST,
    newest=_NEWEST,
    newest_day=_DAY,
    rules=RULES,
    flags=_flags,
    commands=_commands,
    notes=_notes,
    trial=lambda facts: f"{converted(facts)}, then compare the answers of llama-server with those of adapterctl eval",
)
