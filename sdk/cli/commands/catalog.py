"""`adapterctl list`, `versions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sdk.cli.completing.kinds import ADAPTER
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.session import open_client

if TYPE_CHECKING:
    from sdk.schemas.catalog import VersionView


_ADAPTERS = Listing(
    ListColumn("adapter"),
    ListColumn("latest", lambda view: view.latest and view.latest.rpartition("@")[2], 8),
    ListColumn("kind", importance=6, usual="adapter"),
    ListColumn("versions", importance=7),
    ListColumn("base", importance=5),
    ListColumn("size", "size_bytes", 3),
    ListColumn("updated", "updated_at", 4),
    key="adapter",
)


@click.command(name="list")
@click.option("--namespace", metavar="NAME", help="Only this namespace; - for names without one.")
@click.option("--prefix", default="", metavar="TEXT", help="Only names that begin with this, namespace included.")
@listed(_ADAPTERS)
def list_command(namespace: str | None, prefix: str, style: str) -> None:
    """List the adapters that have a version.

    \b
    Examples:
      adapterctl list --format json
      adapterctl list --namespace team --prefix team/code-
    """
    with open_client() as client:
        views = list(client.adapters(namespace=namespace, prefix=prefix))
    filtered = namespace is not None or prefix
    empty = "no adapter matches these filters" if filtered else "no adapters yet; make one with: adapterctl train"
    _ADAPTERS.print(style, views, empty=empty)


_VERSIONS = Listing(
    ListColumn("ref"),
    ListColumn("state", importance=6, usual="ready"),
    ListColumn("aliases", importance=8),
    ListColumn("eval loss", "metrics.eval_loss", 7),
    ListColumn("loss", "metrics.loss", 2),
    ListColumn("rank", "lora.rank", 6),
    ListColumn("base", "base.id", 4),
    ListColumn("created", "created_at", 5),
    ListColumn("by", "created_by", 1),
    ListColumn("digest", importance=0),
    key="ref",
)


@click.command(name="versions")
@click.argument("name", type=ADAPTER)
@click.option("--archived", is_flag=True, help="Include archived ones.")
@listed(_VERSIONS)
def versions_command(name: str, archived: bool, style: str) -> None:
    """List the versions of the adapter NAME, newest first.

    \b
    Examples:
      adapterctl versions code-review
      adapterctl versions code-review --archived
    """
    with open_client() as client:
        views = [version.info for version in client.versions(name, archived=archived)]
    empty = "no version is left" if archived else "no version is ready; include archived ones with --archived"
    _VERSIONS.print(style, views, empty=empty, documents=map(_document, views))


def _document(view: VersionView) -> dict[str, Any]:
    sent = view.model_dump(mode="json")
    return {
        **{key: sent[key] for key in ("ref", "number", "digest", "state", "aliases", "created_at")},
        "base": view.base.id,
        "rank": view.lora.rank,
        "eval_loss": view.metrics.get("eval_loss"),
    }
