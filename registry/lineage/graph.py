"""The part of the graph that a walk has found so far, within bounds."""

from __future__ import annotations

from collections.abc import Mapping

from registry.catalog.models import Version
from registry.catalog.versions.finding import exact_ref
from sdk.schemas.lineage import Direction, Edge, EvaluationNode, Lineage, Node, Relation, VersionNode

#: How many nodes one answer may have.
MAX_NODES = 2_000
#: How many edges one answer may have; a version may have 64 parents.
MAX_EDGES = 10_000


class Graph:
    """Nodes by key, in the order in which they were found, and the edges between them."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._edges: dict[tuple[str, str, str, int | None], Edge] = {}
        #: The node's key for the key of each version in it.
        self.versions: dict[int, str] = {}
        self.truncated = False

    def add(self, node: Node) -> bool:
        """Add a node, unless it is there already or there are enough; say whether it is there now."""
        if node.key in self._nodes:
            return True
        if len(self._nodes) >= MAX_NODES:
            self.truncated = True
            return False
        self._nodes[node.key] = node
        return True

    def add_version(self, version: Version) -> bool:
        """Add a version, like `add`."""
        ref = exact_ref(version)
        node = VersionNode(
            key=ref,
            ref=ref,
            state=version.state,
            rank=version.rank,
            method=version.method,
            aliases=[],
            merged=version.kind == "merged",
        )
        added = self.add(node)
        if added:
            self.versions[version.pk] = ref
        return added

    def link(
        self, source: str, target: str, relation: Relation, *, weight: float | None = None, attempt: int | None = None
    ) -> None:
        """Add an edge, if both of its ends are there."""
        key = (source, target, relation, attempt)
        if key in self._edges or source not in self._nodes or target not in self._nodes:
            return
        if len(self._edges) >= MAX_EDGES:
            self.truncated = True
            return
        self._edges[key] = Edge(source=source, target=target, relation=relation, weight=weight, attempt=attempt)

    def view(self, direction: Direction, depth: int, *, aliases: Mapping[int, list[str]], unfollowed: int) -> Lineage:
        """Return the graph as sent over the API, each version with the aliases that name it."""
        for node in list(self._nodes.values()):
            if isinstance(node, EvaluationNode):
                self.link(node.key, f"data:{node.dataset}", "scored-on")
        named = {self.versions[pk]: names for pk, names in aliases.items()}
        nodes = [
            node.model_copy(update={"aliases": named[key]}) if key in named else node
            for key, node in self._nodes.items()
        ]
        return Lineage(
            root=nodes[0].key,
            direction=direction,
            depth=depth,
            nodes=nodes,
            edges=list(self._edges.values()),
            truncated=self.truncated,
            unfollowed=unfollowed,
        )
