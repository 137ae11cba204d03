"""The lineage of a version, a base or a dataset, as sent over the API: a graph whose edges lead to what each node was
made from.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.wire import IF_ANY, IF_SET, Known, Open, Wire

#: Up: what it was made from. Down: what was made from it.
Direction = Literal["up", "down", "both"]

#: How the source of an edge was made from its target.
Relation = Literal[
    # A version, over a base.
    "trained-over",
    # A version, on a dataset.
    "trained-on",
    # A version, from another one.
    "continued-from",
    "combined-from",
    # A version from another one, or a merged model from the version that was merged into its base.
    "merged-from",
    # A version, of the same bytes under another name.
    "copied-from",
    # A version, by a job.
    "made-by",
    # A job, of a sweep.
    "member-of",
    # An evaluation, of a version or of a bare base.
    "scored",
    # An evaluation, with the rows of a dataset.
    "scored-on",
]


class VersionNode(Wire):
    """A version; a deleted one keeps its place."""

    kind: Literal["version"] = "version"
    #: The same as `ref`.
    key: str
    ref: str
    state: str
    rank: int
    method: str
    aliases: list[str]
    #: Whether it is a merged model; rank and method are those of its adapter.
    merged: Annotated[bool, IF_ANY] = False


class BaseNode(Wire):
    """A base."""

    kind: Literal["base"] = "base"
    #: "base:" and the fingerprint.
    key: str
    id: str
    revision: str | None
    fingerprint: str


class DatasetNode(Wire):
    """A dataset, as one of the reader's namespaces has it; a removed one is still named."""

    kind: Literal["dataset"] = "dataset"
    #: "data:" and the digest.
    key: str
    digest: str
    #: Empty if nobody gave one.
    name: str
    rows: int | None
    #: Whether every namespace that the reader may read has removed it.
    removed: bool


class JobNode(Wire):
    """A job that made a version."""

    kind: Literal["job"] = "job"
    #: "job:" and the id.
    key: str
    id: str
    #: "training", …
    job_kind: str
    #: Which member of a sweep it trained: "sweep:ID/3".
    member: Annotated[str | None, IF_SET] = None


class SweepNode(Wire):
    """A sweep, one of whose members became a version."""

    kind: Literal["sweep"] = "sweep"
    #: "sweep:" and the id.
    key: str
    id: str
    #: The refs of its members, by number.
    members: list[str]


class MergedNode(Wire):
    """A model that a version was merged into, and that did not become a version."""

    kind: Literal["merged"] = "merged"
    #: "merged:" and the digest.
    key: str
    digest: str
    #: The weights that ΔW was added to: "original" or "dequantized".
    onto: str | None
    #: The job that made it; the last one if there are several.
    job: str


class EvaluationNode(Wire):
    """Scores of a version, or of a bare base."""

    kind: Literal["evaluation"] = "evaluation"
    #: "evaluation:" and the id.
    key: str
    id: str
    #: The namespace whose job made it.
    namespace: str
    #: Digest of the dataset.
    dataset: str
    #: Empty if it has none, or if the reader may not see it.
    dataset_name: str
    grader: str
    precision: str
    #: The scores, without counts, times and sizes.
    metrics: dict[str, float]
    job: str


Node = Annotated[
    VersionNode | BaseNode | DatasetNode | JobNode | SweepNode | MergedNode | EvaluationNode,
    Field(discriminator="kind"),
]


class Edge(Wire):
    """The node `source` came from the node `target`."""

    #: Key of a node.
    source: str
    #: Key of a node.
    target: str
    relation: Annotated[Relation, Open]
    #: The weight of a parent in a combination.
    weight: float | None = None
    #: The id of the job that made the version.
    attempt: int | None = None


class Lineage(Wire):
    """A part of the graph, each node once, those nearest to the root first. Anything the reader may not see is left
    out.
    """

    #: Key of the node that was asked for; it is the first.
    root: str
    direction: Direction
    #: How many steps from the root were followed.
    depth: int
    nodes: Annotated[list[Node], Known]
    edges: list[Edge]
    #: Whether nodes or edges were left out because there are too many.
    truncated: bool
    #: Versions at the last step, beyond which the graph was not followed.
    unfollowed: int
