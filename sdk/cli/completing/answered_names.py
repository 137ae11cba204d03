"""The names in an answer of the registry, whatever route it is from. Light to import.

>>> names_in("/versions", {"items": [{"adapter": "sql", "number": 3, "aliases": ["production"], "state": "ready"}]})
[('adapter', 'sql'), ('ref', 'sql@v3'), ('ref', 'sql@production')]
>>> names_in("/bases", [{"id": "$(reboot)"}, {"id": "tiny"}])
[('base', 'tiny')]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

#: A sort, as in `offering.OFFERED`, and a name.
Name = tuple[str, str]

#: What no shell reads as anything but text, and no terminal as a command: other names are typed by hand.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@+,%-]{0,199}")


def is_plain(name: object) -> bool:
    """Whether a name may be offered by a shell."""
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None


def names_in(path: str, document: Any) -> list[Name]:
    """Return the names in what a route below `/api/v1` answered; none for other routes, and none that is not plain."""
    read = _READ.get(path.split("/")[1])
    if read is None:
        return []
    rows = document.get("items", [document]) if isinstance(document, dict) else document
    if not isinstance(rows, list):
        return []
    return [name for row in rows if isinstance(row, dict) for name in read(row) if is_plain(name[1])]


def _of_adapter(row: dict[str, Any]) -> Iterator[Name]:
    adapter = row.get("adapter")
    yield "adapter", str(adapter)
    # Its newest version, as `show` writes it.
    latest = row.get("latest")
    if isinstance(latest, str) and latest.startswith(f"{adapter}@"):
        yield "ref", latest


def _of_version(row: dict[str, Any]) -> Iterator[Name]:
    # A publication answers with the version that it made.
    row = row["version"] if isinstance(row.get("version"), dict) else row
    adapter, number, aliases = row.get("adapter"), row.get("number"), row.get("aliases")
    # What has no number is no version yet, or a sweep's member.
    if not isinstance(number, int) or row.get("state") == "deleted":
        return
    yield "adapter", str(adapter)
    yield "ref", f"{adapter}@v{number}"
    for alias in aliases if isinstance(aliases, list) else ():
        yield "ref", f"{adapter}@{alias}"
    base = row.get("base")
    if isinstance(base, dict) and "id" in base:
        yield "base", str(base["id"])


def _of_alias(row: dict[str, Any]) -> Iterator[Name]:
    if {"adapter", "alias", "ref"} <= row.keys():
        yield "adapter", str(row["adapter"])
        yield "ref", f"{row['adapter']}@{row['alias']}"


def _of_job(row: dict[str, Any]) -> Iterator[Name]:
    # An event of a job has neither.
    if "kind" in row and "state" in row:
        yield "job", str(row.get("id"))
    result = row.get("result")
    ref = result.get("ref") if isinstance(result, dict) else None
    if isinstance(ref, str) and "@" in ref:
        yield "adapter", ref.partition("@")[0]
        yield "ref", ref


def _of_sweep(row: dict[str, Any]) -> Iterator[Name]:
    yield "sweep", str(row.get("id", ""))


def _of_base(row: dict[str, Any]) -> Iterator[Name]:
    yield "base", str(row.get("id", ""))


def _of_dataset(row: dict[str, Any]) -> Iterator[Name]:
    yield "dataset", str(row.get("name", ""))


#: By the first segment of a route.
_READ: dict[str, Callable[[dict[str, Any]], Iterator[Name]]] = {
    "adapters": _of_adapter,
    "aliases": _of_alias,
    "base": _of_base,
    "bases": _of_base,
    "datasets": _of_dataset,
    "jobs": _of_job,
    "resolve": _of_version,
    "search": _of_version,
    "sweeps": _of_sweep,
    "version": _of_version,
    "versions": _of_version,
}
