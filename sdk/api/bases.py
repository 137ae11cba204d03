"""Bases: the models over which adapters are trained."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.transport import Transport, pages
from sdk.schemas.catalog import BaseFix, BaseRegistration, BaseSelector, BaseView

#: The registry reads the headers of uploaded files, which may be many.
_REGISTERING_S = 3600.0


def register(transport: Transport, registration: BaseRegistration) -> BaseView:
    """Register a base. Raises InvalidBase, NotAllowed, Conflict."""
    return transport.call("POST", "/bases", BaseView, body=registration, timeout_s=_REGISTERING_S)


def iterate(transport: Transport) -> Iterator[BaseView]:
    """Yield the bases that this client may use, newest first."""
    return pages(transport, "/bases", BaseView)


def get(
    transport: Transport,
    name: str,
    *,
    namespace: str | None = None,
    base_namespace: str | None = None,
    published: bool = False,
) -> BaseView:
    """Return the base that an id or a fingerprint names in a namespace, or in any.

    `base_namespace` and `published` say whose base is meant. Raises NotFound, InvalidInput for a name that means several.
    """
    params = {
        "name": name,
        "namespace": namespace,
        "base_namespace": base_namespace,
        "published": published or None,
    }
    return transport.call("GET", "/base", BaseView, params=params)


def remove(transport: Transport, selector: BaseSelector) -> None:
    """Remove a base from a namespace. Raises NotFound, NotAllowed."""
    transport.call("POST", "/base/remove", type(None), body=selector)


def fix(transport: Transport, change: BaseFix) -> BaseView:
    """Correct a namespace's entry for a base. Raises NotFound, NotAllowed, InvalidInput."""
    return transport.call("POST", "/base/fix", BaseView, body=change)
