"""The lineage around a version as a picture: what it was made from on the left, what was made from it on the right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from registry.web.rendering import link, page_of_ref, short
from sdk.schemas.lineage import (
    BaseNode,
    DatasetNode,
    EvaluationNode,
    JobNode,
    Lineage,
    MergedNode,
    Node,
    SweepNode,
    VersionNode,
)

#: How many steps are followed, and how many nodes a column has; the rest is counted.
STEPS, MOST_IN_COLUMN = 2, 6
#: Sizes in pixels.
WIDTH, HEIGHT, ACROSS, DOWN = 190, 44, 46, 12
#: Characters of a node's name.
_NAME = 25


@dataclass(frozen=True)
class Box:
    """One node, where it is drawn."""

    key: str
    kind: str
    name: str
    #: The whole name, and more about it.
    title: str
    x: int
    y: int
    #: The address of its page, if it has one.
    address: str | None = None
    is_root: bool = False


@dataclass(frozen=True)
class Way:
    """An edge, drawn from left to right."""

    path: str
    title: str


@dataclass(frozen=True)
class LineageMap:
    """What is drawn."""

    boxes: tuple[Box, ...]
    ways: tuple[Way, ...]
    width: int
    height: int
    #: Whether there is more than is drawn.
    has_more: bool


def lineage_map(lineage: Lineage) -> LineageMap:
    """Lay out the nodes by their distance from the root."""
    nodes = {node.key: node for node in lineage.nodes}
    up: dict[str, list[str]] = {}
    down: dict[str, list[str]] = {}
    for edge in lineage.edges:
        up.setdefault(edge.source, []).append(edge.target)
        down.setdefault(edge.target, []).append(edge.source)
    levels = {lineage.root: 0}
    for led, sign in ((up, -1), (down, 1)):
        levels |= {key: sign * far for key, far in _distances(lineage.root, led).items() if key not in levels}
    columns: dict[int, list[str]] = {}
    for key, level in levels.items():
        columns.setdefault(level, []).append(key)
    first = min(columns)
    shown = _chosen(columns, up, down)
    more = {level: len(columns[level]) - len(keys) for level, keys in shown.items()}
    tallest = max(len(keys) + bool(more[level]) for level, keys in shown.items())
    height = tallest * (HEIGHT + DOWN) - DOWN
    boxes: dict[str, Box] = {}
    counted: list[Box] = []
    for level, keys in sorted(shown.items()):
        x = (level - first) * (WIDTH + ACROSS)
        rows = len(keys) + bool(more[level])
        top = (height - rows * (HEIGHT + DOWN) + DOWN) // 2
        for row, key in enumerate(keys):
            boxes[key] = _box(nodes[key], x, top + row * (HEIGHT + DOWN), is_root=key == lineage.root)
        if more[level]:
            text = f"and {more[level]} more"
            counted.append(Box(f"more {level}", "", text, text, x, top + len(keys) * (HEIGHT + DOWN)))
    ways = tuple(_ways(lineage, boxes))
    width = len(range(first, max(columns) + 1)) * (WIDTH + ACROSS) - ACROSS
    has_more = lineage.truncated or lineage.unfollowed > 0 or bool(counted)
    return LineageMap((*boxes.values(), *counted), ways, width, height, has_more)


def _chosen(
    columns: Mapping[int, Sequence[str]], up: Mapping[str, Sequence[str]], down: Mapping[str, Sequence[str]]
) -> dict[int, list[str]]:
    """The nodes of each column that are drawn: those that a drawn one nearer to the root leads to."""
    shown = {0: list(columns[0])}
    for level in sorted(columns, key=abs):
        if level:
            ways, nearer = (up, level + 1) if level < 0 else (down, level - 1)
            led = {key for one in shown[nearer] for key in ways.get(one, ())}
            shown[level] = [key for key in columns[level] if key in led][:MOST_IN_COLUMN]
    return shown


def _distances(root: str, ways: Mapping[str, Sequence[str]]) -> dict[str, int]:
    found, frontier, far = {root: 0}, [root], 0
    while frontier and far < STEPS:
        far += 1
        frontier = [key for key in dict.fromkeys(k for one in frontier for k in ways.get(one, ())) if key not in found]
        found |= dict.fromkeys(frontier, far)
    return found


def _ways(lineage: Lineage, boxes: Mapping[str, Box]) -> Iterable[Way]:
    for edge in lineage.edges:
        source, target = boxes.get(edge.source), boxes.get(edge.target)
        # Only between neighbouring columns: a longer one would go through other boxes.
        if source is None or target is None or source.x - target.x != WIDTH + ACROSS:
            continue
        x, y, to_x, to_y = target.x + WIDTH, target.y + HEIGHT // 2, source.x, source.y + HEIGHT // 2
        middle = (x + to_x) // 2
        weight = "" if edge.weight is None else f", weight {edge.weight:g}"
        relation = edge.relation.replace("-", " ")
        yield Way(
            f"M{x} {y}C{middle} {y} {middle} {to_y} {to_x} {to_y}", f"{source.title}: {relation} {target.title}{weight}"
        )


def _box(node: Node, x: int, y: int, *, is_root: bool) -> Box:
    kind, name, title, address = _described(node)
    return Box(node.key, kind, name if len(name) <= _NAME else f"…{name[1 - _NAME :]}", title, x, y, address, is_root)


def _described(node: Node) -> tuple[str, str, str, str | None]:
    """Return what a node is, its name, the whole of it, and the address of its page."""
    match node:
        case VersionNode():
            kind = "merged model" if node.merged else f"version, rank {node.rank}"
            kind = kind if node.state == "ready" else f"{kind}, {node.state}"
            return (
                kind,
                node.ref,
                f"{node.ref} ({node.state})",
                page_of_ref(node.ref) if node.state != "deleted" else None,
            )
        case BaseNode():
            return "base", node.id, f"{node.id}, fingerprint {node.fingerprint}", None
        case DatasetNode():
            rows = "" if node.rows is None else f", {node.rows:,} rows"
            kind = f"dataset{', removed' if node.removed else rows}"
            return kind, node.name or short(node.digest), f"{node.name} {node.digest}".strip(), None
        case JobNode():
            return f"job, {node.job_kind}", node.id, f"job {node.id}", link("jobs", node.id)
        case SweepNode():
            return f"sweep of {len(node.members)}", node.id, f"sweep {node.id}", link("sweeps", node.id)
        case MergedNode():
            return "merged model", short(node.digest), f"merged model {node.digest}", link("jobs", node.job)
        case EvaluationNode():
            score, value = next(
                iter(sorted(node.metrics.items(), key=lambda one: (one[0] != "loss", one[0]))), ("", 0.0)
            )
            name = f"{score} {value:.4g}" if score else node.grader
            return "scores", name, f"scores {node.id} on {node.dataset_name or short(node.dataset)}", "#scores"
