"""The core: it applies any engine's rules to any adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.lora.compatibility.answers import Compatibility, RuleFinding, RuleSource, Verdict
from sdk.lora.compatibility.checks import CHECKS, Objection
from sdk.lora.compatibility.engines import ENGINES, AllOf, Engine, EngineRelease, Line, Number, Rule, parse
from sdk.lora.compatibility.facts import HEADS, AdapterFacts
from sdk.lora.compatibility.words import named, quoted, unquoted
from sdk.lora.gguf_models import WHOLE_MODELS


class UnknownEngine(ValueError):  # noqa: N818 - the tree of errors reads as words
    """The engine has no table; the message names those that have one."""


def judge(facts: AdapterFacts, engine: str, version: str | None = None) -> Compatibility:
    """Say whether an engine can serve an adapter as it is, by the rules of the last release read that is not newer than
    a given version; None stands for the newest.

    Raises UnknownEngine, UnknownVersion.
    """
    if engine not in ENGINES:
        raise UnknownEngine(f"there is no table of {engine[:80]!a}; give one of {', '.join(ENGINES)}")
    table = ENGINES[engine]
    asked = parse(table.releases[0].version if version is None else version, engine)
    known = next((release for release in table.releases if parse(release.version, engine) <= asked), None)
    release = known or table.releases[-1]
    given = values(facts, table, release)
    findings = tuple(_findings(facts, table, release))
    if known is None:
        findings = (_too_old(table, str(version)), *findings)
    if facts.contradiction is not None:
        findings = (_contradicted(*facts.contradiction), *findings)
    answer = _decide(findings)
    against = [finding for finding in findings if finding.verdict is Verdict.NO]
    served = answer is not Verdict.NO
    pulled = () if facts.is_folder else (f"adapterctl pull {facts.ref} -o {facts.folder}",)
    return Compatibility(
        ref=facts.ref,
        engine=engine,
        version=version,
        judged_by=release.version,
        tables_day=table.releases[0].day,
        answer=answer,
        findings=findings,
        flags=tuple(said(table.flags, given)) if served else (),
        commands=(*pulled, *said(table.commands, given)) if served else (),
        notes=(
            *_not_read(table, known, asked, version),
            *_of_base(facts),
            *_of_training(facts),
            *said(table.notes, given),
            *_cut(facts, against),
            *_left_open(facts, [finding for finding in findings if finding.verdict is not Verdict.YES]),
        ),
        fix=_fix(facts, against),
        find_out=_find_out(table, facts, given) if answer is Verdict.UNKNOWN else None,
    )


def _findings(facts: AdapterFacts, table: Engine, release: EngineRelease) -> Iterator[RuleFinding]:
    given = values(facts, table, release)
    for rule in table.rules:
        if isinstance(rule, AllOf):
            other = ENGINES[rule.all_of]
            yield from _findings(facts, other, other.releases[0])
            continue
        objection = _objection(rule, facts, table, release, given)
        verdict, reason = (Verdict.YES, rule.says) if objection is None else objection
        source = RuleSource(rule.read, release.tag, release.day)
        yield RuleFinding(rule.name, verdict, reason, source, rule.mended_by_merge, rule.mended_by_plain)


def _objection(
    rule: Rule, facts: AdapterFacts, table: Engine, release: EngineRelease, given: Mapping[str, Any]
) -> Objection | None:
    if rule.mended_by_export and facts.architecture in EXPORTED:
        return None
    if any(given[name] for name in rule.refuses) or facts.architecture in rule.refused_architectures:
        return Objection(rule.verdict, rule.reason.format_map(given))
    objection = CHECKS[rule.check](facts, table, release) if rule.check else None
    return objection and objection._replace(reason=f"{objection.reason}{rule.advice}")


def _too_old(table: Engine, version: str) -> RuleFinding:
    oldest = table.releases[-1]
    reason = f"{table.name} {version} is not known here: the table has {_read(table)}"
    return RuleFinding("version", Verdict.UNKNOWN, reason, RuleSource("this table", oldest.tag, oldest.day))


def _read(table: Engine) -> str:
    return " and ".join(release.version for release in table.releases)


def _contradicted(verdict: Verdict, reason: str) -> RuleFinding:
    """Faults of the folder itself, whatever the engine: no merge repairs them."""
    return RuleFinding("weights", verdict, reason, RuleSource(WEIGHTS_FILE, "this folder", "-"), mended_by_merge=False)


def _decide(findings: tuple[RuleFinding, ...]) -> Verdict:
    verdicts = {finding.verdict for finding in findings}
    return next((verdict for verdict in (Verdict.NO, Verdict.UNKNOWN) if verdict in verdicts), Verdict.YES)


def _of_base(facts: AdapterFacts) -> tuple[str, ...]:
    """The placeholder for the base in commands if the base is unknown here."""
    of = f"the base {quoted(facts.base_said)}" if facts.base_said else "its base"
    if facts.base == AdapterFacts.base:
        return (
            f"{AdapterFacts.base} stands for {of}: its folder, or its name on a hub; {AdapterFacts.base_folder} is the folder",
        )
    return (
        (f"{AdapterFacts.base_folder} stands for the folder of {of}",)
        if facts.base_folder == AdapterFacts.base_folder
        else ()
    )


def _of_training(facts: AdapterFacts) -> tuple[str, ...]:
    """What one should know about its training, whichever engine serves it."""
    notes = []
    if facts.quantization:
        notes.append(
            f"it was trained over a base in {facts.quantization}; over weights in another precision its answers are not "
            "those that it was scored by"
        )
    if not facts.has_template and facts.stop_ids is None:
        notes.append(
            "by which chat template it was trained, and where it stops, is not recorded; ask whoever trained it"
        )
    return tuple(notes)


def _not_read(table: Engine, known: EngineRelease | None, asked: Number, version: str | None) -> tuple[str, ...]:
    """Say that the release asked for is not one of those that were read, if rules of another one were applied."""
    if known is None or asked == parse(known.version, table.name):
        return ()
    return (f"{version} was not read, but {_read(table)}: the rules of {known.version} were applied",)


def _find_out(table: Engine, facts: AdapterFacts, given: Mapping[str, Any]) -> str:
    if facts.architecture is None and facts.is_folder:
        return f"adapterctl compat {facts.folder} --base DIR --engine {table.name}, where DIR is the folder of its base"
    return table.trial.format_map(given)


def _fix(facts: AdapterFacts, against: Sequence[RuleFinding]) -> str | None:
    """Return the one command after which the same update is served."""
    if against and _can_be_plain(facts) and all(finding.mended_by_plain == "same" for finding in against):
        return f"{_plain(facts)} -o ./plain"
    if not against or not all(finding.mended_by_merge for finding in against):
        return None
    if facts.is_folder:
        return f"adapterctl push {facts.folder} {facts.name} && adapterctl merge {facts.name} -o ./merged"
    return f"adapterctl merge {facts.ref} -o ./merged"


def _cut(facts: AdapterFacts, against: Sequence[RuleFinding]) -> tuple[str, ...]:
    """What can be served instead if the rank, or having one rank for all modules, is all that stands in the way."""
    kinds = {finding.mended_by_plain for finding in against}
    if "cut" not in kinds or "no" in kinds or not _can_be_plain(facts):
        return ()
    base = f" --base {facts.base_folder}" if facts.is_folder and facts.use_dora else ""
    return (
        f"{_plain(facts)}{base} --rank R -o ./plain makes a plain LoRA of the rank R that is near it, and reports how much of ΔW it keeps; "
        "a merge keeps all of it",
    )


def _left_open(facts: AdapterFacts, doubts: Sequence[RuleFinding]) -> tuple[str, ...]:
    """What to serve instead if the only doubt is whether the engine scales each module correctly."""
    kinds = {(finding.verdict, finding.mended_by_plain) for finding in doubts}
    if kinds != {(Verdict.UNKNOWN, "same")} or not _can_be_plain(facts):
        return ()
    return (
        f"{_plain(facts)} -o ./plain makes the same update with one rank and one α, of which no rule leaves anything open",
    )


def _can_be_plain(facts: AdapterFacts) -> bool:
    """Whether the adapter has nothing besides A and B that a plain LoRA can't hold, by the rules of `sdk.lora.plain_lora`."""
    beside = (
        facts.modules_to_save,
        facts.saved_embeddings,
        facts.bias != "none",
        facts.lora_bias,
        facts.trained_tokens,
        facts.other,
        facts.unusable,
        facts.target_modules is None,
    )
    return not any(beside)


def _plain(facts: AdapterFacts) -> str:
    return f"adapterctl export {facts.folder if facts.is_folder else facts.ref} --to lora"


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


def values(facts: AdapterFacts, engine: Engine, release: EngineRelease) -> dict[str, Any]:
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


def _to_gguf(facts: AdapterFacts) -> str:
    """The command that makes a GGUF of an adapter; it is written to the adapter's folder unless this project exports it."""
    if facts.architecture not in EXPORTED:
        return f"python convert_lora_to_gguf.py --base {facts.base_folder} --outfile {facts.name}.gguf {facts.folder}"
    of = f"{facts.folder} --base {facts.base_folder}" if facts.is_folder else facts.ref
    return f"adapterctl export {of} -o {facts.name}.gguf"
