"""Whose scores count is decided in one place, and every query for scores goes through it or says why not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import registry
from registry.errors import Invalid, NotFound
from registry.evaluations.models import Evaluation, EvaluationMetric
from registry.evaluations.standing import made_in, of_versions, space_of_bases
from registry.principal import LOCAL, Principal, Role

_ROOT = Path(registry.__file__).parent
_MODELS, _STANDING = "registry.evaluations.models", "registry.evaluations.standing"
_TABLES = {"Evaluation", "EvaluationMetric", "LatestScore"}
_SQL = re.compile(r"\b(from|join|into|update)\s+(evaluation(s|_metrics)|latest_scores)\b", re.IGNORECASE)

#: Functions that name the tables and don't ask whose scores count, each with the reason.
OTHERWISE = {
    "evaluations/service.py:all_of": "it takes a condition of standing",
    "evaluations/service.py:newest_of": "it takes a condition of standing",
    "evaluations/service.py:_row": "it makes the record, in the job's namespace",
    "evaluations/service.py:_recorded": "a record of the job's own namespace answers the job",
    "evaluations/service.py:_metrics": "it makes the rows for search, in the record's namespace",
    "evaluations/last_scores.py:note_latest": "it keeps those of new records, each in its own namespace",
    "evaluations/version_scores.py:_of_kind": "it stands beside a condition of standing",
    "evaluations/rows.py:": "a condition on files alone",
    "evaluations/rows.py:_find": "one record by its id",
    "evaluations/rows.py:give_up": "the files of the version's own namespace",
    "evaluations/rows.py:give_up_of_base": "the files of each namespace that gave the base up",
    "evaluations/rows.py:give_up_earlier": "the files of the newest record's own namespace",
    "evaluations/rows.py:_give_up": "it takes conditions of those three",
    "evaluations/contamination/service.py:unchecked": "all records, whosever they are",
    "evaluations/rows.py:_give_up_samples": "the samples of the version's own namespace",
    "evaluations/contamination/service.py:_check": "one record by its id",
    "evaluations/picking.py:unpicked": "all records, whosever they are",
    "evaluations/picking.py:_keep": "one record by its id",
    "evaluations/picking.py:due_picks": "whether a file and a dataset are there at all",
    "evaluations/picking.py:remove_picks": "whether a file and a dataset are there at all",
    "lineage/walk.py:below_dataset": "all scores on a dataset, each linked with the version that it counts for",
    "lineage/walk.py:_add_evaluations": "it takes a condition, and each node says whose the scores are",
    "quotas/service.py:_queries": "what each namespace keeps",
    "quotas/service.py:_records": "what each namespace keeps",
    "removal/expiry.py:_jobs": "whether a job made any",
    "removal/expiry.py:_blobs": "whether bytes are used at all",
    "removal/expiry.py:_manifests": "whether bytes are used at all",
    "removal/garbage.py:garbage": "whether bytes are used at all",
    "search/compile.py:_scored": "its `score` asks",
    "search/service.py:_scores_of": "it takes the condition of `scored_by`",
    "sweeps/members.py:note_scores": "what the job has recorded that the sweep itself submitted",
}


def _names(tree: ast.AST) -> set[str]:
    """The names that some code uses, but for those of its annotations."""
    notes = {id(part) for node in ast.walk(tree) for note in _annotations(node) for part in ast.walk(note)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in notes}


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    yield from (note for note in found if isinstance(note, ast.AST))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif not isinstance(node, ast.expr):
            yield from _functions(node)


def unruled(source: str) -> set[str]:
    """The functions of a module ("": the module itself) that query the tables of scores and ask nothing of standing."""
    if "evaluation" not in source.lower():
        return set()
    tree = ast.parse(source)
    imported = {
        module: {
            name.asname or name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == module
            for name in node.names
            if module == _STANDING or name.name in _TABLES
        }
        for module in (_MODELS, _STANDING)
    }
    found = set()
    for function in _functions(tree):
        used = _names(function)
        if used & imported[_MODELS] and not used & imported[_STANDING]:
            found.add(function.name)
    outside = ast.parse(source)
    for node in ast.walk(outside):
        for body in (getattr(node, "body", None), getattr(node, "orelse", None)):
            if isinstance(body, list):
                body[:] = [each for each in body if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    if _names(outside) & imported[_MODELS]:
        found.add("")
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    if any(_SQL.search(text) for text in texts):
        found.add("SQL")
    return found


def test_every_query_for_scores_asks_whose_count() -> None:
    files = [path for path in _ROOT.rglob("*.py") if path.parent != _ROOT / "evaluations" or path.name not in _OWN]
    found = {
        f"{path.relative_to(_ROOT).as_posix()}:{name}"
        for path in files
        for name in unruled(path.read_text(encoding="utf-8"))
    }
    new = sorted(found - OTHERWISE.keys())
    assert not new, f"these choose scores by something else than registry/evaluations/standing.py: {', '.join(new)}"
    assert not OTHERWISE.keys() - found, "what is not there any more needs no reason"


#: Where the tables and the rule are.
_OWN = ("models.py", "standing.py")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("def best(d):\n    return select(Evaluation).where(Evaluation.digest == d)", {"best"}),
        ("class A:\n    def best(self, d):\n        return [E.digest for _ in d]", {"best"}),
        ("def best(d):\n    return select(Evaluation).where(of_version(Evaluation, d))", set()),
        ("def best(row: Evaluation) -> Evaluation:\n    return row", set()),
        ("BEST = Evaluation.digest == ''", {""}),
        ("def best(c):\n    return c.execute('SELECT 1 FROM evaluation_metrics')", {"SQL"}),
    ],
)
def test_the_next_query_is_found(body: str, found: set[str]) -> None:
    imports = f"from {_MODELS} import Evaluation, EvaluationMetric as E\nfrom {_STANDING} import of_version\n"
    assert unruled(imports + body) == found


BOTH = Principal("ann", {"a": Role.READER, "b": Role.WRITER})


def test_a_base_is_scored_where_versions_are_or_where_the_caller_would_score_it() -> None:
    assert space_of_bases({"a"}, BOTH) == "a"
    assert space_of_bases((), BOTH) == "b"
    assert space_of_bases((), Principal("bob", {"a": Role.READER, "b": Role.READER})) == "a"
    assert space_of_bases((), LOCAL) == space_of_bases((), Principal("all", {"*": Role.READER})) == "-"
    with pytest.raises(Invalid, match=r"several namespaces \(a, b\).+--scores-of NAMESPACE"):
        space_of_bases({"b", "a"}, BOTH)


@pytest.mark.parametrize("scores", [Evaluation, EvaluationMetric])
def test_scores_of_others_are_those_that_may_be_read(scores: type[Evaluation] | type[EvaluationMetric]) -> None:
    def written(scores_of: str | None, who: Principal = BOTH) -> str:
        return str(made_in(scores, "a", who, scores_of).compile(compile_kwargs={"literal_binds": True}))

    assert "namespace = 'a'" in written(None)
    assert "namespace = 'b'" in written("b")
    assert "namespace = " not in written("*")
    assert "namespace IN ('a', 'b', '*')" in written("*")
    for hidden in ("c", ""):
        with pytest.raises(NotFound, match="may not read the scores of a namespace"):
            written(hidden)


def test_versions_of_several_namespaces_are_looked_up_by_digest_and_each_has_its_own() -> None:
    condition = of_versions([("d1", "a"), ("d2", "a"), ("d1", "b")], LOCAL)
    written = str(condition.compile(compile_kwargs={"literal_binds": True})).replace("evaluations.", "")
    every = "digest IN ('d1', 'd2')"
    assert written == f"{every} AND ({every} AND namespace = 'a' OR digest IN ('d1') AND namespace = 'b')"
