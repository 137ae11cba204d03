"""The picture of a lineage: made from on the left, made from it on the right, and never large."""

from __future__ import annotations

from typing import Any

from registry.web.versions.lineage_map import ACROSS, MOST_IN_COLUMN, WIDTH, lineage_map
from sdk.schemas.lineage import Lineage


def version(ref: str, state: str = "ready") -> dict[str, Any]:
    return {"kind": "version", "key": ref, "ref": ref, "state": state, "rank": 8, "method": "lora", "aliases": []}


def graph(nodes: list[dict[str, Any]], edges: list[tuple[str, str, str]], **said: Any) -> Lineage:
    written = [{"source": source, "target": target, "relation": relation} for source, target, relation in edges]
    whole = {"root": nodes[0]["key"], "direction": "both", "depth": 2, "truncated": False, "unfollowed": 0, **said}
    return Lineage.model_validate({**whole, "nodes": nodes, "edges": written})


def test_parents_are_left_and_children_right() -> None:
    nodes = [version("a@v2"), version("a@v1"), version("b@v1"), version("a@v0x".replace("x", ""), "deleted")]
    edges = [("a@v2", "a@v1", "continued-from"), ("b@v1", "a@v2", "merged-from"), ("a@v1", "a@v0", "continued-from")]
    found = lineage_map(graph(nodes, edges))
    places = {box.key: box.x // (WIDTH + ACROSS) for box in found.boxes}
    assert places == {"a@v0": 0, "a@v1": 1, "a@v2": 2, "b@v1": 3}
    assert next(way.title for way in found.ways) == "a@v2 (ready): continued from a@v1 (ready)"
    assert {box.key: box.address for box in found.boxes} == {
        "a@v2": "/ui/adapters/a/v2",
        "a@v1": "/ui/adapters/a/v1",
        "b@v1": "/ui/adapters/b/v1",
        "a@v0": None,
    }
    assert not found.has_more


def test_long_columns_are_counted() -> None:
    children = [version(f"c{number}@v1") for number in range(500)]
    edges = [(child["key"], "a@v1", "continued-from") for child in children]
    found = lineage_map(graph([version("a@v1"), *children], edges))
    assert len(found.boxes) == 1 + MOST_IN_COLUMN + 1
    assert found.boxes[-1].name == f"and {500 - MOST_IN_COLUMN} more"
    assert found.has_more
    assert all(0 <= box.y < found.height for box in found.boxes)


def test_circle_ends() -> None:
    edges = [("a@v1", "b@v1", "continued-from"), ("b@v1", "a@v1", "continued-from")]
    assert len(lineage_map(graph([version("a@v1"), version("b@v1")], edges)).boxes) == 2
