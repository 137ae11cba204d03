"""Every pool, lane and queue has its line: none is made but by `Pool`, and the page has the table that the code has."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from docs.pools import pools, table
from registry.pools import Pool

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "deploy.md"
#: What threads, or requests, wait in or for.
MADE = {
    "asyncio.BoundedSemaphore",
    "asyncio.Condition",
    "asyncio.Lock",
    "asyncio.PriorityQueue",
    "asyncio.Queue",
    "asyncio.Semaphore",
    "asyncio.create_subprocess_exec",
    "asyncio.create_subprocess_shell",
    "BoundedSemaphore",
    "CapacityLimiter",
    "Condition",
    "LifoQueue",
    "Popen",
    "PriorityQueue",
    "Process",
    "ProcessPoolExecutor",
    "Queue",
    "Semaphore",
    "SimpleQueue",
    "Thread",
    "ThreadPoolExecutor",
    "Timer",
    "create_memory_object_stream",
    "deque",
    "fork",
}


def made_in(source: str) -> list[str]:
    """The pools and queues that a file makes: calls of the names above, and what else refers to them."""
    tree, found = ast.parse(source), []
    # A name in an annotation makes nothing.
    annotations = {
        id(below)
        for node in ast.walk(tree)
        for above in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if above is not None
        for below in ast.walk(above)
    }
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue
        if isinstance(node, ast.Attribute):
            whole = ast.unparse(node)
            found += [name for name in MADE if whole == name or whole.endswith(f".{name}")]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in MADE:
            found.append(node.id)
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("limiter: anyio.CapacityLimiter = anyio.CapacityLimiter(4)", ["CapacityLimiter"]),
        ("field(default_factory=asyncio.Lock)", ["asyncio.Lock"]),
        ("waiting = deque([1])", ["deque"]),
        ("with threading.Lock(): pass", []),
        ("def f(queue: Queue, started: subprocess.Popen) -> Queue: ...", []),
        ("partial(threading.Thread, target=run)", ["Thread"]),
    ],
)
def test_the_search_finds_what_makes_one(source: str, found: list[str]) -> None:
    assert made_in(source) == found


def test_all_are_made_by_the_class_that_wants_their_facts() -> None:
    others = {
        str(path.relative_to(ROOT)): made
        for path in sorted((ROOT / "registry").rglob("*.py"))
        if (made := made_in(path.read_text()))
    }
    by_pool = others.pop("registry/pools.py")
    assert {"CapacityLimiter", "BoundedSemaphore", "Thread", "ThreadPoolExecutor", "Popen", "asyncio.Lock"} <= set(
        by_pool
    )
    # `class Queue` in registry/queue is what jobs are announced over, and no queue in memory.
    assert others.pop("registry/queue/__init__.py", None) is None
    assert others == {}, "make it with a `Pool` of registry/pools.py, which gets its line in docs/deploy.md"


def test_each_says_who_waits_what_bounds_an_item_and_what_a_namespace_gets() -> None:
    for pool in pools():
        assert all((pool.waits, pool.at_once, pool.item, pool.share)), pool.name
        assert "|" not in f"{pool.name}{pool.waits}{pool.at_once}{pool.item}{pool.share}"


def test_no_two_have_one_name() -> None:
    taken = pools()[0].name
    with pytest.raises(ValueError, match="there is a pool"):
        Pool(taken, waits="a", at_once="1", item="b", share="c")


def test_the_memory_of_all_is_what_a_server_process_may_take_beyond_its_rest() -> None:
    assert sum(pool.most_bytes for pool in pools()) <= 280 * 1024**2


def test_the_page_has_the_table() -> None:
    _, _, after = PAGE.read_text().partition("<!-- pools -->\n")
    written, end, _ = after.partition("<!-- end of pools -->")
    assert end
    assert written == table(), "write it anew: python docs/pools.py"
