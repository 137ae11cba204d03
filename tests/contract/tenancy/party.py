"""A tenant: a namespace, tokens for it, and everything that can be done with them.

A step of a history is a method here or of one of the rooms beside this one. It takes names, as histories have them, and
returns what the registry answered as plain values. Names say whose a thing is: `mine/a@v1`, `theirs:0`; a thing that isn't
there is asked for all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contract.tenancy.answers import plain
from contract.tenancy.child import Notes
from contract.tenancy.kept import Kept
from contract.tenancy.sent import Sent
from contract.tenancy.universe import Universe
from contract.tenancy.worked import Worked
from support.adapters import digest as digest_of_text
from support.registries import World

from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.pushing.pack import pack_adapter
from sdk.schemas.catalog import Publication
from sdk.schemas.job_requests import BaseChoice
from sdk.schemas.manifest import Manifest

#: Ids that nothing has, for who names what is not there.
NOBODYS = {
    "jobs": digest_of_text("job")[:12],
    "tokens": digest_of_text("token")[:16],
    "uploads": digest_of_text("upload")[:32],
}
#: What a party remembers the ids of.
KEPT = tuple(NOBODYS)


class Party:
    """One tenant in one run."""

    #: Who else there is; a name of theirs is a name that anybody may guess.
    other: Party | None = None
    #: Whether its own workers hand in other scores than they found.
    lies = False

    def __init__(self, name: str, other_space: str, world: World, universe: Universe, folder: Path) -> None:
        self.space = name
        self._other_space = other_space
        self.world = world
        self.universe = universe
        self.folder = folder / name
        self._opened: list[Client] = []
        self.tokens: list[str] = []
        self.jobs: list[str] = []
        self.uploads: list[str] = []
        self.notes = Notes()
        # Both tenants name their tokens alike.
        self.ci = self._enter("ci", Role.WRITER)
        self.boss = self._enter("boss", Role.ADMIN)
        self.gpu = self._enter("gpu", Role.WORKER)
        self._rooms = (Sent(self), Kept(self), Worked(self), self)

    def _enter(self, name: str, role: Role) -> Client:
        made = self.world.services.tokens.create(name=name, grants={self.space: role}, who=SYSTEM)
        self.tokens.append(made.id)
        self._opened.append(Client(self.world.url, made.secret, cache=self.folder / "cache"))
        return self._opened[-1]

    def do(self, what: str, **args: Any) -> Any:
        """Do one step; return what was answered."""
        room = next(room for room in self._rooms if hasattr(room, what))
        return getattr(room, what)(**args)

    def close(self) -> None:
        """Close every connection."""
        for client in self._opened:
            client.close()

    # Names.

    def space_of(self, whose: str) -> str:
        """The namespace of this tenant, or of the other one."""
        return self.space if whose == "mine" else self._other_space

    def name(self, name: str) -> str:
        """`mine/a`, with or without a selector, as the registry has it; payload:N stands for that version's digest."""
        whose, _, rest = name.partition("/")
        adapter, at, selector = rest.partition("@")
        if selector.startswith("payload:"):
            selector = f"sha256:{self.package(int(selector.partition(':')[2]), 0)[0].digest}"
        return f"{self.space_of(whose)}/{adapter}{at}{selector}"

    def of(self, named: str, kept: str) -> str:
        """`mine:0` or `theirs:1` among what is kept under a name: jobs, uploads, tokens."""
        whose, _, number = named.partition(":")
        who = self if whose == "mine" else self.other
        found: list[str] = [] if who is None else getattr(who, kept)
        return found[int(number) % len(found)] if found else NOBODYS[kept]

    def data(self, named: str) -> str:
        """Rows by name, or by their digest, or its first digits."""
        kind, _, rest = named.partition(":")
        if kind == "name":
            return rest
        digest = self.universe.data_digests[int(rest)]
        return digest if kind == "digest" else digest[:16]

    def base(self, named: str) -> str:
        """A base by its id, or by its fingerprint, or its first digits."""
        kind, _, rest = named.partition(":")
        if kind == "id":
            return rest
        fingerprint = self.universe.scans[int(rest)].registration.fingerprint
        return fingerprint if kind == "fingerprint" else fingerprint[:16]

    def choice(self, named: str) -> BaseChoice:
        """A base as a request names it: by an id alone, or by its fingerprint under whatever id."""
        kind, _, rest = named.partition(":")
        if kind == "id":
            return BaseChoice(id=rest)
        return BaseChoice(id="any", fingerprint=self.universe.scans[int(rest)].registration.fingerprint)

    def package(self, payload: int, base: int) -> tuple[Manifest, Publication, Mapping[str, Path]]:
        """An adapter as it is pushed over a base, and the files that it is made of."""
        described = self.universe.scans[base].registration
        staging = self.folder / f"staging-{payload}-{base}"
        staging.mkdir(parents=True, exist_ok=True)
        package = pack_adapter(
            self.universe.payloads[payload],
            base_id=described.id,
            base_revision=None,
            base_fingerprint=described.fingerprint,
            staging=staging,
        )
        publication = Publication(adapter=f"{self.space}/a", manifest=package.manifest, lora=package.lora)
        return package.manifest, publication, package.sources

    # People.

    def token_create(self, name: str, role: str) -> Any:
        """Make a token for this namespace."""
        made = self.boss.tokens.create(name, {self.space: role})
        self.tokens.append(made.id)
        return plain(made)

    def token_list(self) -> Any:
        """The tokens of this namespace."""
        return plain(self.boss.tokens())

    def token_revoke(self, token: str) -> Any:
        """Make a token worthless, but not those that the history needs."""
        named = self.of(token, "tokens")
        return None if named in self.tokens[:3] else plain(self.boss.tokens.revoke(named))

    def audit(self) -> Any:
        """What was done in this namespace."""
        return plain(self.boss.audit(limit=500))

    def quota(self, whose: str) -> Any:
        """What a namespace uses."""
        return plain(self.boss.quotas.get(self.space_of(whose)))

    def whoami(self) -> Any:
        """Who this is."""
        return plain(self.ci.tokens.whoami())
