"""The engines that have a table: each is a TOML file beside this module, which is read here.

>>> ENGINES["vllm"].releases[0].version, ENGINES["vllm"].rules[0].says
('0.33.0', "the model's class supports LoRA")
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, TypeAlias

from sdk.lora.compatibility.answers import PlainLora, Verdict

#: Numbers that can be compared; a release candidate and a post-release count as their release.
Number: TypeAlias = tuple[int, ...]

_RELEASE = re.compile(
    r"v?(\d{1,5}(?:\.\d{1,5}){1,3})(?:[.-]?(?:rc|a|b|alpha|beta|post|dev)\.?\d{1,5})?(?:\+[a-z0-9.]{1,40})?",
    re.ASCII,
)
_BUILD = re.compile(r"b?(\d{3,6})", re.ASCII)
_PARTS = 3


class UnknownVersion(ValueError):  # noqa: N818 - the tree of errors reads as words
    """Not a version of an engine; the message shows what one looks like."""


def parse(text: str, engine: str) -> Number:
    """Return the number of a version of an engine, written in the engine's own way. Raises UnknownVersion if the text
    isn't one.

    >>> parse("v0.33.0-rc2", "ollama"), parse("0.8.5.post1", "vllm"), parse("b11549", "llama.cpp")
    ((0, 33, 0), (0, 8, 5), (11549,))
    """
    if engine == "llama.cpp":
        if found := _BUILD.fullmatch(text):
            return (int(found[1]),)
        raise UnknownVersion(f"{text[:80]!a} is not a version of llama.cpp; give the number of a build, as b11549")
    if found := _RELEASE.fullmatch(text):
        return tuple((*map(int, found[1].split(".")), 0, 0)[: max(_PARTS, found[1].count(".") + 1)])
    raise UnknownVersion(f"{text[:80]!a} is not a version of {engine}; give one as 0.33.0")


@dataclass(frozen=True)
class EngineRelease:
    """A release of an engine whose sources were read."""

    version: str
    #: The tag of its repository at which the files lie that the rules name.
    tag: str
    #: When it was released, as "2026-11-02".
    day: str
    #: Architectures that this release doesn't serve with adapters, and the newest does.
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A text in which `{NAME}` stands for a value of `phrases.values`."""

    text: str
    #: The value that must not be empty for this line to be said; None: it always is.
    when: str | None = None


@dataclass(frozen=True)
class Rule:
    """One rule of an engine. A rule that neither refuses nor checks states what the engine does."""

    name: str
    #: The rule in one sentence without a full stop, as in the documentation's table.
    says: str
    #: The files of the engine's repository that state it.
    read: str
    #: The values of `phrases.values` of which none may be there.
    refuses: tuple[str, ...] = ()
    refused_architectures: tuple[str, ...] = ()
    #: The verdict and the reason if one of them is there.
    verdict: Verdict = Verdict.NO
    reason: str = ""
    #: A function of `checks.CHECKS` that is asked too.
    check: str | None = None
    #: Follows the reason that the check gives.
    advice: str = ""
    #: Whether `adapterctl export` mends it, for the architectures that it writes.
    mended_by_export: bool = False
    mended_by_merge: bool = True
    mended_by_plain: PlainLora = "no"


@dataclass(frozen=True)
class AllOf:
    """Stands for all rules of another engine, as of its newest release."""

    all_of: str


@dataclass(frozen=True)
class Engine:
    """An inference engine: its rules, and how it is started."""

    name: str
    #: The newest release, and the one read before it.
    releases: tuple[EngineRelease, ...]
    rules: tuple[Rule | AllOf, ...]
    flags: tuple[Line, ...]
    commands: tuple[Line, ...]
    notes: tuple[Line, ...]
    #: How to find out whether an adapter that these tables can't judge is served.
    trial: str
    #: Architectures whose bases it serves with adapters, and those that it doesn't; any other is unknown.
    architectures: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    #: What those that it doesn't serve lack, as a clause after their name.
    lacking: str = ""
    #: An architecture's embeddings and heads that may be adapted.
    embeddings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: The ranks that its option for the largest one takes, and its default; empty if it takes any.
    rank_steps: tuple[int, ...] = ()
    default_rank: int = 0


def _engine(table: dict[str, Any]) -> Engine:
    lines: dict[str, Any] = {
        name: tuple(Line(**line) for line in table.pop(name)) for name in ("flags", "commands", "notes")
    }
    return Engine(
        releases=tuple(EngineRelease(**_frozen(one)) for one in table.pop("releases")),
        rules=tuple(_rule(_frozen(one)) for one in table.pop("rules")),
        embeddings=_frozen(table.pop("embeddings", {})),
        **lines,
        **_frozen(table),
    )


def _rule(table: dict[str, Any]) -> Rule | AllOf:
    return AllOf(**table) if "all_of" in table else Rule(**{**table, "verdict": Verdict(table.get("verdict", "no"))})


def _frozen(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


def _read(name: str) -> Engine:
    return _engine(tomllib.loads(files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")))


ENGINES: Mapping[str, Engine] = {
    engine.name: engine for engine in map(_read, ("vllm", "sglang", "llama_cpp", "ollama", "peft"))
}
