"""`adapterctl lineage`: a graph as lines of text, and as a document for Graphviz.

>>> from sdk.schemas.lineage import BaseNode, Edge, Lineage, VersionNode
>>> version = VersionNode(key="x@v1", ref="x@v1", state="ready", rank=8, method="qlora", aliases=["production"])
>>> base = BaseNode(key="base:1f", id="tiny", revision=None, fingerprint="1f")
>>> edge = Edge(source="x@v1", target="base:1f", relation="trained-over")
>>> found = Lineage(
...     root="x@v1", direction="up", depth=1, nodes=[version, base], edges=[edge], truncated=False, unfollowed=0
... )
>>> print("\\n".join(tree(found)))
x@v1  rank 8, qlora, production
└─ trained over tiny
>>> print(dot(found))
digraph lineage {
  rankdir=LR;
  node [shape=box];
  n0 [label="x@v1\\nrank 8, qlora, production"];
  n1 [label="tiny"];
  n0 -> n1 [label="trained-over"];
}
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from sdk.cli.completing.kinds import REF
from sdk.cli.support.options import whose_base_options
from sdk.cli.support.output import fit, format_option, print_one, say
from sdk.cli.support.session import open_client
from sdk.schemas.lineage import (
    BaseNode,
    DatasetNode,
    Direction,
    Edge,
    EvaluationNode,
    JobNode,
    Lineage,
    MergedNode,
    Node,
    Relation,
    SweepNode,
    VersionNode,
)
from sdk.schemas.score_order import in_order_asked


@click.command(name="lineage")
@click.argument("of", type=REF, metavar="REF")
@whose_base_options
@click.option("--up", is_flag=True, help="Only what it was made from.")
@click.option("--down", is_flag=True, help="Only what was made from it.")
@click.option("--depth", type=click.IntRange(1, 32), default=8, show_default=True, help="How many steps to follow.")
@click.option("--dot", "as_dot", is_flag=True, help="Print a document for Graphviz.")
@format_option
def lineage_command(of: str, up: bool, down: bool, depth: int, as_dot: bool, style: str, **whose: Any) -> None:
    """Draw what the version REF was made from, and what was made from it: base, data, job, parents, merges, scores.

    REF may also be base:NAME, for everything trained over a base, or data:NAME, for everything that used a dataset.

    \b
    Examples:
      adapterctl lineage code-review@v3
      adapterctl lineage base:SmolLM2-135M-Instruct --depth 1
      adapterctl lineage data:reviews.jsonl --dot > reviews.dot
    """
    if as_dot and style != "table":
        raise click.UsageError("--dot is its own format; leave --format out")
    direction: Direction = "both" if up == down else "up" if up else "down"
    with open_client() as client:
        found = client.lineage(of, direction=direction, depth=depth, **whose)
    print_one(style, found, (node.key for node in found.nodes), lambda: _print(found, as_dot))
    _say_what_is_missing(found)


def _print(found: Lineage, as_dot: bool) -> None:
    click.echo(dot(found) if as_dot else "\n".join(map(fit, tree(found))))


def _say_what_is_missing(found: Lineage) -> None:
    if found.truncated:
        say(
            f"there are more than the {len(found.nodes)} nodes shown; narrow the graph with --up, --down or a smaller --depth"
        )
    elif found.unfollowed and found.depth < 32:
        versions = "one version was" if found.unfollowed == 1 else f"{found.unfollowed} versions were"
        say(f"{versions} not followed beyond the last step; go further with --depth {min(32, found.depth * 2)}")


#: The words for an edge between a thing, above, and what it came from, below. An evaluation has words of its own.
_UP: dict[Relation, str] = {
    "trained-over": "trained over",
    "trained-on": "trained on",
    "continued-from": "continued from",
    "combined-from": "combined from",
    "merged-from": "merged from",
    "copied-from": "copied from",
    "made-by": "made by",
    "member-of": "member of",
}
#: The words for an edge between a thing, above, and what was made from it, below.
_DOWN: dict[Relation, str] = {
    "trained-over": "base of",
    "trained-on": "trained",
    "continued-from": "continued as",
    "combined-from": "part of",
    "merged-from": "merged into",
    "copied-from": "copied as",
}
#: More members of a sweep are shown by the first and the last.
_MOST_MEMBERS = 3
#: Up to this column, a level of branches takes three columns, beyond it two.
_MOST_BRANCHES = 36


class _Graph:
    """A lineage with its edges by their ends."""

    def __init__(self, lineage: Lineage) -> None:
        self.nodes: dict[str, Node] = {node.key: node for node in lineage.nodes}
        self.above: dict[str, list[Edge]] = {}
        self.below: dict[str, list[Edge]] = {}
        for edge in _edges(lineage):
            self.above.setdefault(edge.source, []).append(edge)
            self.below.setdefault(edge.target, []).append(edge)


def tree(lineage: Lineage) -> list[str]:
    """Return lines that draw what the root came from and what was made from it; texts from users are not escaped.

    The caller limits the width and removes control characters.
    """
    graph = _Graph(lineage)
    root = graph.nodes[lineage.root]
    up = [] if lineage.direction == "down" else _branches(graph, lineage.root, graph.above)
    down = [] if lineage.direction == "up" else _branches(graph, lineage.root, graph.below)
    if up and down:
        found = [(0, "came from"), *((level + 1, text) for level, text in up)]
        found += [(0, "became"), *((level + 1, text) for level, text in down)]
    else:
        found = up or down
    return [_label(root), *_drawn(found)]


def _branches(graph: _Graph, root: str, edges: Mapping[str, Sequence[Edge]]) -> list[tuple[int, str]]:
    """Return the level and text of each line below a node; each other node is expanded once, where it is nearest."""
    up = edges is graph.above

    def far(edge: Edge) -> str:
        return edge.target if up else edge.source

    entered: dict[str, Edge] = {}
    keys = deque([root])
    while keys:
        for edge in edges.get(keys.popleft(), []):
            if far(edge) != root and far(edge) not in entered:
                entered[far(edge)] = edge
                keys.append(far(edge))

    def below(key: str, level: int) -> Iterator[tuple[int, str]]:
        for edge in edges.get(key, []):
            other = far(edge)
            here = entered.get(other) is edge
            elsewhere = "" if here or not edges.get(other) else " (drawn elsewhere)"
            yield level, _told(graph, edge, up=up) + elsewhere
            if here:
                yield from below(other, level + 1)

    return list(below(root, 0))


def _told(graph: _Graph, edge: Edge, *, up: bool) -> str:
    """Return the text for an edge and the node at its other end."""
    node = graph.nodes[edge.target if up else edge.source]
    if isinstance(node, EvaluationNode):
        return f"scored{_ends(graph, node, edge.target)}  {', '.join([*_scores(node), node.precision])}"
    weight = "" if edge.weight is None else f" {edge.weight:g} ×"
    attempt = "" if edge.attempt is None else f", attempt {edge.attempt}"
    said = (_UP if up else _DOWN).get(edge.relation, edge.relation.replace("-", " "))
    return f"{said}{weight} {_label(node)}{attempt}"


def _ends(graph: _Graph, node: EvaluationNode, but: str) -> str:
    """Say what an evaluation scored, and on which rows, except for the one under which it is listed."""
    of = [edge.target for edge in graph.above.get(node.key, []) if edge.relation == "scored"]
    if but == f"data:{node.dataset}":
        return f" {_name(graph.nodes[of[0]])}" if of else ""
    return f" on {_rows_of(node)}"


def _drawn(lines: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Draw branches in front of texts, which are given with their levels."""
    deepest = max((level for level, _ in lines), default=0) + 1
    bars = ("├─ ", "└─ ", "│  ", "   ") if 3 * deepest <= _MOST_BRANCHES else ("├ ", "└ ", "│ ", "  ")
    fork, end, passing, empty = bars
    drawn: list[str] = []
    # From the bottom, since a branch ends where no line of its level follows before a line of a lower one.
    following: set[int] = set()
    for level, text in reversed(lines):
        following = {other for other in following if other <= level}
        stem = "".join(passing if other in following else empty for other in range(level))
        drawn.append(stem + (fork if level in following else end) + text)
        following.add(level)
    return reversed(drawn)


