"""What is offered for an argument of some sorts, by what is typed of it, and of the arguments before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from click.shell_completion import CompletionItem

from sdk.cli.completing.sources import WantedNames, find
from sdk.config import Config, load

#: After this the shell writes no space: it may be the end, or go on.
OPEN = "open"
_NUMBER = re.compile(r"v([1-9][0-9]*)")
_MOST_ASKED = 100
_SWEEP = "sweep:"


class _Asked:
    """One question: what is typed, what was before it, and the registry that is asked."""

    def __init__(self, before: Mapping[str, Any], typed: str, config: Config) -> None:
        self.before, self.typed, self._config = before, typed, config

    def find(self, sort: str, begins: str, path: str, **params: str) -> list[str]:
        return find(WantedNames(sort, begins, path, {"limit": _MOST_ASKED, **params}), self._config)

    def selectors(self, adapter: str) -> list[str]:
        """Aliases of an adapter, then its versions, the newest first."""
        prefix = f"{adapter}@"
        refs = self.find("ref", prefix, "/versions", adapter=adapter)
        return sorted({ref.removeprefix(prefix) for ref in refs}, key=_rank)


def _rank(selector: str) -> tuple[int, str]:
    number = _NUMBER.fullmatch(selector)
    return (0, selector) if number is None else (10**9 - int(number[1][:9]) + 1, "")


def offered(sorts: Iterable[str], before: Mapping[str, Any], typed: str) -> list[CompletionItem]:
    """Return what a shell offers for a text of some sorts. Raises InvalidInput if no registry is configured rightly."""
    asked = _Asked(before, typed, load())
    return [
        item for sort in sorts for item in OFFERED[sort](asked) if item.type != "plain" or item.value.startswith(typed)
    ]


def _refs(asked: _Asked) -> list[CompletionItem]:
    name, at, _ = asked.typed.partition("@")
    if not at:
        return [CompletionItem(each, type=OPEN) for each in asked.find("adapter", name, "/adapters", prefix=name)]
    found = asked.selectors(name)
    return _plain(f"{name}@{selector}" for selector in [*found, *(["latest"] if found else [])])


def _adapters(asked: _Asked) -> list[CompletionItem]:
    return _plain(asked.find("adapter", asked.typed, "/adapters", prefix=asked.typed))


def _adapter_before(asked: _Asked) -> str:
    given = next((asked.before[key] for key in ("name", "ref", "scope") if asked.before.get(key)), "")
    return str(given).partition("@")[0]


def _aliases(asked: _Asked) -> list[CompletionItem]:
    return _plain(each for each in asked.selectors(_adapter_before(asked)) if not _NUMBER.fullmatch(each))


def _numbers(asked: _Asked) -> list[CompletionItem]:
    return _plain(each for each in asked.selectors(_adapter_before(asked)) if _NUMBER.fullmatch(each))


def _jobs(asked: _Asked) -> list[CompletionItem]:
    return _plain(asked.find("job", asked.typed, "/jobs"))


def _sweeps(asked: _Asked) -> list[CompletionItem]:
    return _plain(asked.find("sweep", asked.typed, "/sweeps"))


def _swept(asked: _Asked) -> list[CompletionItem]:
    if not asked.typed.startswith(_SWEEP):
        return []
    found = asked.find("sweep", asked.typed.removeprefix(_SWEEP), "/sweeps")
    return _plain(f"{_SWEEP}{each}" for each in found)


def _bases(asked: _Asked) -> list[CompletionItem]:
    return [] if _is_path(asked.typed) else _plain(asked.find("base", asked.typed, "/bases"))


def _bare_bases(asked: _Asked) -> list[CompletionItem]:
    if not asked.typed.startswith("base:"):
        return []
    return _plain(f"base:{each}" for each in asked.find("base", asked.typed.removeprefix("base:"), "/bases"))


def _datasets(asked: _Asked) -> list[CompletionItem]:
    return [] if _is_path(asked.typed) else _plain(asked.find("dataset", asked.typed, "/datasets"))


def _files(asked: _Asked) -> list[CompletionItem]:
    return [CompletionItem(asked.typed, type="file")]


def _folders(asked: _Asked) -> list[CompletionItem]:
    return [CompletionItem(asked.typed, type="dir")]


def _is_path(typed: str) -> bool:
    return typed.startswith((".", "/", "~"))


def _plain(values: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(value) for value in values]


#: What each sort of name is completed with.
OFFERED: dict[str, Callable[[_Asked], list[CompletionItem]]] = {
    "adapter": _adapters,
    "alias": _aliases,
    "base": _bases,
    "base:": _bare_bases,
    "dataset": _datasets,
    "file": _files,
    "folder": _folders,
    "job": _jobs,
    "number": _numbers,
    "ref": _refs,
    "sweep": _sweeps,
    "sweep:": _swept,
}
