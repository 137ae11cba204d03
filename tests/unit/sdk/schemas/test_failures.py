"""Reasons of attempts that ended: each has its policy, and nobody writes one as a text of their own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import registry
import workers
from registry.jobs.attempts import counted_as
from sdk.schemas.failures import RETRY_POLICIES, FailureReason, retry_policy

#: Errors and records that are made with a reason, as their first argument or by its name.
_FAILURES = {"AttemptFailed", "PipelineError", "Fault", "Failure"}


def test_every_reason_has_a_policy() -> None:
    assert set(RETRY_POLICIES) == set(FailureReason)


@pytest.mark.parametrize(("reason", "tries"), [("worker_lost", 7), ("oom", 2), ("unsupported", 8), ("of_tomorrow", 1)])
def test_a_reason_is_tried_so_often(reason: str, tries: int) -> None:
    pauses = [retry_policy(reason).pause_s(number, max_attempts=7) for number in range(1, tries + 1)]
    assert [pause is None for pause in pauses] == [False] * (tries - 1) + [True]


def test_a_pause_of_however_many_tries_is_a_number() -> None:
    pauses = [retry_policy(reason).pause_s(5000, max_attempts=10_000) for reason in FailureReason]
    assert all(pause is None or pause < 1e9 for pause in pauses)


def test_reasons_that_are_not_known_are_counted_as_one() -> None:
    assert [counted_as(reason) for reason in (None, "oom", "a" * 40, "oomm")] == ["", "oom", "other", "other"]


@pytest.mark.parametrize("package", [workers, registry], ids=lambda package: package.__name__)
def test_reasons_are_written_as_members(package: object) -> None:
    root = Path(package.__path__[0])  # type: ignore[attr-defined]
    found = [
        f"{path.relative_to(root.parent)}:{line}"
        for path in sorted(root.rglob("*.py"))
        for line in _free_reasons(ast.parse(path.read_text()))
    ]
    assert found == []


def test_a_free_text_would_be_found() -> None:
    for code in (
        "AttemptFailed('oomm', said)",
        "causes.Fault(reason='oom', message=said)",
        "job.reason = 'oom'",
        "reason, message = 'oom', said",
        "if failed.reason == 'oom': pass",
        "pairs = [(Unavailable, 'oom')]; reason = pairs[0][1]",
    ):
        assert list(_free_reasons(ast.parse(code))), code
    assert not list(_free_reasons(ast.parse("failed.reason == FailureReason.OOM; moved(reason='looked at by hand')")))


def _free_reasons(tree: ast.Module) -> Iterator[int]:
    """The lines on which a text stands for a reason."""
    names_reason = any(isinstance(node, ast.Name | ast.Attribute) and _is_reason(node) for node in ast.walk(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in _FAILURES:
            first = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "reason")]
            yield from _texts(first, known=False)
        elif isinstance(node, ast.Assign) and any(_is_reason(part) for at in node.targets for part in ast.walk(at)):
            yield from _texts(ast.walk(node.value))
        elif isinstance(node, ast.Compare) and any(_is_reason(part) for part in ast.walk(node)):
            yield from _texts(ast.walk(node))
        elif isinstance(node, ast.Tuple) and names_reason and isinstance(next(iter(node.elts), None), ast.Name):
            # A table from an error's class to a reason.
            yield from _texts(node.elts[1:])


def _texts(nodes: object, *, known: bool = True) -> Iterator[int]:
    for node in nodes:  # type: ignore[attr-defined]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (not known or _is_member(node.value)):
            yield node.lineno


def _is_member(text: str) -> bool:
    return text in {reason.value for reason in FailureReason}


def _is_reason(node: ast.AST) -> bool:
    return _name(node) == "reason"


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
