"""`adapterctl cache`."""

from __future__ import annotations

from typing import Any

import click

from sdk.asking.residents import sweep
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import confirm, parse_size, yes_option
from sdk.cli.support.output import human_bytes, print_json, say
from sdk.errors import InvalidInput, NotFound
from sdk.formats.refs import digest_digits
from sdk.pulling.cache import Cache
from sdk.pulling.cache_maintenance import CacheEntry, entries, plan_prune, prune, verify
from sdk.pulling.leases import LeaseView, all_leases, names_of, release_as_shown

_ENTRIES = Listing(
    ListColumn("digest"),
    ListColumn("kind", importance=8),
    ListColumn("size", "size_bytes", 6),
    ListColumn("used", "last_used", 5),
    ListColumn("refs", importance=7),
    ListColumn("used by", importance=4),
    ListColumn("path", importance=0),
    key="path",
)
_DAMAGED = Listing(
    ListColumn("digest"), ListColumn("kind"), ListColumn("what"), ListColumn("path", importance=0), key="path"
)
_LEASES = Listing(
    ListColumn("digest"),
    ListColumn("owner"),
    ListColumn("host", importance=5),
    ListColumn("pid", importance=6),
    ListColumn("since", importance=4),
    key="owner",
)


@click.group(name="cache", cls=CommandGroup)
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
        "used_by": [one.owner for one in entry.leases],
        "leases": [_lease(one) for one in entry.leases],
    }


def _lease(one: LeaseView) -> dict[str, Any]:
    return {
        "digest": one.digest,
        "owner": one.owner,
        "host": one.host,
        "pid": one.pid,
        "running": one.is_running,
        "since": one.since,
        "renewed": one.renewed,
    }


@cache_command.command(name="list")
@listed(_ENTRIES)
def cache_list(style: str) -> None:
    """List the versions, bases and loose blobs in the cache, most recently used first.

    Versions may share blobs, so together they may take less than the sum. "quantized" are weights of a base in 4 bits, by the base's
    fingerprint, which a worker keeps for its next attempts. "used_by" are gateways and others whose engines read a folder as long as
    they serve it: nothing removes it before they are done with it.

    \b
    Example:
      adapterctl cache list
    """
    cache = Cache()
    _ENTRIES.print(style, [_row(entry) for entry in entries(cache)], empty="the cache is empty")
    if style == "table":
        say(f"in {cache.root}")


@cache_command.command(name="verify")
@listed(_DAMAGED)
def cache_verify(style: str) -> None:
    """Hash every version in the cache again, and remove damaged ones that no engine uses: the next pull fetches them again.

    \b
    Example:
      adapterctl cache verify
    """
    cache = Cache()
    count = len(entries(cache))
    damaged = verify(cache)
    rows = [
        {
            "kind": one.kind,
            "digest": one.digest,
            "path": str(one.path),
            "what": one.what,
            "used_by": [lease.owner for lease in one.leases],
        }
        for one in damaged
    ]
    if style == "json":
        print_json({"entries": count, "damaged": rows, "ok": not damaged})
    elif rows:
        _DAMAGED.print(style, rows, empty="")
    for one in damaged:
        if one.leases:
            say(
                f"{one.digest[:12]} is damaged, but in use by {names_of(one.leases)}, so it stays; stop what uses it, then run: "
                f"adapterctl cache release {one.digest[:12]}"
            )
    removed = sum(not one.leases for one in damaged)
    say(f"{count - len(damaged)} of {count} are whole; {removed} were damaged and removed")
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
@listed(_ENTRIES)
def cache_prune(
    keep: int | None, keep_days: int | None, max_size: int | None, dry_run: bool, yes: bool, style: str
) -> None:
    """Remove versions and bases that have not been used, and blobs that no version has; anything another process is
    using stays, and so does what an engine serves.

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
                "held": [_row(entry) for entry in [*held, *plan.leased]],
                "freed_bytes": plan.size_bytes if not held else None,
                "dry_run": dry_run,
            }
        )
        return
    _ENTRIES.print(style, [_row(entry) for entry in gone], empty="there is nothing to remove")
    for entry in held:
        if not entry.leases:
            say(f"another process is using the {entry.kind} {entry.digest[:12]}, so it stays")
    for entry in [*plan.leased, *(entry for entry in held if entry.leases)]:
        say(f"the {entry.kind} {entry.digest[:12]} is in use by {names_of(entry.leases)}, so it stays")
    if gone:
        said = "would be" if dry_run else "were"
        say(f"{len(gone)} {said} removed, {len(plan.kept) + len(held)} {'would ' if dry_run else ''}stay")


@cache_command.command(name="release")
@click.argument("digest")
@click.option("--owner", help="Only this owner's lease, as `cache list` names it.  [default: everybody's]")
@yes_option
@listed(_LEASES)
def cache_release(digest: str, owner: str | None, yes: bool, style: str) -> None:
    """End what holds the version, or base, DIGEST in the cache: 12 digits or more, as `cache list` shows them.

    A gateway that was stopped for good leaves its leases behind, because its engine may go on without it. End them once no engine reads
    the folder any more: one that still does may fail when the folder is removed.

    \b
    Example:
      adapterctl cache release 3f1c9a7e5b20 --owner serve-8011
    """
    digits = digest_digits(digest)
    if digits is None:
        raise InvalidInput(
            f"{digest[:80]!a} is not a digest; give 12 digits or more, as shown by: adapterctl cache list",
            param="digest",
        )
    cache = Cache()
    held = [one for key, views in all_leases(cache).items() if key.startswith(digits) for one in views]
    ended = [one for one in held if owner in (None, one.owner)]
    if not ended:
        whose = "nobody" if owner is None else f"no {owner!a}"
        raise NotFound(
            f"{whose} holds {digits[:12]} in the cache; see who does with: adapterctl cache list", param="digest"
        )
    if len({one.digest for one in ended}) > 1:
        raise InvalidInput(f"{digits} matches more than one digest; give more digits", param="digest")
    confirm(f"end the use of {digits[:12]} by {names_of(ended)}?", yes=yes)
    gone = [one for one in ended if release_as_shown(cache, one)]
    if style == "json":
        print_json({"released": [_lease(one) for one in gone]})
        return
    _LEASES.print(style, [_lease(one) for one in gone], empty="nothing was released")
    say(f"{len(gone)} released; remove the folder with: adapterctl cache prune")
