"""How versions were made, name by name: what differs between them, and what all have in common.

>>> rows = setting_rows({"a@v1": {"rank": 8, "init": True}, "a@v2": {"rank": 16, "init": True}})
>>> [(row.name, row.differs, row.values) for row in rows]
[('rank', True, {'a@v1': '8', 'a@v2': '16'}), ('init', False, {'a@v1': 'yes', 'a@v2': 'yes'})]
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from registry.web.naming import DatasetNames
from sdk.formats.canonical_json import canonical_json
from sdk.schemas.catalog import VersionView

#: How much of a value is shown, and how many names.
_MOST_CHARS, _MOST_NAMES = 120, 400
#: Nested values whose own names are rows; of all others the whole is one value, however long.
_OPENED = frozenset({"lora", "quantization", "training"})
_DIGEST = re.compile("[0-9a-f]{64}")
_NONE: tuple[Any, ...] = (None, [], {}, "")


@dataclass(frozen=True)
class ComparedSetting:
    """One setting."""

    name: str
    #: Whether not all have the same value.
    differs: bool
    #: Ref → its value in words; "–": it has none.
    values: Mapping[str, str]


def settings_of(version: VersionView, datasets: DatasetNames) -> dict[str, Any]:
    """Return how a version was made: its base, LoRA configuration, quantisation, data, and training as it was resolved."""
    used = version.dataset
    found: dict[str, Any] = {
        "base": version.base.id,
        "base revision": version.base.revision,
        "base fingerprint": version.base.fingerprint[:12],
        "method": version.method,
        "lora": version.lora.model_dump(mode="json"),
        "quantization": None if version.quantization is None else version.quantization.model_dump(mode="json"),
        "dataset": None if used is None else [datasets[digest] for digest in used.digests],
        "dataset rows": None if used is None else used.rows,
        "supervised tokens": None if used is None else used.supervised_tokens,
        "training": _with_names(version.training, datasets),
        "libraries": version.libraries,
    }
    flat: dict[str, Any] = {}
    for name, value in found.items():
        if name in _OPENED and isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": each for inner, each in value.items()}
        elif name not in _OPENED:
            flat[name] = value
    return flat


def _with_names(training: Mapping[str, Any] | None, datasets: DatasetNames) -> dict[str, Any]:
    """Return a training with the held-out rows by name, and other digests shortened to the digits that refs take."""
    found = dict(training or {})
    for name, value in found.items():
        if isinstance(value, str) and _DIGEST.fullmatch(value):
            found[name] = datasets[value]
    return found


def setting_rows(settings: Mapping[str, Mapping[str, Any]]) -> list[ComparedSetting]:
    """Return all settings that any has, those that differ first, each group in the order in which they first occur."""
    names = list(dict.fromkeys(name for one in settings.values() for name in one))[:_MOST_NAMES]
    rows = []
    for name in names:
        values = {ref: one.get(name) for ref, one in settings.items()}
        if all(value in _NONE for value in values.values()):
            continue
        exact = {ref: canonical_json(value) if value not in _NONE else b"" for ref, value in values.items()}
        rows.append(ComparedSetting(name, len(set(exact.values())) > 1, _in_words(values, exact)))
    return sorted(rows, key=lambda row: not row.differs)


def _in_words(values: Mapping[str, Any], exact: Mapping[str, bytes]) -> dict[str, str]:
    """Say values, so that different ones look different also where only their beginnings are shown."""
    said = {ref: in_words(value) for ref, value in values.items()}
    meant: dict[str, set[bytes]] = {}
    for ref, text in said.items():
        meant.setdefault(text, set()).add(exact[ref])
    return {
        ref: text if len(meant[text]) == 1 else f"{text} #{hashlib.sha256(exact[ref]).hexdigest()[:8]}"
        for ref, text in said.items()
    }


def in_words(value: Any) -> str:
    """Return the value of a setting as a table has it.

    >>> in_words(None), in_words(True), in_words(0.0002), in_words(["q_proj", "v_proj"]), in_words({"a": 1})
    ('–', 'yes', '0.0002', 'q_proj, v_proj', 'a 1')
    """
    if value in _NONE:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return _joined(f"{name} {in_words(each)}" for name, each in value.items())
    return _joined(map(in_words, value)) if isinstance(value, list | tuple) else _cut(str(value))


def _joined(parts: Iterable[str]) -> str:
    text = ""
    for part in parts:
        text += f", {part}" if text else part
        if len(text) > _MOST_CHARS:
            break
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else text[: _MOST_CHARS - 1] + "…"
