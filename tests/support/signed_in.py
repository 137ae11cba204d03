"""Pages without a browser: a client that has signed in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from registry.principal import Role
from support.registries import World


@contextmanager
def signed_in(world: World, role: Role = Role.READER, *, namespace: str = "*") -> Iterator[httpx.Client]:
    """Sign in with a new token."""
    with httpx.Client(base_url=world.url, headers={"Origin": world.url}, timeout=30) as client:
        answer = client.post("/ui/sign-in", data={"token": world.token(role, namespace=namespace)})
        assert answer.status_code == 303, answer.text
        yield client


def without_csrf(page: str) -> str:
    """Return a page without what its forms hold, which is another text each time."""
    return re.sub(r'name="csrf" value="[^"]*"', "", page)
