"""What a tenant was answered in a run, so that two runs can be compared: ids, times and places mapped, nothing else lost."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

#: Fields that may differ between two runs of which nobody disturbed the other, and why. Also left out is the number that an
#: entry of the audit trail has: all namespaces share one count.
LEFT_OUT = {
    "url": "a presigned location holds a signature and a time",
    "secret": "it is random",
    "progress": "how often a worker says how far it is depends on how long things take",
    "ahead": "the place in a queue that all namespaces share",
    "waits": "the place in a queue that all namespaces share",
    "seq": "events about progress are counted too",
    "free_memory_bytes": "it is this machine's",
    "lease_s": "what is left of a lease, where a claim is sent again",
}

#: Lists whose order says nothing: a graph's nodes and edges, which come by random ids where nothing else tells them apart.
UNORDERED = ("nodes", "edges")

_TIME = re.compile(r"\b\d{4}-\d\d-\d\d(T| )\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d| UTC)?")
_SECONDS = re.compile(r"\b\d+(\.\d+)? s\b")
#: A worker's memory, and the place of a job in its queue, as pages have them.
_SIZE, _PLACE = re.compile(r"\b\d+(\.\d)? [KMGT]?i?B\b"), re.compile(r"^#\d+$")
_HEX = re.compile(r"(?<![0-9a-zA-Z_])[0-9a-f]{12,64}(?![0-9a-zA-Z_])")


class Transcript:
    """Answers in the order in which they came, each with what was asked."""

    def __init__(self, known: Set[str], named: Callable[[str], str | None]) -> None:
        #: What has the same bytes in every run; all other digits of such length are ids.
        self._known = known
        #: What an id is called in every run, where whoever plays the history knows it.
        self._named = named
        self.answers: list[tuple[str, Any]] = []

    def add(self, asked: str, answer: Any) -> None:
        """Write an answer down."""
        self.answers.append((asked, self._mapped(answer, {})))

    def add_page(self, path: str, texts: list[str]) -> None:
        """Write down what a page says; ids in its address are mapped as those in it, and so are sizes and places in queues."""
        others: dict[str, str] = {}
        shown = [_PLACE.sub("<place>", _SIZE.sub("<size>", text)) for text in texts]
        self.answers.append((f"the page {self._text(path, others)}", self._mapped(shown, others)))

    def _mapped(self, value: Any, others: dict[str, str]) -> Any:
        if isinstance(value, dict):
            mapped = {
                self._text(key, others): self._mapped(inner, others)
                for key, inner in value.items()
                if key not in LEFT_OUT and not (key == "id" and isinstance(inner, int))
            }
            for key in UNORDERED:
                if isinstance(mapped.get(key), list):
                    mapped[key].sort(key=lambda one: json.dumps(one, sort_keys=True))
            return mapped
        if isinstance(value, list):
            return [self._mapped(inner, others) for inner in value]
        return self._text(value, others) if isinstance(value, str) else value

    def _text(self, text: str, others: dict[str, str]) -> str:
        text = _SECONDS.sub("<seconds>", _TIME.sub("<time>", text))
        return _HEX.sub(lambda match: self._id(match[0], others), text)

    def _id(self, digits: str, others: dict[str, str]) -> str:
        """What stands for an id: its name, or which of the unknown ones of this answer it is."""
        if len(digits) not in (12, 16, 32) or any(known.startswith(digits) for known in self._known):
            # A digest of something that was made in a run depends on bytes alone, or should.
            return digits
        named = self._named(digits)
        return f"<{named}>" if named is not None else others.setdefault(digits, f"<id {len(others) + 1}>")


@dataclass(frozen=True)
class Difference:
    """Where two runs part."""

    asked: str
    alone: Any
    beside: Any

    def __str__(self) -> str:
        lines = [json.dumps(side, indent=1, sort_keys=True).splitlines() for side in (self.alone, self.beside)]
        shown = difflib.unified_diff(*lines, "alone", "beside another tenant", lineterm="", n=1)
        return "\n".join([self.asked, *(f"    {line}" for line in list(shown)[:60])])


def differences(alone: Transcript, beside: Transcript) -> Iterator[Difference]:
    """What was answered otherwise, in the order in which it was asked."""
    one, two = dict(alone.answers), dict(beside.answers)
    for asked in {**one, **two}:
        if one.get(asked) != two.get(asked):
            yield Difference(asked, one.get(asked), two.get(asked))
