"""The quick run has no torch: files of tests that need it, or another large library, are left to `make test`."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

#: Set by `make quick`; everywhere else a missing library fails the tests that need it.
IS_QUICK = os.environ.get("ADAPTERCTL_QUICK") == "1"
_LEFT_OUT = {
    "accelerate",
    "bitsandbytes",
    "cyclonedx",
    "datasets",
    "gguf",
    "jsonschema_rs",
    "peft",
    "pyarrow",
    "rouge_score",
    "sacrebleu",
    "schemathesis",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
}


def _missing(error: BaseException | None) -> str | None:
    """The large library whose absence caused an error, directly or indirectly."""
    while error is not None:
        name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if name in _LEFT_OUT:
            return name
        error = error.__cause__ or error.__context__
    return None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a file that can't be imported without a large library."""
    report = yield
    call = getattr(report, "call", None)
    name = _missing(call.excinfo.value) if IS_QUICK and call is not None and call.excinfo is not None else None
    if name is None:
        return report
    reason = f"needs {name}, which only `make test` installs"
    return pytest.CollectReport(collector.nodeid, "skipped", (str(collector.path), 0, reason), [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a test whose fixtures can't be made without a large library."""
    with _skipped():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a test that can't continue without a large library."""
    with _skipped():
        yield


@contextmanager
def _skipped() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        name = _missing(error) if IS_QUICK else None
        if name is None:
            raise
        pytest.skip(f"needs {name}, which only `make test` installs")
