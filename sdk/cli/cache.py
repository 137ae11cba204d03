"""`adapterctl cache`."""

from __future__ import annotations

import click

from sdk.cache import Cache
from sdk.cli.output import format_option, human_bytes, print_rows, say


@click.group(name="cache")
def cache_command() -> None:
    """Look at the local cache."""


@cache_command.command(name="list")
@format_option
def cache_list(style: str) -> None:
    """List the versions and bases that lie in the cache.

    \b
    Example:
      adapterctl cache list
    """
    cache = Cache()
    rows = []
    for kind, folder in (("version", cache.versions), ("base", cache.bases)):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if len(path.name) == 64:
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                rows.append(
                    {
                        "kind": kind,
                        "digest": path.name,
                        "size": human_bytes(size),
                        "size_bytes": size,
                        "path": str(path),
                    }
                )
    print_rows(style, rows, ["kind", "digest", "size"], key="path", empty="the cache is empty")
    if style == "table":
        say(f"in {cache.root}")
