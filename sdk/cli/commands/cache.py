"""`adapterctl cache`."""

from __future__ import annotations

from typing import Any

import click

from sdk.asking.residents import sweep
from sdk.cli.support.options import confirm, parse_size, yes_option
from sdk.cli.support.output import format_option, human_bytes, print_json, print_rows, say
from sdk.pulling.cache import Cache
from sdk.pulling.cache_maintenance import CacheEntry, entries, plan_prune, prune, verify

_COLUMNS = ["kind", "digest", "size", "last_used", "refs"]


@click.group(name="cache")
def cache_command() -> None:
    """List, verify and prune the local cache."""
    # What programs leased that have ended is in nobody's way.
    sweep(Cache())


def _row(entry: CacheEntry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "digest": entry.digest,
        "size": human_bytes(entry.size_bytes),
        "size_bytes": entry.size_bytes,
        "last_used": entry.last_used,
        "refs": list(entry.refs),
        "path": str(entry.path),
    }


@cache_command.command(name="list")
@format_option
def cache_list(style: str) -> None:
    """List the versions, bases and loose blobs in the cache, most recently used first.

    Versions may share blobs, so together they may take less than the sum. "quantized" are weights of a base in 4 bits, by the base's
    fingerprint, which a worker keeps for its next attempts.

    \b
    Example:
      adapterctl cache list
    """
    cache = Cache()
    print_rows(style, [_row(entry) for entry in entries(cache)], _COLUMNS, key="path", empty="the cache is empty")
    if style == "table":
        say(f"in {cache.root}")


@cache_command.command(name="verify")
@format_option
def cache_verify(style: str) -> None:
    """Hash every version in the cache again, and remove damaged ones: the next pull fetches them again.

    \b
    Example:
      adapterctl cache verify
    """
    cache = Cache()
    count = len(entries(cache))
    damaged = verify(cache)
    rows = [{"kind": one.kind, "digest": one.digest, "path": str(one.path), "what": one.what} for one in damaged]
    if style == "json":
        print_json({"entries": count, "damaged": rows, "ok": not damaged})
    else:
        print_rows(style, rows, ["kind", "digest", "what"], key="path", empty="")
    say(f"{count - len(damaged)} of {count} are whole; {len(damaged)} were damaged and removed")
    if damaged:
        raise SystemExit(7)


def _take_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    size = None if value is None else parse_size(value)
    if value is not None and size is None:
        raise click.BadParameter(f"{value!a} is not a size; write 500MB, 20GB or 2GiB", ctx, param)
    return size


@cache_command.command(name="prune")
@click.option("--keep", type=click.IntRange(0, 1_000_000), help="Keep this many versions, the most recently used.")
@click.option("--keep-days", type=click.IntRange(0, 36_500), help="Keep what was used within this many days.")
@click.option(
    "--max-size", callback=_take_size, metavar="SIZE", help="Keep this much of what was used most recently: 20GB."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@yes_option
@format_option
def cache_prune(
    keep: int | None, keep_days: int | None, max_size: int | None, dry_run: bool, yes: bool, style: str
) -> None:
    """Remove versions and bases that have not been used, and blobs that no version has; anything another process is
    using stays.

    --keep counts versions; --keep-days and --max-size count bases too, and their weights in 4 bits. Anything removed can be pulled, or
    made, again.

    \b
    Examples:
      adapterctl cache prune --keep 10
      adapterctl cache prune --keep-days 30 --max-size 20GB --yes
    """
    if keep is None and keep_days is None and max_size is None:
        raise click.UsageError("say what to keep with --keep, --keep-days or --max-size")
    cache = Cache()
    plan = plan_prune(entries(cache), keep=keep, keep_days=keep_days, max_bytes=max_size)
    gone = plan.removed
    held: list[CacheEntry] = []
    if not dry_run and plan.removed:
        confirm(f"take {len(plan.removed)} entries ({human_bytes(plan.size_bytes)}) from the cache?", yes=yes)
        gone, held = prune(cache, plan)
    if style == "json":
        print_json(
            {
                "removed": [_row(entry) for entry in gone],
                "held": [_row(entry) for entry in held],
                "freed_bytes": plan.size_bytes if not held else None,
                "dry_run": dry_run,
            }
        )
        return
    print_rows(style, [_row(entry) for entry in gone], _COLUMNS, key="path", empty="there is nothing to remove")
    for entry in held:
        say(f"another process is using the {entry.kind} {entry.digest[:12]}, so it stays")
    if gone:
        said = "would be" if dry_run else "were"
        say(f"{len(gone)} {said} removed, {len(plan.kept) + len(held)} {'would ' if dry_run else ''}stay")
