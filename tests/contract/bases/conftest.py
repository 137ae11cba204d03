"""Fixtures of these tests. Bases between tenants: what is derived is one truth, names and files belong to a namespace,
nobody replaces another's.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.bases.helpers import Tenant
from support.registries import World

from registry.principal import LOCAL, Role
from sdk.client import Client


@pytest.fixture
def join(people: World, tmp_path: Path) -> Iterator[Callable[..., Tenant]]:
    """Return a function that lets somebody in, with a role in a new namespace."""
    opened: list[Client] = []

    def let_in(space: str = "", role: Role = Role.WRITER, **more: Role) -> Tenant:
        space = space or f"team-{uuid.uuid4().hex[:12]}"
        name = f"ci-{uuid.uuid4().hex[:8]}"
        token = people.services.tokens.create(name=name, grants={space: role, **more}, who=LOCAL)
        opened.append(Client(people.url, token.secret, cache=tmp_path / f"cache-{name}"))
        return Tenant(opened[-1], space, tmp_path / name)

    yield let_in
    for client in opened:
        client.close()
