"""A public class has a name of its own: who reads `Limits` in one room has not met other limits in the next."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The registry and the SDK have the same errors, which `tests/unit/sdk/test_errors.py` holds together, and the rows of the
#: registry's tables are called like what they are rows of.
NAMED_AFTER_OTHERS = ("registry/errors.py", "registry/*/models.py")


def _classes() -> dict[str, list[str]]:
    found = defaultdict(list)
    for package in ("sdk", "registry", "workers"):
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT)
            if any(path.match(pattern) for pattern in NAMED_AFTER_OTHERS):
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(str(path))
    return found


def test_no_public_class_name_stands_twice() -> None:
    assert {name: files for name, files in _classes().items() if len(files) > 1} == {}


def test_the_classes_are_found() -> None:
    assert len(_classes()) > 500
