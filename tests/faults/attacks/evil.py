"""The namespace `evil`, whose people attack, and what an attack is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from support.merging_desk import MergingDesk
from support.people import SEEDS
from support.wire import Served

from registry.access.tokens import Tokens
from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import DatasetRegistration, DatasetView

SPACE = "evil"
#: Sends one request, of which this is the number, and takes its answer.
Send = Callable[[httpx.Client, int], httpx.Response]


@dataclass(frozen=True)
class Attack:
    """What somebody of `evil` sends."""

    #: Whose token sends it.
    role: Role
    #: Puts there what the attack needs, as far as a registry takes it, and returns what sends it.
    prepare: Callable[[Evil], Send]
    #: The statuses that its answers may have.
    statuses: frozenset[int]


def always(method: str, path: str, *bodies: Any, **given: Any) -> Send:
    """Sends one of these bodies after the other."""

    def send(http: httpx.Client, number: int) -> httpx.Response:
        return http.request(method, f"/api/v1{path}", json=bodies[number % len(bodies)], **given)

    return send


def asking(*asked: tuple[str, Mapping[str, Any]]) -> Send:
    """Gets one of these paths after the other, each with its query."""

    def send(http: httpx.Client, number: int) -> httpx.Response:
        path, query = asked[number % len(asked)]
        return http.get(f"/api/v1{path}", params=query)

    return send


@dataclass
class Evil:
    """A namespace with a base, and somebody of every role."""

    served: Served
    folder: Path
    desk: MergingDesk
    tokens: Mapping[Role, str]
    #: By name: what several attacks need is made once.
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def client(self) -> Client:
        """A writer."""
        return self.desk.writer

    def path(self, ending: str = "") -> Path:
        """A path at which nothing is."""
        return self.folder / f"{next(SEEDS)}{ending}"

    def rows(self) -> str:
        """Register harmless rows once; return their digest."""
        if "rows" not in self.made:
            path = self.path(".jsonl")
            path.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
            self.made["rows"] = self.client.datasets.add(path, namespace=SPACE).digest
        return self.made["rows"]

    def register(self, path: Path, form: str, rows: int) -> str:
        """Register a file of rows that the SDK would refuse; return its digest."""
        sha256, size_bytes = hash_file(path)
        upload = self.client.uploader.upload({sha256: path}, "sending", SPACE)
        said = {"digest": sha256, "size_bytes": size_bytes, "format": form, "rows": rows, "shape": "prompt-completion"}
        body = DatasetRegistration.model_validate({**said, "namespace": SPACE, "upload": upload})
        return self.client.call("POST", "/datasets", DatasetView, body=body).digest


@contextmanager
def evil_in(served: Served, folder: Path) -> Iterator[Evil]:
    """Open the namespace in a registry that is served."""
    folder.mkdir()
    made = Tokens(served.database)
    tokens = {
        role: made.create(name=f"{SPACE} {role}", grants={SPACE: role}, who=SYSTEM).secret
        for role in (Role.READER, Role.WRITER, Role.WORKER)
    }
    with ExitStack() as stack:

        def client(role: Role) -> Client:
            opened = Client(served.url, tokens[role], cache=folder / "cache")
            stack.callback(opened.close)
            return opened

        desk = MergingDesk.open(client(Role.WRITER), client(Role.WORKER), SPACE, folder)
        yield Evil(served, folder, desk, tokens)
