"""How tests are shared out among processes when several run at once (`pytest -n 4`).

A file is run by one process, in order, because its tests share registries and servers that start once for a module. A
folder whose tests share one whole stack is also run by one process. What takes longest begins first, so that no process
is left alone with it at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

#: What one process runs, by how paths begin.
_TOGETHER = (
    # One stack of processes for all tests.
    ("tests/faults/jobs/",),
    # One browser for all tests.
    ("tests/e2e/pages/",),
    # One registry, with every page that its namespace has.
    ("tests/contract/pages/test_hostile_text.py", "tests/contract/pages/test_rights.py"),
    # One base with its versions, made with torch, for all engines.
    (
        "tests/contract/serving/test_engines.py",
        "tests/contract/serving/test_moving.py",
        "tests/contract/serving/test_vllm.py",
    ),
    # Everything marked `alone` that computes: tests that only wait run at the same time.
    ("tests/faults/test_stops.py", "tests/faults/test_fuzz.py", "tests/faults/attacks/"),
)
#: What takes long, the longest first: files of a minute of CPU or more, then folders; all else follows in pytest's own order.
_FIRST = (
    "tests/faults/jobs",
    "tests/faults/test_stops.py",
    "tests/e2e/test_readme.py",
    "tests/e2e/test_pages_run.py",
    "tests/integration/test_worker_attempts.py",
    "tests/integration/test_images.py",
    "tests/e2e/test_whole_path.py",
    "tests/integration/test_worker_celery.py",
    "tests/matrix",
    "tests/e2e/test_terminal.py",
    "tests/contract/tenancy",
    "tests/e2e/pages",
    "tests/unit/workers/pipelines",
    "tests/e2e/test_signing_cli.py",
    "tests/integration/test_stack_up.py",
    "tests/contract/removal",
    "tests/integration",
    "tests/e2e",
    "tests/faults",
    "tests/contract",
)


def share_of(nodeid: str) -> str:
    """Return the share of the work that a test belongs to: its file, or a group that stays together."""
    path = nodeid.partition("::")[0]
    return next((group[0] for group in _TOGETHER if path.startswith(group)), path)


def rank_of(nodeid: str) -> int:
    """Return when the share of a test begins, compared with others: a lower number is earlier."""
    path = nodeid.partition("::")[0]
    return next((n for n, first in enumerate(_FIRST) if path == first or path.startswith(f"{first}/")), len(_FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Share tests out by file, whatever `--dist` says."""
    from xdist.scheduler import LoadScopeScheduling

    class ByShare(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return share_of(nodeid)

    # Otherwise it would begin with the files that have the most tests, which are seldom the slowest.
    config.option.loadscopereorder = False
    return ByShare(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """If several processes run, put what takes longest first, in the same way in each of them."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank_of(item.nodeid))
