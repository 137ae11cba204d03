"""What an OpenAPI document promises to clients, and which of it a later one breaks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import registries


def document() -> dict[str, Any]:
    """The document of this checkout."""
    with (
        tempfile.TemporaryDirectory() as folder,
        registries.embedded(Path(folder) / "home", database_url=f"sqlite:///{folder}/registry.sqlite3") as world,
    ):
        return world.app.openapi()


def broken(earlier: dict[str, Any], later: dict[str, Any]) -> list[str]:
    """Name what clients of the earlier document rely on and the later one takes away."""
    return [*_operations(earlier, later), *_schemas(earlier, later)]


def _operations(earlier: dict[str, Any], later: dict[str, Any]) -> Iterator[str]:
    for path, methods in earlier["paths"].items():
        for method, was in methods.items():
            where = f"{method} {path}"
            now = later["paths"].get(path, {}).get(method)
            if now is None or now["operationId"] != was["operationId"]:
                yield f"{where} is gone"
                continue
            known = {(one["in"], one["name"]): one for one in was.get("parameters", [])}
            there = {(one["in"], one["name"]): one for one in now.get("parameters", [])}
            yield from (f"{where} takes no {name}" for _, name in known.keys() - there.keys())
            needed = (
                key for key, one in there.items() if one.get("required") and not known.get(key, {}).get("required")
            )
            yield from (f"{where} needs {name}" for _, name in needed)


def _schemas(earlier: dict[str, Any], later: dict[str, Any]) -> Iterator[str]:
    for name, was in earlier["components"]["schemas"].items():
        now = later["components"]["schemas"].get(name, {})
        lost = was.get("properties", {}).keys() - now.get("properties", {}).keys()
        yield from (f"{name} has no {field}" for field in sorted(lost))
        needed = set(now.get("required", ())) - set(was.get("required", ()))
        # What is new in an answer may be there always.
        yield from (f"{name} needs {field}" for field in sorted(needed) if now.get("additionalProperties") is False)
