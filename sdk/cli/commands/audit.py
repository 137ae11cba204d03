"""`adapterctl audit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.completing.kinds import REF
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.dataset_names import ShownDatasets
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import take_moment
from sdk.cli.support.output import human_bytes
from sdk.cli.support.session import open_client

if TYPE_CHECKING:
    from sdk.client import Client
    from sdk.schemas.access import AuditView

_CHANGES = Listing(
    ListColumn("time", "at"),
    ListColumn("by", "actor", 6),
    # The name may have belonged to another token before.
    ListColumn("token", importance=1),
    ListColumn("action", importance=7),
    ListColumn("subject", importance=8),
    ListColumn("change", importance=5),
    *(ListColumn(name, importance=0) for name in ("namespace", "before", "after", "id")),
    key="id",
)


@click.command(name="audit")
@click.option("--actor", help="Only changes by the holder of this name.")
@click.option("--token", metavar="ID", help="Only changes with this token, whatever it is called.")
@click.option("--action", help="Only this action, or all actions of a kind: 'alias.*'.")
@click.option(
    "--subject",
    type=REF,
    metavar="NAME|REF",
    help="Only this subject; for an adapter, with all its versions and aliases.",
)
@click.option(
    "--namespace", help="Only this namespace; '-' for names without one, '*' for what belongs to no namespace."
)
@click.option(
    "--since", callback=take_moment, metavar="TIME", help="30m, 12h or 2d ago, or an ISO time; UTC if it has no zone."
)
@click.option("--until", callback=take_moment, metavar="TIME", help="Before this time, written as for --since.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many.")
@listed(_CHANGES)
def audit_command(style: str, **given: Any) -> None:
    """List who changed what in the namespaces that you administer, newest first.

    \b
    Examples:
      adapterctl audit --since 2d
      adapterctl audit --action 'alias.*' --subject code-review
      adapterctl audit --actor ci-review --since 2026-01-01 --format json
    """
    with open_client() as client:
        entries = client.audit(**given)
        names = _Names(client, entries) if style == "table" else None
    rows = [_row(entry, names) for entry in entries]
    _CHANGES.print(style, rows, documents=entries, empty="no change that you may see matches these filters")


class _Names:
    """The names that datasets and bases have now, whose entries have digests."""

    def __init__(self, client: Client, entries: Sequence[AuditView]) -> None:
        of_datasets = {entry.subject for entry in entries if entry.action.startswith("dataset.")}
        self._datasets = ShownDatasets(client, of_datasets)
        fingerprints = {entry.subject for entry in entries if entry.action.startswith("base.")}
        fingerprints |= {base for entry in entries if (base := (entry.after or {}).get("base"))}
        self._bases = {base.fingerprint: base.id for base in client.bases()} if fingerprints else {}

    def subject_of(self, entry: AuditView) -> str:
        """What an entry is about, by name."""
        if entry.action.startswith("dataset."):
            return self._datasets.of(entry.subject) if _is_digest(entry.subject) else entry.subject
        return self._bases.get(entry.subject, entry.subject)

    def after(self, entry: AuditView) -> Mapping[str, Any] | None:
        """What an entry says is now so, with the base by name."""
        base = (entry.after or {}).get("base")
        known = self._bases.get(base) if isinstance(base, str) else None
        return entry.after if known is None else {**(entry.after or {}), "base": known}


def _row(entry: AuditView, names: _Names | None) -> dict[str, Any]:
    row = dict(entry)
    after = entry.after if names is None else names.after(entry)
    subject = entry.subject if names is None else names.subject_of(entry)
    return {**row, "subject": subject, "change": brief(entry.before, after)}


#: Keys of an entry that its row shows already, or that nobody looks for in a table.
_SAID = ("id", "created_by", "created_at", "revoked_at")
#: Keys of the most common changes: their values are clear without a name.
_PLAIN = ("number", "state", "ref", "name")


def brief(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """Return what changed in a few words, beginning with values that have a before and an after.

    >>> brief({"number": 1}, {"number": 2, "reason": "beats v1"})
    'v1→v2, reason beats v1'
    >>> brief(None, {"id": "9f86", "name": "ana", "grants": [{"namespace": "team", "role": "writer"}]})
    'ana, grants team=writer'
    """
    old, new = before or {}, after or {}
    said = []
    for key in sorted({**old, **new}, key=lambda key: (key not in old, key not in new)):
        was, now = _word(key, old.get(key)), _word(key, new.get(key))
        if was == now or key in _SAID:
            continue
        change = f"{was or '-'}→{now or '-'}" if key in old and key in new else now or was
        said.append(change if key in _PLAIN else f"{key.removeprefix('max_').replace('_', ' ')} {change}")
    return ", ".join(said) or "-"


def _word(key: str, value: Any) -> str:
    """Return a value in a word or two; "" if it is empty."""
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, Mapping):
        if set(value) == {"namespace", "role"}:
            return f"{value['namespace']}={value['role']}"
        return " ".join(f"{name}={_word(name, item)}" for name, item in value.items())
    if isinstance(value, list):
        return " ".join(_word(key, item) for item in value)
    if key == "number":
        return f"v{value}"
    if key.endswith("_bytes") and isinstance(value, int):
        return human_bytes(value)
    # Digests are shortened to the 12 digits that refs take.
    text = str(value)
    return text[:12] if _is_digest(text) else text


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
