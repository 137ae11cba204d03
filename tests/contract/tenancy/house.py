"""The house that two tenants live in: one registry, its admin, and a worker that takes the jobs of both."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from contract.tenancy.auditor import Auditor
from contract.tenancy.history import ADMIN, ATTACKER, VICTIM, Step, closing
from contract.tenancy.party import KEPT, NOBODYS, Party
from contract.tenancy.transcript import Transcript
from contract.tenancy.universe import Universe
from contract.tenancy.worked import work_off
from support import registries
from support.crawling import SILENT, crawl
from support.migrated import migrated_file
from support.page_readers import signed_in
from support.registries import World

from registry.jobs.workers import QUEUES
from registry.principal import Role
from sdk.errors import AdapterctlError

#: Whether both are there or one, their namespaces are called so.
_SPACES = {VICTIM: "team", ATTACKER: "rival"}

#: How many pages are read of each form of address.
_PAGES_OF_EACH = 3
#: What pages show of the queues that all namespaces share, and of how often a worker says how far it is: as LEFT_OUT has it.
_OF_ALL = frozenset({"#waits", "#log", *(f"#queue-{queue}" for queue in QUEUES)})


class House:
    """One run: who is in it, and what they were answered."""

    def __init__(self, world: World, universe: Universe, *, with_attacker: bool) -> None:
        self._world = world
        self._universe = universe
        self.victim = Party(_SPACES[VICTIM], _SPACES[ATTACKER], world, universe, world.folder)
        self._parties = {VICTIM: self.victim}
        if with_attacker:
            attacker = Party(_SPACES[ATTACKER], _SPACES[VICTIM], world, universe, world.folder)
            self._parties[ATTACKER] = attacker
            attacker.other, self.victim.other = self.victim, attacker
            attacker.lies = True
            # One node's worker takes jobs of both: whoever's child reads it, it is noted in one place.
            attacker.notes = self.victim.notes
        self._admin = world.client(Role.ADMIN)
        self._worker = world.client(Role.WORKER)
        self._auditor = Auditor(world, _SPACES[VICTIM], _SPACES[ATTACKER])
        self.transcript = Transcript(universe.digests, self._name_of)

    def _name_of(self, digits: str) -> str | None:
        """What an id is called whether the attacker is there or not."""
        for kind in KEPT:
            if digits in (found := getattr(self.victim, kind)):
                return f"{kind} {found.index(digits)}"
            if digits in (NOBODYS[kind], *(getattr(self.victim.other, kind) if self.victim.other else ())):
                return f"{kind} of the other"
        return None

    def close(self) -> None:
        """Close every connection."""
        for client in (self._admin, self._worker, self._auditor, *self._parties.values()):
            client.close()

    def play(self, history: Sequence[Step], *, with_pages: bool) -> Transcript:
        """Do what a history says, then ask the victim for all that it can be told, and a reader of both for its scores; and
        have the victim read pages.
        """
        for step in history:
            if step.who == ADMIN:
                self._administer(step.what, **dict(step.args))
            elif step.who in self._parties:
                answer = self._do(step)
                if step.who == VICTIM:
                    self.transcript.add(f"{len(self.transcript.answers) + 1}. {step}", answer)
        for step in closing(len(self.victim.jobs)):
            self.transcript.add(f"at the end: {step}", self._do(step))
        for number, job in enumerate(self.victim.jobs):
            self.transcript.add(f"what the worker read for job {number}", self.victim.notes.of(job))
        for asked, answer in self._auditor.ask(self._universe.data_digests):
            self.transcript.add(f"a reader of both asks for {asked}", answer)
        if with_pages:
            self._read_pages()
        return self.transcript

    def _read_pages(self) -> None:
        """Read pages of each form that the victim's admin can come to."""
        secret = self.victim.boss.config.token
        assert secret is not None
        with signed_in(self._world.url, secret) as client:
            for page in crawl(client, of_each=_PAGES_OF_EACH, silent=SILENT | _OF_ALL):
                self.transcript.add_page(page.path, [str(page.status), *page.text, *page.places])

    def _do(self, step: Step) -> Any:
        try:
            return {"answer": self._parties[step.who].do(step.what, **dict(step.args))}
        except AdapterctlError as error:
            return {"refused": error.code.value, "message": error.message, "param": error.param}

    def _administer(self, what: str, **args: Any) -> None:
        if what == "work":
            work_off("house", self._worker, self._world.folder / "node", self._world, self._universe, self.victim.notes)
        elif what == "gc":
            self._admin.retention.gc(dry_run=False, grace_hours=0)
        else:
            with self._universe.on_a_laptop(args["base"]) as folder:
                self._admin.bases.add(folder, id="house", upload=True)


@contextmanager
def house(folder: Path, universe: Universe, *, empty: Path, with_attacker: bool) -> Iterator[House]:
    """A new registry over SQLite, begun as a copy of `empty`, and a folder; both are gone afterwards."""
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(empty, folder / "registry.sqlite3")
        world = stack.enter_context(registries.served(folder, lease_s=3600.0))
        made = House(world, universe, with_attacker=with_attacker)
        stack.callback(made.close)
        yield made


def empty_database(path: Path) -> Path:
    """Make a database with the schema and nothing in it."""
    migrated_file(path)
    return path
