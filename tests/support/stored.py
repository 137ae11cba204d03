"""What is in a storage, by digest: each upload of a blob has a name of its own."""

from __future__ import annotations

from registry.storage import Storage


def names_of(storage: Storage, sha256: str) -> list[str]:
    """Return the names of all copies of a blob."""
    return [name for name in storage.list() if name.startswith(sha256)]


def lose(storage: Storage, sha256: str) -> None:
    """Remove every copy of a blob, as a fault of the store would."""
    for name in names_of(storage, sha256):
        storage.delete(name)
