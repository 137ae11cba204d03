"""Lets a process of ours think that it is another time. Python reads this at its start, from PYTHONPATH.

`SKEWED_S`: by how many seconds its clock is ahead, or behind. It is that of records and of signatures (`time.time` and
`registry.db.clock.utc_now`); how long something takes is measured as everywhere.
"""

import importlib.abc
import importlib.util
import os
import sys
import time
from datetime import timedelta

_AHEAD_S = float(os.environ["SKEWED_S"])
_time = time.time


def _skewed_time() -> float:
    return _time() + _AHEAD_S


time.time = _skewed_time


class _Finder(importlib.abc.MetaPathFinder):
    """Changes `registry.db.types` before anybody takes the clock from it."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != "registry.db.types":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_skew(module):  # type: ignore[no-untyped-def]
            execute(module)
            now = module.utc_now
            module.utc_now = lambda: now() + timedelta(seconds=_AHEAD_S)

        spec.loader.exec_module = execute_and_skew
        return spec


sys.meta_path.insert(0, _Finder())
