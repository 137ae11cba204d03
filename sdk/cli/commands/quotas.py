"""`adapterctl quota`."""

from __future__ import annotations

import re
from typing import NamedTuple

import click

from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.options import parse_size
from sdk.cli.support.output import format_option, print_one, size_of
from sdk.cli.support.records import print_facts
from sdk.cli.support.session import open_client
from sdk.errors import InvalidInput
from sdk.schemas.access import QuotaView


class _Given(NamedTuple):
    """A limit as it was given; None removes it."""

    limit: int | None


def _take_limit(ctx: click.Context, param: click.Parameter, value: str | None) -> _Given | None:
    """The callback of an option that takes a limit. Raises BadParameter."""
    if value is None or value == "none":
        return None if value is None else _Given(None)
    sized = param.name in ("max_bytes", "max_record_bytes")
    count = parse_size(value) if sized else int(value) if re.fullmatch("[0-9]{1,9}", value) else None
    if count is None:
        wanted = "a size like 10GB, 500MB or plain bytes" if sized else "a whole number"
        raise click.BadParameter(f"{value!a} is not a limit; write {wanted}, or none", ctx, param)
    return _Given(count)


@click.group(name="quota", cls=CommandGroup)
def quota_command() -> None:
    """Show and set a namespace's quotas."""


@quota_command.command(name="show")
@click.argument("namespace", default="-")
@format_option
def quota_show(namespace: str, style: str) -> None:
    """Show the limits of NAMESPACE ('-', the default: names without one), and how much of them is used.

    Its size counts everything it refers to, by kind: versions that are not deleted, datasets, files of bases, merged
    models and checkpoints, and the space reserved for uploads in progress. Its records are what the database keeps
    about all that. '*' shows the default limits, and what is published for all, which has no limits.

    \b
    Examples:
      adapterctl quota show team
      adapterctl quota show team --format json
    """
    with open_client() as client:
        _show(client.quotas.get(namespace), style)


@quota_command.command(name="set")
@click.argument("namespace", default="-")
@click.option("--max-adapters", callback=_take_limit, metavar="N|none", help="Names of adapters.")
@click.option("--max-bytes", callback=_take_limit, metavar="SIZE|none", help="Bytes of all kinds: 10GB, 500MB.")
@click.option("--max-jobs", callback=_take_limit, metavar="N|none", help="Jobs waiting or running.")
@click.option("--max-record-bytes", callback=_take_limit, metavar="SIZE|none", help="Records in the database: 1GB.")
@format_option
def quota_set(namespace: str, style: str, **given: _Given | None) -> None:
    """Limit NAMESPACE ('-', the default: names without one) from now on.

    '*' limits each namespace that has no limits of its own; otherwise the server's settings apply
    (REGISTRY_DEFAULT_MAX_*). A limit that is left out stays as it is; 'none' removes it. What exists already stays.

    \b
    Examples:
      adapterctl quota set team --max-adapters 50 --max-bytes 10GB
      adapterctl quota set team --max-bytes none
      adapterctl quota set '*' --max-jobs 200
    """
    changed = {name: new.limit for name, new in given.items() if new is not None}
    if not changed:
        raise InvalidInput(
            "there is nothing to set; give --max-adapters, --max-bytes, --max-jobs or --max-record-bytes"
        )
    with open_client() as client:
        limits = client.quotas.get(namespace).model_dump(include=set(given))
        _show(client.quotas.set(namespace, **(limits | changed)), style)


def _show(quota: QuotaView, style: str) -> None:
    rows = None if quota.max_record_bytes is None else size_of(quota.max_record_bytes)
    most = None if quota.max_bytes is None else size_of(quota.max_bytes)
    facts = [
        ("namespace", quota.namespace),
        *([("limits", "the default for namespaces without limits of their own")] if quota.default else []),
        ("adapters", _of(quota.adapters, quota.max_adapters)),
        ("size", _of(size_of(quota.size_bytes), most)),
        *((f"  {kind}", size_of(size)) for kind, size in _by_kind(quota).items()),
        ("records", _of(size_of(quota.records_bytes), rows)),
        ("jobs", _of(quota.jobs, quota.max_jobs)),
    ]
    print_one(style, quota, quota.namespace, lambda: print_facts(facts))


def _by_kind(quota: QuotaView) -> dict[str, int]:
    return {
        "versions": quota.versions_bytes,
        "datasets": quota.datasets_bytes,
        "bases": quota.bases_bytes,
        "merged models": quota.merged_bytes,
        "checkpoints": quota.checkpoints_bytes,
        "scores by row": quota.evaluations_bytes,
        "reserved": quota.reserved_bytes,
    }


def _of(used: object, limit: object | None) -> str:
    return f"{used}, no limit" if limit is None else f"{used} of {limit}"
