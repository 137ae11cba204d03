"""A lineage as a tree of text and as a Graphviz document, whatever names are in it."""

from __future__ import annotations

import importlib.util
import re
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import sdk
from sdk.api.transport import Transport
from sdk.cli.commands import lineage as command
from sdk.cli.commands.lineage import dot, lineage_command, tree
from sdk.client import Client
from sdk.config import Config
from sdk.schemas.evaluation import is_score
from sdk.schemas.lineage import (
    BaseNode,
    DatasetNode,
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


def version(ref: str, **changed: Any) -> VersionNode:
    said = {"key": ref, "ref": ref, "state": "ready", "rank": 8, "method": "qlora", "aliases": []}
    return VersionNode.model_validate(said | changed)


def dataset(name: str, **changed: Any) -> DatasetNode:
    said = {"key": "data:da7a", "digest": "da7a" * 16, "name": name, "rows": 120, "removed": False}
    return DatasetNode.model_validate(said | changed)


def evaluation(ident: str, **metrics: float) -> EvaluationNode:
    return EvaluationNode(
        key=f"evaluation:{ident}",
        id=ident,
        namespace="team",
        dataset="da7a" * 16,
        dataset_name="held out.jsonl",
        grader="loss",
        precision="nf4",
        metrics=metrics,
        job="j3",
    )


def edge(source: str, relation: Relation, target: str, **more: Any) -> Edge:
    return Edge(source=source, target=target, relation=relation, **more)


def lineage(nodes: list[Node], *edges: Edge, **changed: Any) -> Lineage:
    said: dict[str, Any] = {"direction": "both", "depth": 8, "truncated": False, "unfollowed": 0}
    return Lineage(root=nodes[0].key, nodes=nodes, edges=list(edges), **said | changed)


BASE = BaseNode(key="base:f1", id="tiny", revision="0123456789abcdef", fingerprint="f1")

STORY = lineage(
    [
        version("x@v2", aliases=["production", "staging"]),
        BASE,
        version("x@v1", state="deleted", method="unknown"),
        dataset("", rows=1, removed=True),
        JobNode(key="job:j1", id="j1", job_kind="training"),
        version("y@v1"),
        MergedNode(key="merged:aa", digest="aa" * 32, onto="dequantized", job="j2"),
        evaluation("e1", loss=1.23456, rouge_l=0.5),
        version("z@v1"),
    ],
    edge("x@v2", "trained-over", "base:f1"),
    edge("x@v2", "continued-from", "x@v1"),
    edge("x@v1", "trained-over", "base:f1"),
    edge("x@v1", "trained-on", "data:da7a"),
    edge("x@v1", "made-by", "job:j1", attempt=2),
    edge("y@v1", "combined-from", "x@v2", weight=0.25),
    edge("merged:aa", "merged-from", "x@v2"),
    edge("evaluation:e1", "scored", "x@v2"),
    edge("evaluation:e1", "scored-on", "data:da7a"),
    edge("z@v1", "continued-from", "y@v1"),
    edge("z@v1", "combined-from", "x@v2", weight=1.0),
)


class TestTree:
    def test_it_draws_where_a_version_came_from_and_what_came_of_it(self) -> None:
        assert tree(STORY) == [
            "x@v2  rank 8, qlora, production, staging",
            "├─ came from",
            "│  ├─ trained over tiny@0123456789ab",
            "│  └─ continued from x@v1  rank 8, deleted",
            "│     ├─ trained over tiny@0123456789ab",
            "│     ├─ trained on dataset  da7ada7ada7a, 1 row, removed",
            "│     └─ made by job j1  training, attempt 2",
            "└─ became",
            "   ├─ part of 0.25 × y@v1  rank 8, qlora",
            "   │  └─ continued as z@v1  rank 8, qlora",
            "   ├─ merged into model aaaaaaaaaaaa  onto dequantized, job j2",
            "   ├─ scored on held out.jsonl  loss 1.235, rouge_l 0.5, nf4",
            "   └─ part of 1 × z@v1  rank 8, qlora",
        ]

    def test_a_score_is_told_by_what_it_scored_where_it_stands_below_its_rows(self) -> None:
        score, bare = evaluation("e1", loss=2.0), evaluation("e2")
        rows = dataset("held out.jsonl", key=f"data:{score.dataset}")
        found = lineage(
            [rows, score, bare, version("x@v1"), BASE],
            edge("evaluation:e1", "scored-on", rows.key),
            edge("evaluation:e2", "scored-on", rows.key),
            edge("evaluation:e1", "scored", "x@v1"),
            edge("evaluation:e2", "scored", "base:f1"),
        )
        assert tree(found) == [
            "held out.jsonl  da7ada7ada7a, 120 rows",
            "├─ scored x@v1  loss 2, nf4",
            "└─ scored tiny  nf4",
        ]

    @pytest.mark.parametrize(
        ("count", "said"),
        [
            (1, "1 member: sweep:s1/1"),
            (2, "2 members: sweep:s1/1, sweep:s1/2"),
            (40, "40 members: sweep:s1/1, …, sweep:s1/40"),
        ],
    )
    def test_a_sweep_is_told_by_its_members(self, count: int, said: str) -> None:
        job = JobNode(key="job:j1", id="j1", job_kind="training", member="sweep:s1/1")
        sweep = SweepNode(key="sweep:s1", id="s1", members=[f"sweep:s1/{number + 1}" for number in range(count)])
        found = lineage(
            [version("x@v1"), job, sweep],
            edge("x@v1", "made-by", "job:j1", attempt=1),
            edge("job:j1", "member-of", "sweep:s1"),
            direction="up",
        )
        assert tree(found) == [
            "x@v1  rank 8, qlora",
            "└─ made by job j1  training, sweep:s1/1, attempt 1",
            f"   └─ member of sweep s1  {said}",
        ]

    def test_a_root_alone_is_one_line(self) -> None:
        assert tree(lineage([BASE])) == ["tiny@0123456789ab"]

    def test_each_version_is_gone_into_once_and_where_it_is_nearest(self) -> None:
        # Beginning with x@v1, the branch would go through all of them.
        chain = [version(f"x@v{n}") for n in range(1, 400)]
        edges = [edge(one.ref, "trained-over", "base:f1") for one in chain]
        edges += [edge(b.ref, "continued-from", a.ref) for a, b in pairwise(chain)]
        lines = tree(lineage([BASE, *chain], *edges))
        assert len(lines) == 1 + len(edges)
        assert lines[1:3] == [
            "├─ base of x@v1  rank 8, qlora",
            "│  └─ continued as x@v2  rank 8, qlora (drawn elsewhere)",
        ]
        assert max(map(len, lines)) < 80

    def test_a_circle_ends(self) -> None:
        found = lineage(
            [version("x@v1"), version("x@v2")],
            edge("x@v1", "merged-from", "x@v2"),
            edge("x@v2", "continued-from", "x@v1"),
            edge("x@v1", "merged-from", "x@v1"),
            direction="up",
        )
        assert len(tree(found)) == 4

    def test_as_deep_as_it_goes_it_stays_within_the_screen(self) -> None:
        chain = [version(f"team/code-review@v{n}") for n in range(40, 7, -1)]
        edges = [edge(b.ref, "continued-from", a.ref) for b, a in pairwise(chain)]
        lines = tree(lineage(chain, *edges, direction="up", depth=32))
        assert len(lines) == 33
        # What is cut at the end of the screen is not where the names begin.
        assert all(line.index("continued") < 66 for line in lines[1:])


HOSTILE = 'a"];\n} subgraph x { \\N\\" \x1b[2J\u202e<b>&#34;&amp;'
LABEL = r'"(?:[^"\\\n]|\\.)*"'
DOT = re.compile(
    rf"digraph lineage {{\n  rankdir=LR;\n  node \[shape=box\];\n(  n\d+ \[label={LABEL}\];\n)*"
    rf"(  n\d+ -> n\d+ \[label={LABEL}\];\n)*}}"
)


class TestDot:
    def test_it_is_a_document_of_nodes_and_arrows(self) -> None:
        lines = dot(STORY).split("\n")
        assert lines[3] == '  n0 [label="x@v2\\nrank 8, qlora, production, staging"];'
        assert '  n7 [label="evaluation e1\\non held out.jsonl, loss 1.235, rouge_l 0.5"];' in lines
        assert '  n5 -> n0 [label="combined-from 0.25"];' in lines
        assert len(lines) == 4 + len(STORY.nodes) + len(STORY.edges)

    def test_hostile_names_stay_in_their_labels(self) -> None:
        text = dot(lineage([version("x@v1"), dataset(HOSTILE)], edge("x@v1", "trained-on", "data:da7a")))
        assert len(text.split("\n")) == 4 + 3
        shown = 'a\\"];?} subgraph x { \\\\N\\\\\\" ?[2J?<b>&amp;#34;&amp;amp;\\nda7ada7ada7a, 120 rows'
        assert f'  n1 [label="{shown}"];' in text.split("\n")

    @given(st.text(max_size=40), st.text(max_size=40))
    def test_no_name_leaves_its_label(self, name: str, ident: str) -> None:
        nodes: list[Node] = [dataset(name), BaseNode(key="base:f1", id=ident, revision=None, fingerprint="f1")]
        text = dot(lineage(nodes))
        assert DOT.fullmatch(text), text
        assert text.replace("\n", "").isprintable()


class Registry:
    """A client that knows one lineage."""

    def __init__(self, found: Lineage) -> None:
        self.found = found
        self.asked: dict[str, Any] = {}

    def lineage(self, of: str, **given: Any) -> Lineage:
        self.asked = {"of": of, **given}
        return self.found


def run(monkeypatch: pytest.MonkeyPatch, found: Lineage, *args: str) -> tuple[Registry, Any]:
    registry = Registry(found)
    monkeypatch.setattr(command, "open_client", lambda: nullcontext(registry))
    return registry, CliRunner().invoke(lineage_command, list(args))


class TestCommand:
    def test_a_tree_has_80_columns_and_nothing_that_a_terminal_obeys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = lineage([version("x@v1"), dataset(HOSTILE + "x" * 150)], edge("x@v1", "trained-on", "data:da7a"))
        _, done = run(monkeypatch, found, "x")
        assert done.exit_code == 0
        assert [line.isprintable() and len(line) <= 80 for line in done.stdout.splitlines()] == [True, True]
        assert done.stdout.splitlines()[1].endswith("…")

    @pytest.mark.parametrize(
        ("args", "direction"), [([], "both"), (["--up"], "up"), (["--down"], "down"), (["--up", "--down"], "both")]
    )
    def test_the_direction(self, monkeypatch: pytest.MonkeyPatch, args: list[str], direction: str) -> None:
        registry, done = run(monkeypatch, STORY, "x", *args, "--depth", "3", "--format", "quiet", "--published")
        whose = {"base_namespace": None, "published": True}
        assert registry.asked == {"of": "x", "direction": direction, "depth": 3, **whose}
        assert done.stdout.splitlines() == [node.key for node in STORY.nodes]

    def test_what_is_missing_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for changed, said in (
            (
                {"truncated": True},
                "there are more than the 9 nodes shown; narrow the graph with --up, --down or a smaller",
            ),
            ({"unfollowed": 1}, "one version was not followed beyond the last step; go further with --depth 16"),
            (
                {"unfollowed": 2, "depth": 20},
                "2 versions were not followed beyond the last step; go further with --depth 32",
            ),
            ({"unfollowed": 2, "depth": 32}, ""),
        ):
            _, done = run(monkeypatch, STORY.model_copy(update=changed), "x", "--format", "json")
            assert Lineage.model_validate_json(done.stdout).nodes == STORY.nodes
            assert done.stderr.startswith(said)
            assert bool(done.stderr) == bool(said)

    def test_dot_is_a_format_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert run(monkeypatch, STORY, "x", "--dot")[1].stdout == dot(STORY) + "\n"
        assert run(monkeypatch, STORY, "x", "--dot", "--format", "json")[1].exit_code == 2
        assert run(monkeypatch, STORY, "x", "--depth", "33")[1].exit_code == 2


@pytest.mark.parametrize(
    ("of", "asked"), [("x", "x@latest"), ("t/x@v3", "t/x@v3"), ("base:A b", "base:A b"), ("data:x@v1", "data:x@v1")]
)
def test_the_client_asks_for_a_ref_a_base_or_a_dataset(of: str, asked: str) -> None:
    class Recorder(Transport):
        def call(self, _method: str, path: str, _reply: Any, *, params: Any = None, **_given: Any) -> Any:
            self.asked = {"path": path, **params}
            return STORY

    transport = Recorder(Config("local:unused"))
    assert Client(transport=transport).lineage(of, depth=3) is STORY
    sent = {name: value for name, value in transport.asked.items() if value is not None}
    assert sent == {"path": "/lineage", "of": asked, "direction": "both", "depth": 3}


def test_no_module_hides_a_function_of_the_default_client() -> None:
    # `import sdk.x` sets `sdk.x`, from then on in front of the function that `sdk.x` was.
    assert [name for name in sdk.__all__ if importlib.util.find_spec(f"sdk.{name}") is not None] == []


def test_what_was_done_is_no_score() -> None:
    done = ["rows", "tokens", "supervised_tokens", "generated_rows", "eval_s", "tokens_per_s", "peak_memory_bytes"]
    assert not any(map(is_score, [*done, "trainable_parameters", "merged_modules", "steps"]))
    assert all(map(is_score, ["loss", "eval_loss", "eval_loss_base", "perplexity", "rouge_l", "accuracy", "f1"]))


def test_a_merged_model_that_is_a_version_is_called_one() -> None:
    adapter, merged = version("a@v1"), version("m@v1", merged=True, aliases=["production"])
    edge = Edge(source="m@v1", target="a@v1", relation="merged-from")
    told = {"depth": 1, "nodes": [adapter, merged], "edges": [edge], "truncated": False, "unfollowed": 0}
    down = Lineage.model_validate({"root": "a@v1", "direction": "down", **told})
    assert tree(down) == ["a@v1  rank 8, qlora", "└─ merged into m@v1  merged model, production"]
    assert "merged" not in adapter.model_dump()
