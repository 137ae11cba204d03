"""What the engines' tables are made of: a rule, and the checks that several engines share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sdk.lora.compatibility.answers import PlainLora, Source, Verdict
from sdk.lora.compatibility.facts import EMBEDDINGS, Facts
from sdk.lora.compatibility.versions import Number, parse


class Objection(NamedTuple):
    """An objection to an adapter."""

    verdict: Verdict
    #: One sentence without a full stop.
    reason: str


#: What a rule finds about an adapter under a version of its engine; None: no objection.
Judge = Callable[[Facts, Number], Objection | None]


@dataclass(frozen=True)
class Rule:
    """One rule of an engine, in the versions from `since` to before `before`."""

    name: str
    #: The rule in one sentence without a full stop, as in the documentation's table.
    says: str
    source: Source
    judge: Judge
    since: str | None = None
    before: str | None = None
    mended_by_merge: bool = True
    mended_by_plain: PlainLora = "no"


@dataclass(frozen=True)
class Engine:
    """An inference engine: its rules, and how it is started."""

    name: str
    #: The first and the last version whose sources were read, and when the last one was released.
    oldest: str
    newest: str
    newest_day: str
    rules: tuple[Rule, ...]
    flags: Callable[[Facts, Number], tuple[str, ...]]
    commands: Callable[[Facts, Number], tuple[str, ...]]
    notes: Callable[[Facts, Number], tuple[str, ...]]
    #: How to find out whether an adapter that these tables can't judge is served.
    trial: Callable[[Facts], str]


def no(reason: str) -> Objection:
    """Return an objection that makes the answer "no"."""
    return Objection(Verdict.NO, reason)


def unknown(reason: str) -> Objection:
    """Return an objection that leaves the answer open."""
    return Objection(Verdict.UNKNOWN, reason)


def unless(has: Callable[[Facts], object], reason: str) -> Judge:
    """Refuse an adapter that has something."""
    return lambda facts, _: no(reason) if has(facts) else None


def one_scale(facts: Facts, _: Number) -> Objection | None:
    """Object to an adapter whose modules have scales of their own: the engine uses one α/r for the whole adapter."""
    if facts.other_ranks and facts.other_alphas:
        return unknown(
            "rank_pattern and alpha_pattern differ by module, and whether each module's α/r is the adapter's is not looked at"
        )
    patterns: dict[str, Mapping[str, object]] = {"rank_pattern": facts.other_ranks, "alpha_pattern": facts.other_alphas}
    for name, found in patterns.items():
        if found:
            return no(
                f"{name} gives {named(found)} a scale of its own, and every module gets {facts.alpha:g}/{facts.rank}"
            )
    return None


def one_alpha(facts: Facts, _: Number) -> Objection | None:
    """Object to an adapter whose modules have different alphas: the engine uses each module's rank, but one α."""
    if facts.other_alphas:
        return no(f"alpha_pattern gives {named(facts.other_alphas)} another α, and every module gets {facts.alpha:g}")
    return None


def base_as_it_is(facts: Facts, _: Number) -> Objection | None:
    """Object to an adapter that isn't an update of the base as it is."""
    return no(facts.unusable) if facts.unusable else None


def same_vocabulary(facts: Facts, _: Number) -> Objection | None:
    """Object to an adapter with embeddings for another number of tokens."""
    if facts.vocabulary_changed is None:
        return unknown("whether it holds embeddings of another number of tokens than the base is not known")
    return no("it holds embeddings of another number of tokens than the base") if facts.vocabulary_changed else None


def no_whole_embeddings(facts: Facts, version: Number) -> Objection | None:
    """Object to an adapter with whole embeddings, for any number of tokens."""
    if facts.saved_embeddings and not facts.vocabulary_changed:
        return no(
            "it holds the base's embeddings whole; save it again with save_embedding_layers=False where they were not trained"
        )
    return same_vocabulary(facts, version)


def plain_settings(facts: Facts, _: Number) -> Objection | None:
    """Object to settings of PEFT that the engine does not read."""
    return no(f"{named(facts.other)} changes what an adapter is, and is not read") if facts.other else None


@dataclass(frozen=True)
class Support:
    """Since which version something has existed, among the versions that were read."""

    #: The first of the versions read that has it; None: none has.
    since: str | None
    #: The last of the versions read that doesn't have it; None: all have.
    absent: str | None = None

    def objection(self, version: Number, engine: str, *, lacking: str) -> Objection | None:
        """Object if a version doesn't have it, or is between one that doesn't and one that does."""
        if self.since is not None and version >= parse(self.since, engine):
            return None
        if self.absent is not None and version <= parse(self.absent, engine):
            since = "" if self.since is None else f"; {engine} {self.since} does"
            return no(f"{lacking}{since}")
        if self.absent is None:
            return unknown(f"{engine} {self.since} is the first that was read, and it has this")
        return unknown(
            f"{engine} {self.since} is the first that was read, and between {self.absent} and it nobody looked"
        )


def architectures(engine: str, known: Mapping[str, Support], *, lacking: str) -> Judge:
    """Object to a base that the engine adapts in no version, or not in this one, or that the table lacks."""

    def judge(facts: Facts, version: Number) -> Objection | None:
        name = facts.architecture
        if not name:
            return unknown("the base's architecture is not known")
        if name not in known:
            return unknown(f"{name} is not in the table")
        return known[name].objection(version, engine, lacking=f"{name} {lacking}")

    return judge


def targets(known: Mapping[str, Iterable[str]]) -> Judge:
    """Leave the answer open if the table lacks some of a base's modules; embeddings have a rule of their own."""

    def judge(facts: Facts, _: Number) -> Objection | None:
        if facts.target_modules is None:
            return unknown("target_modules is a pattern, which is not resolved here")
        beside = sorted(facts.last_names - EMBEDDINGS - set(known.get(facts.architecture or "", ())))
        if beside:
            return unknown(f"the table does not have {named(beside)} of {facts.architecture or 'this base'}")
        part = next(filter(is_of_image_or_sound, facts.modules or facts.target_modules), None)
        return unknown(f"{part} is of an image's or a sound's part") if part else None

    return judge


def is_of_image_or_sound(name: str) -> bool:
    """Whether a module's name says that it isn't in the text part."""
    return any(word in part for part in name.split(".") for word in ("vision", "visual", "audio", "projector"))


def named(names: Iterable[object], most: int = 3) -> str:
    """Return the first few names, and how many more there are."""
    listed: Sequence[str] = sorted(map(str, names))
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
