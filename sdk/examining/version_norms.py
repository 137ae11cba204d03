"""The norm of ΔW of each module of a version, as the registry computed it from the bytes."""

from __future__ import annotations

from sdk.api import versions
from sdk.api.transport import Transport
from sdk.names import parse_ref
from sdk.schemas.probe import VersionNorms


def norms_of(transport: Transport, ref: str) -> VersionNorms | None:
    """Return the norms of the version that a ref names now; None if the registry doesn't have any. Raises InvalidName,
    InvalidRef, NotFound.
    """
    found = versions.norms(transport, str(parse_ref(ref)))
    return None if found.norms is None else found
