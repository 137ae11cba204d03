"""`adapterctl archive`, `restore`, `delete`, `release`, `annotate`, `retention`, `gc`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.completing.kinds import ADAPTER, REF
from sdk.cli.support.listing_group import CommandGroup
from sdk.cli.support.options import confirm, confirm_by_typing, require_terminal, take_tags, yes_option
from sdk.cli.support.output import format_option, print_done, print_json, print_one, say, size_of
from sdk.cli.support.records import print_facts
from sdk.cli.support.session import open_client
from sdk.errors import Conflict, InvalidInput
from sdk.names import parse_ref
from sdk.objects import Version
from sdk.schemas.removal import GcReport, RetentionView

if TYPE_CHECKING:
    from sdk.client import Client

_MISSING = "files missing in storage"
_reason = click.option("--reason", default="", help="The reason; kept in the audit trail.")


_all_versions = click.option(
    "--all-versions", "every", is_flag=True, help="All versions of the adapter NAME, which is given in place of REF."
)


def _require_version(ref: str, verb: str) -> None:
    """Raise InvalidInput for the bare name of an adapter: a version is meant, and nobody has said which."""
    if "@" not in ref:
        name = parse_ref(ref).adapter
        raise InvalidInput(
            f"{name} is an adapter; say which version, such as {name}@v3, or all of them with: adapterctl {verb} {name} --all-versions",
            param="ref",
        )


def _versions_of(client: Client, name: str) -> list[Version]:
    """Return every version of an adapter, oldest first. Raises InvalidInput for a ref, NotFound."""
    if "@" in name:
        raise InvalidInput(
            f"--all-versions is about an adapter, and {name} names one version; leave it out", param="all-versions"
        )
    return [*reversed(client.versions(name, archived=True))]


def _require_unneeded(client: Client, name: str, versions: Sequence[Version]) -> None:
    """Raise Conflict if an alias names one of the versions, another adapter was made from one, or a program on this machine uses one."""
    from sdk.pulling.leases import leased
    from sdk.schemas.lineage import VersionNode

    if aliases := client.aliases(name):
        named = ", ".join(f"{name}@{alias.alias}" for alias in aliases[:5])
        raise Conflict(
            f"{named} names one of these versions; remove it first with: adapterctl alias rm {name} {aliases[0].alias}"
        )
    for version in versions:
        below = client.lineage(version.ref, direction="down", depth=1)
        if made := [
            node.ref for node in below.nodes if isinstance(node, VersionNode) and node.ref.partition("@")[0] != name
        ]:
            raise Conflict(
                f"{made[0]} was made from {version.ref}; archive {name} instead: adapterctl archive {name} --all-versions"
            )
        if leases := leased(client.cache, version.digest):
            raise Conflict(f"{leases[0].owner} on this machine uses {version.ref}; end it, then delete again")


def _show(version: Version, style: str, told: str) -> None:
    # What is deleted has no more to say than its name.
    print_done(style, version.as_dict() if style == "json" else {}, version.ref, told)


def _show_all(versions: Sequence[Version], style: str, done: str) -> None:
    if style == "json":
        print_json([version.as_dict() for version in versions])
        return
    for version in versions:
        click.echo(version.ref)
    say(f"{len(versions)} versions are {done}")


@click.command(name="archive")
@click.argument("ref", metavar="REF|NAME", type=REF)
@_reason
@_all_versions
@format_option
def archive_command(ref: str, reason: str, every: bool, style: str) -> None:
    """Hide the version that REF names from lists and `latest`; its number and digest still find it.

    \b
    Examples:
      adapterctl archive code-review@v2 --reason "superseded by v3"
      adapterctl archive code-review --all-versions --reason "it has moved"
    """
    if not every:
        _require_version(ref, "archive")
    with open_client() as client:
        if every:
            done = [client.versions.archive(one.ref, reason=reason) for one in _versions_of(client, ref)]
            _show_all(done, style, f"archived; undo it with: adapterctl restore {ref}@vN")
            return
        version = client.versions.archive(ref, reason=reason)
        _show(version, style, f"{version.ref} is archived; undo it with: adapterctl restore {version.ref}")


@click.command(name="restore")
@click.argument("ref", type=REF)
@_reason
@format_option
def restore_command(ref: str, reason: str, style: str) -> None:
    """Bring back the archived version that REF names.

    \b
    Example:
      adapterctl restore code-review@v2
    """
    with open_client() as client:
        version = client.versions.restore(ref, reason=reason)
        _show(version, style, f"{version.ref} is {version.info.state}")


@click.command(name="delete")
@click.argument("ref", metavar="REF|NAME", type=REF)
@_reason
@_all_versions
@yes_option
@format_option
def delete_command(ref: str, reason: str, every: bool, yes: bool, style: str) -> None:
    """Delete the version that REF names for good; its number stays taken.

    Its files go with a later `adapterctl gc`, unless another version has the same files. With --all-versions the adapter's
    name has to be typed, and nothing is deleted while an alias names a version, another adapter was made from one, or a program
    on this machine uses one.

    \b
    Examples:
      adapterctl delete code-review@v2 --yes
      adapterctl delete code-review --all-versions
    """
    if not every:
        _require_version(ref, "delete")
    with open_client() as client:
        if every:
            versions = _versions_of(client, ref)
            _require_unneeded(client, ref, versions)
            confirm_by_typing(f"delete {len(versions)} versions for good? type the name {ref}", ref, yes=yes)
            done = [client.versions.delete(one.ref, reason=reason) for one in versions]
            _show_all(done, style, "deleted; their files go with the next: adapterctl gc")
            return
        # The version shown in the question is the one that is deleted, whatever an alias names by then.
        exact = client.get(str(parse_ref(ref))).ref
        confirm(f"delete {exact} for good?", yes=yes)
        version = client.versions.delete(exact, reason=reason)
        _show(version, style, f"{version.ref} is deleted; its files go with the next: adapterctl gc")


@click.command(name="release")
@click.argument("ref", type=REF)
@_reason
@format_option
def release_command(ref: str, reason: str, style: str) -> None:
    """Release the quarantined version that REF names by its digest: it becomes ready, with the next number.

    \b
    Example:
      adapterctl release code-review@sha256:3f1c9a7e5b20 --reason "meant to be"
    """
    with open_client() as client:
        version = client.versions.release(ref, reason=reason)
        _show(version, style, f"released as {version.ref}")


@click.command(name="annotate")
@click.argument("ref", type=REF)
@click.option("--description", help="A one-line description; replaces the previous one.")
@click.option("--tag", "tags", multiple=True, callback=take_tags, metavar="KEY=VALUE", help="Set a tag; repeatable.")
@click.option("--untag", multiple=True, metavar="KEY", help="Remove a tag; repeatable.")
@click.option("--note", help="A note; kept with your name, and never edited.")
@format_option
def annotate_command(
    ref: str, description: str | None, tags: dict[str, str], untag: tuple[str, ...], note: str | None, style: str
) -> None:
    """Add a description, tags or a note to the version that REF names; anything left out stays as it is.

    \b
    Example:
      adapterctl annotate code-review@v3 --tag lang=python --note "seen by Ada"
    """
    if description is None and not tags and not untag and note is None:
        raise click.UsageError("there is nothing to write; give --description, --tag, --untag or --note")
    with open_client() as client:
        version = client.versions.annotate(ref, description=description, tags=tags, untag=list(untag), note=note)
        _show(version, style, f"annotated {version.ref}")


@click.group(name="retention", cls=CommandGroup)
def retention_command() -> None:
    """Set which versions of an adapter `gc` keeps."""


@retention_command.command(name="set")
@click.argument("name", type=ADAPTER)
@click.option("--keep-last", type=click.IntRange(1, 1_000_000), help="Keep this many of the newest ready versions.")
@click.option("--keep-days", type=click.IntRange(1, 36_500), help="Keep versions made within this many days.")
@format_option
def retention_set(name: str, keep_last: int | None, keep_days: int | None, style: str) -> None:
    """Let `gc` delete the versions of the adapter NAME that neither option keeps and no alias names.

    \b
    Example:
      adapterctl retention set code-review --keep-last 10 --keep-days 90
    """
    if keep_last is None and keep_days is None:
        raise click.UsageError("a rule needs --keep-last, --keep-days or both; to keep all: adapterctl retention clear")
    with open_client() as client:
        _show_rule(client.retention.set(name, keep_last=keep_last, keep_days=keep_days), style)


@retention_command.command(name="show")
@click.argument("name", type=ADAPTER)
@format_option
def retention_show(name: str, style: str) -> None:
    """Show which versions of the adapter NAME `gc` keeps.

    \b
    Example:
      adapterctl retention show code-review
    """
    with open_client() as client:
        _show_rule(client.retention(name), style)


@retention_command.command(name="clear")
@click.argument("name", type=ADAPTER)
@format_option
def retention_clear(name: str, style: str) -> None:
    """Keep all versions of the adapter NAME again.

    \b
    Example:
      adapterctl retention clear code-review
    """
    with open_client() as client:
        client.retention.clear(name)
    _show_rule(RetentionView(adapter=name, rule=None), style)


def _show_rule(view: RetentionView, style: str) -> None:
    rule = view.rule
    kept = [("keep last", rule.keep_last), ("keep days", rule.keep_days)] if rule else [("keeps", "all versions")]
    print_one(style, view, view.adapter, lambda: print_facts([("adapter", view.adapter), *kept]))


@click.command(name="gc")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option(
    "--grace-hours",
    default=24,
    show_default=True,
    type=click.IntRange(0, 8760),
    help="Keep files given up less than this many hours ago.",
)
@click.option(
    "--keep-merged-days",
    type=click.IntRange(1, 36_500),
    help="Remove merged models that are not versions and whose job ended more than this many days ago. [default: never]",
)
@yes_option
@format_option
def gc_command(dry_run: bool, grace_hours: int, keep_merged_days: int | None, yes: bool, style: str) -> None:
    """Apply the retention rules, and remove files that nothing refers to any more.

    On a terminal it first shows what would be removed, and asks.

    \b
    Examples:
      adapterctl gc --dry-run
      adapterctl gc --grace-hours 72 --yes
    """
    with open_client() as client:
        report = None
        if not dry_run and not yes:
            require_terminal()
            planned = client.retention.gc(dry_run=True, grace_hours=grace_hours, keep_merged_days=keep_merged_days)
            if _removes_nothing(planned):
                say("there is nothing to remove")
                report = planned
            else:
                for name, value in _facts(planned):
                    say(f"{name}: {value}")
                confirm("remove this?", yes=False)
        report = report or client.retention.gc(
            dry_run=dry_run, grace_hours=grace_hours, keep_merged_days=keep_merged_days
        )
    print_one(style, report, report.retired_versions, lambda: print_facts(_facts(report)))
    missing = report.rows_without_blob
    if missing.count and style != "json":
        names = [*missing.versions[:8], *(["…"] if len(missing.versions) > 8 else [])] or ["datasets or bases"]
        say(f"files missing in storage: {missing.count}, of {', '.join(names)}; restore them from a backup")


def _removes_nothing(report: GcReport) -> bool:
    strays = report.blobs_without_row
    # Texts of the facts that count no removal, or count it with its size.
    counted = [value for name, value in _facts(report) if name not in ("would free", "stray files removed", _MISSING)]
    return not (report.freed_bytes or strays.count or any(counted))


def _facts(report: GcReport) -> list[tuple[str, Any]]:
    strays = report.blobs_without_row
    return [
        ("would free" if report.dry_run else "freed", size_of(report.freed_bytes)),
        ("versions deleted by retention", ", ".join(report.retired_versions) or 0),
        ("sets of files given up", report.manifests),
        ("files removed", report.blobs),
        ("stray files removed", f"{strays.count} ({size_of(strays.size_bytes)})"),
        (_MISSING, report.rows_without_blob.count),
        ("dead publications failed", report.failed_pending),
        ("half uploads swept", report.partial_uploads),
        ("upload sessions expired", report.expired_uploads),
        ("kept answers expired", report.keyed_requests),
    ]
