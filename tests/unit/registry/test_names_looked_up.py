"""Names that each namespace gives for itself are looked up in one place: elsewhere, the first that is found might be a
stranger's.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import registry

#: Columns with names of which every namespace has its own.
OF_A_NAMESPACE = {("NamedBase", "id"), ("DatasetNumber", "name"), ("DatasetName", "name")}
#: The functions that read these columns, and why none of them takes the first that is found.
ALLOWED = {
    "catalog/bases/names.py:_meanings": "gives each meaning, and its caller refuses several",
    "datasets/finding.py:_called": "gives each meaning, and its caller refuses several",
    "datasets/finding.py:names_of": "shows the names of datasets that were found",
    "datasets/finding.py:first_names": "shows the names of datasets that were found",
    "datasets/service.py:_unname": "takes a name away in each namespace that its caller was allowed",
    "lineage/walk.py:add_bases": "shows the names of bases that were found",
    "search/compile.py:_comparison": "a condition, which all that it fits are found by",
    "search/compile.py:_trained_on": "a condition, which all that it fits are found by",
    "search/compile.py:_of_names": "a condition: the version's own namespace comes first, then whoever calls something so",
    "search/compile.py:_of_dataset": "a condition, which all that it fits are found by",
}


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _columns(node: ast.AST) -> set[tuple[str, str]]:
    """The columns that a function mentions."""
    return {
        (part.value.id, part.attr)
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name)
    } & OF_A_NAMESPACE


def test_names_of_a_namespace_are_looked_up_only_where_several_meanings_are_refused() -> None:
    root = Path(registry.__path__[0])
    found, whole = set(), set()
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text())
        name = path.relative_to(root).as_posix()
        inside = [node for node in _functions(tree) if _columns(node)]
        found |= {f"{name}:{node.name}" for node in inside}
        if _columns(tree) and not inside:
            whole.add(name)
    assert not whole, "a statement outside of functions looks names up"
    assert found == set(ALLOWED), "say why a new place may look names up, and take out what is gone"
