"""Every pool of a server process, as the table of docs/deploy.md: `python docs/pools.py` prints it.

>>> row_of(Pool("examples", waits="nobody", at_once="1", item="1 ms", share="all of it", kept=False))
'| examples | nobody | 1 | 1 ms | all of it | |'
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module

import registry
from registry.pools import POOLS, Pool

_MIB = 1024 * 1024

_HEAD = (
    "| Pool | Who waits in it | At once | What bounds one item | Share of a namespace | MiB |",
    "|---|---|---|---|---|---|",
)


def pools() -> list[Pool]:
    """All pools of a server process, by name."""
    for module in pkgutil.walk_packages(registry.__path__, "registry."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    return [POOLS[name] for name in sorted(POOLS)]


def row_of(pool: Pool) -> str:
    """Its row of the table, in Markdown."""
    mib = f" {-(-pool.most_bytes // _MIB)} " if pool.most_bytes else " "
    return f"| {pool.name} | {pool.waits} | {pool.at_once} | {pool.item} | {pool.share} |{mib}|"


def table() -> str:
    """The table, in Markdown."""
    every = pools()
    most_bytes = sum(pool.most_bytes for pool in every)
    total = f"| all together | | | | | {-(-most_bytes // _MIB)} |"
    return "\n".join((*_HEAD, *(row_of(pool) for pool in every), total)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