def dot(lineage: Lineage) -> str:
    """Return the graph as a Graphviz document, arrows from each thing to what it came from; every label is escaped."""
    names = {node.key: f"n{number}" for number, node in enumerate(lineage.nodes)}
    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
    for node in lineage.nodes:
        label = "\\n".join(_escaped(part) for part in _label(node).split("  ", 1))
        lines.append(f'  {names[node.key]} [label="{label}"];')
    for edge in _edges(lineage):
        weight = "" if edge.weight is None else f" {edge.weight:g}"
        lines.append(f'  {names[edge.source]} -> {names[edge.target]} [label="{_escaped(edge.relation + weight)}"];')
    return "\n".join([*lines, "}"])


def _edges(lineage: Lineage) -> list[Edge]:
    """The edges between existing nodes: kinds of nodes that only a newer registry knows were left out."""
    keys = {node.key for node in lineage.nodes}
    return [edge for edge in lineage.edges if edge.source in keys and edge.target in keys]


def _escaped(text: str) -> str:
    """Return text for use in quotes in DOT: quotes, backslashes and entities are escaped, controls become "?"."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')


def _name(node: Node) -> str:
    if isinstance(node, VersionNode):
        return node.ref
    if isinstance(node, BaseNode):
        return node.id
    return node.key


def _label(node: Node) -> str:
    """Describe a node: its name, then two spaces and the rest."""
    if isinstance(node, VersionNode):
        method = [] if node.method == "unknown" else [node.method]
        what = ["merged model"] if node.merged else [f"rank {node.rank}", *method]
        state = [] if node.state == "ready" else [node.state]
        return f"{node.ref}  {', '.join([*what, *state, *node.aliases])}"
    if isinstance(node, BaseNode):
        return f"{node.id}@{node.revision[:12]}" if node.revision else node.id
    if isinstance(node, DatasetNode):
        rows = [] if node.rows is None else [f"{node.rows} row{'' if node.rows == 1 else 's'}"]
        removed = ["removed"] if node.removed else []
        return f"{node.name or 'dataset'}  {', '.join([node.digest[:12], *rows, *removed])}"
    if isinstance(node, JobNode):
        return f"job {node.id}  {', '.join([node.job_kind, *([node.member] if node.member else [])])}"
    if isinstance(node, SweepNode):
        return f"sweep {node.id}  {_members(node)}"
    if isinstance(node, MergedNode):
        onto = [] if node.onto is None else [f"onto {node.onto}"]
        return f"model {node.digest[:12]}  {', '.join([*onto, f'job {node.job}'])}"
    return f"evaluation {node.id}  {', '.join([f'on {_rows_of(node)}', *_scores(node)])}"


def _members(node: SweepNode) -> str:
    shown = node.members if len(node.members) <= _MOST_MEMBERS else [node.members[0], "…", node.members[-1]]
    return f"{len(node.members)} member{'' if len(node.members) == 1 else 's'}: {', '.join(shown)}"


def _rows_of(node: EvaluationNode) -> str:
    return node.dataset_name or node.dataset[:12]


def _scores(node: EvaluationNode) -> list[str]:
    return [f"{name} {node.metrics[name]:.4g}" for name in in_order_asked(node.metrics)]
