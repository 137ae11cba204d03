"""What is answered: a verdict, and what each rule found, with the place where the engine says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal, TypeAlias

#: What `adapterctl export --to lora` makes of what a rule speaks against: the same ΔW, one that is cut, or nothing.
PlainLora: TypeAlias = Literal["same", "cut", "no"]


class Verdict(StrEnum):
    """What is said of an adapter and an engine."""

    #: No rule speaks against it.
    YES = "yes"
    #: The engine refuses it, or serves something else than was trained without a word.
    NO = "no"
    #: What is known of the adapter, or of the engine, does not decide it.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Source:
    """Where an engine's rule was read."""

    #: A file of the engine's repository, or an issue in it.
    place: str
    #: The release that was read, or the commit.
    version: str
    #: The day of that release, as "2026-11-02".
    day: str

    def __str__(self) -> str:
        return f"{self.place}, {self.version}, {self.day}"


@dataclass(frozen=True)
class Finding:
    """What one rule found."""

    rule: str
    verdict: Verdict
    #: One sentence without its end.
    reason: str
    source: Source
    #: Whether a merged model is served all the same.
    mended_by_merge: bool = True
    #: Whether a plain LoRA of it is served: the same adapter, one that is cut to a lower rank, or none.
    mended_by_plain: PlainLora = "no"


@dataclass(frozen=True)
class Compatibility:
    """Whether one engine can serve an adapter as it is."""

    #: The version, as `name@v3`, or the folder.
    ref: str
    engine: str
    #: The version that was asked for; None where none was.
    version: str | None
    #: The version whose rules were applied.
    judged_by: str
    #: When the engine's sources were last read.
    tables_day: str
    answer: Verdict
    #: Of each rule, in the order of the engine's table.
    findings: tuple[Finding, ...]
    #: Options that the engine needs for this adapter.
    flags: tuple[str, ...]
    #: What serves it, or may, line by line; nothing where the answer is no.
    commands: tuple[str, ...]
    #: What else should be known, in sentences; nothing of it decides the answer.
    notes: tuple[str, ...]
    #: The one command that makes it fit, where it does not and one does.
    fix: str | None
    #: What to run where the answer is unknown, in a sentence without its end.
    find_out: str | None

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain values: what `adapterctl compat --format json` prints."""
        plain = asdict(self)
        for finding, found in zip(plain["findings"], self.findings, strict=True):
            finding["verdict"] = found.verdict.value
        return {
            **{name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()},
            "answer": self.answer.value,
        }

    @property
    def against(self) -> tuple[Finding, ...]:
        """The findings that are not "yes"."""
        return tuple(finding for finding in self.findings if finding.verdict is not Verdict.YES)
