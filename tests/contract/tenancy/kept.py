"""What a tenant does with versions and aliases."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.tenancy.answers import fetched, plain
from contract.tenancy.child import files_of

from sdk.client import Client
from sdk.schemas.aliases import AliasMove, AliasView

if TYPE_CHECKING:
    from contract.tenancy.party import Party


class Kept:
    """Versions and aliases of a tenant."""

    def __init__(self, party: Party) -> None:
        self._party = party

    def push(self, payload: int, adapter: str, base: str) -> Any:
        """Publish an adapter."""
        named = self._party.universe.bases[int(base[-1])] if base.startswith("folder:") else self._party.base(base)
        pushed = self._party.ci.versions.push(
            self._party.universe.payloads[payload], self._party.name(adapter), base=named
        )
        return {"version": plain(pushed.version), "existing": pushed.existing}

    def get(self, ref: str) -> Any:
        """What a ref names."""
        return self._party.ci.get(self._party.name(ref)).as_dict()

    def pull(self, ref: str) -> Any:
        """The files that a ref names, with nothing of them at hand."""
        with tempfile.TemporaryDirectory(dir=self._party.world.folder) as folder:
            client = Client(self._party.world.url, self._party.ci.config.token, cache=Path(folder) / "cache")
            try:
                return files_of(client.pull(self._party.name(ref), Path(folder) / "pulled"))
            finally:
                client.close()

    def manifest_files(self, payload: int) -> Any:
        """The files under the digest of a version's manifest."""
        return fetched(self._party.ci.versions.locate(self._party.package(payload, 0)[0].digest))

    def adapters(self) -> Any:
        """All adapters."""
        return plain(self._party.ci.adapters())

    def versions(self, adapter: str) -> Any:
        """All versions of one, archived ones too."""
        return [version.as_dict() for version in self._party.ci.versions(self._party.name(adapter), archived=True)]

    def search(self, filter: str) -> Any:  # noqa: A002
        """What a filter finds."""
        return plain([version.brief for version in self._party.ci.search(filter)])

    def lineage(self, of: str) -> Any:
        """Where something came from, and what came of it."""
        kind = of.partition(":")[0]
        named = {"data": self._party.data, "base": self._party.base}.get(kind)
        named_so = self._party.name(of) if named is None else f"{kind}:{named(of.partition(':')[2])}"
        return plain(self._party.ci.lineage(named_so))

    def diff(self, a: str, b: str) -> Any:
        """How two versions differ."""
        return plain(self._party.ci.diff(self._party.name(a), self._party.name(b)))

    def move(self, verb: str, ref: str) -> Any:
        """Archive, restore or delete a version."""
        return plain(getattr(self._party.boss.versions, verb)(self._party.name(ref)).info)

    def annotate(self, ref: str, note: str) -> Any:
        """Write to a version."""
        return plain(self._party.ci.versions.annotate(self._party.name(ref), note=note).info)

    def alias_set(self, adapter: str, alias: str, number: int, expect: int | None) -> Any:
        """Move an alias."""
        body = AliasMove(adapter=self._party.name(adapter), alias=alias, number=number, expect=expect)
        return plain(self._party.ci.call("PUT", "/aliases", AliasView, body=body))

    def alias_rollback(self, adapter: str, alias: str) -> Any:
        """Move it back."""
        return plain(self._party.ci.rollback(self._party.name(adapter), alias))

    def alias_remove(self, adapter: str, alias: str) -> Any:
        """Take it away."""
        self._party.ci.aliases.remove(self._party.name(adapter), alias)

    def alias_protect(self, adapter: str, alias: str) -> Any:
        """Let only promoters move it."""
        return plain(self._party.boss.aliases.protect(self._party.name(adapter), alias))

    def alias_history(self, adapter: str) -> Any:
        """All moves."""
        return plain(self._party.ci.aliases.history(self._party.name(adapter)))
