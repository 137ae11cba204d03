"""The answer: a verdict, and what each rule found, with the place in the engine's sources."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal, TypeAlias

#: What `adapterctl export --to lora` makes of an adapter that a rule objects to: the same ΔW, a cut one, or nothing.
PlainLora: TypeAlias = Literal["same", "cut", "no"]


class Verdict(StrEnum):
    """The verdict on an adapter and an engine."""

    #: No rule objects.
    YES = "yes"
    #: The engine refuses it, or silently serves something else than what was trained.
    NO = "no"
    #: Too little is known about the adapter, or about the engine, to decide.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class RuleSource:
    """Where an engine's rule was read."""

    #: A file of the engine's repository, or an issue in it.
    place: str
    #: The release or commit that was read.
    version: str
    #: The date of that release, as "2026-11-02".
    day: str

    def __str__(self) -> str:
        return f"{self.place}, {self.version}, {self.day}"


@dataclass(frozen=True)
class RuleFinding:
    """What one rule found."""

    rule: str
    verdict: Verdict
    #: One sentence without a full stop.
    reason: str
    source: RuleSource
    #: Whether a merged model can be served nevertheless.
    mended_by_merge: bool = True
    #: Whether a plain LoRA made of it can be served: the same adapter, one cut to a lower rank, or none.
    mended_by_plain: PlainLora = "no"


@dataclass(frozen=True)
class Compatibility:
    """Whether one engine can serve an adapter as it is."""

    #: The version, as `name@v3`, or the folder.
    ref: str
    engine: str
    #: The version that was asked for; None if none was.
    version: str | None
    #: The version whose rules were applied.
    judged_by: str
    #: When the engine's sources were last read.
    tables_day: str
    answer: Verdict
    #: One for each rule, in the order of the engine's table.
    findings: tuple[RuleFinding, ...]
    #: Options that the engine needs for this adapter.
    flags: tuple[str, ...]
    #: The commands that serve it, or may serve it, line by line; empty if the answer is no.
    commands: tuple[str, ...]
    #: What else one should know, in sentences; none of this decides the answer.
    notes: tuple[str, ...]
    #: The command that makes the adapter fit, if it doesn't and there is such a command.
    fix: str | None
    #: What to run if the answer is unknown, in a sentence without a full stop.
    find_out: str | None

    def as_dict(self) -> dict[str, Any]:
        """The whole answer as plain values: what `adapterctl compat --format json` prints."""
        plain = asdict(self)
        for finding, found in zip(plain["findings"], self.findings, strict=True):
            finding["verdict"] = found.verdict.value
        return {
            **{name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()},
            "answer": self.answer.value,
        }

    @property
    def against(self) -> tuple[RuleFinding, ...]:
        """The findings that are not "yes"."""
        return tuple(finding for finding in self.findings if finding.verdict is not Verdict.YES)
